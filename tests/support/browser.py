"""Somebody with a browser: keeps cookies, signs in with a form, or sends a name and password as Flower wants them."""

from __future__ import annotations

import base64
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar

from tests.support.api_client import Answer


class Browser:
    """Asks one site; an answer that is an error is an answer."""

    def __init__(self, url: str, login: str = "", *, trust: ssl.SSLContext | None = None) -> None:
        self.url = url
        self._headers = {"Referer": url}
        if login:
            self._headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        self.cookies = CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(self.cookies), urllib.request.HTTPSHandler(context=trust)
        )

    def get(self, path: str) -> Answer:
        return self._ask(path, None)

    def post(self, path: str, **fields: str) -> Answer:
        return self._ask(path, urllib.parse.urlencode(fields).encode())

    def sign_in(self, user: str, password: str) -> Answer:
        """Fill in the form; returns the page that it leads to."""
        form = self.get("/login/").body.decode()
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form)
        assert found, form
        return self.post(
            "/login/", username=user, password=password, csrfmiddlewaretoken=found.group(1), next="/"
        )

    def _ask(self, path: str, data: bytes | None) -> Answer:
        asked = urllib.request.Request(f"{self.url}{path}", data=data, headers=self._headers)
        try:
            with self._opener.open(asked, timeout=10) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read())
