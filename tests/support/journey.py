"""What people do with an installation: over HTTP with a token, in a browser, and by the command line in a container.

The same journey is made through every kind of installation: a class of it there gives `stack`, a `Reached`.
"""

from __future__ import annotations

import io
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import openpyxl
import pypdf
import pytest
from PIL import Image

from tests.support.api_client import ApiClient
from tests.support.browser import Browser
from tests.support.forks import ROOT
from tests.support.remote_stack import RemoteStack
from tests.support.waiting import until

ENDED = ("succeeded", "failed", "dead", "cancelled", "expired")
#: A job type with a schedule of a second.
TICK = "ticking_jobs.tick"
COFFEE = ROOT / "jobs" / "images" / "samples" / "coffee.jpg"


def submit(api: ApiClient, type_name: str, /, **params: Any) -> str:
    answer = api.request("/api/v1/jobs", {"type": type_name, "params": params})
    assert answer.status == 202, answer.body
    return str(answer.json()["id"])


def job(api: ApiClient, one: str) -> dict[str, Any]:
    return dict(api.request(f"/api/v1/jobs/{one}").json())


def ended(api: ApiClient, one: str) -> dict[str, Any]:
    """Wait until a job has ended."""
    return until(lambda: (found := job(api, one))["state"] in ENDED and found, f"{one} has ended", every=0.2)  # type: ignore[return-value]


def done(api: ApiClient, one: str) -> dict[str, Any]:
    found = ended(api, one)
    assert found["state"] == "succeeded", found
    return found


def download(api: ApiClient, one: str, name: str) -> io.BytesIO:
    answer = api.request(f"/api/v1/jobs/{one}/files/{name}", timeout=30)
    assert answer.status == 200, answer.body
    return io.BytesIO(answer.body)


def job_in(said: str) -> str:
    """Return the id of the job whose success the command line shows."""
    (one,) = re.findall(r"^\S+ +succeeded +([0-9a-f-]{36})$", said, re.MULTILINE)
    return str(one)


def thumbnails_in(folder: Path) -> int:
    """Count the pictures in a folder that were made of another one."""
    return len(list(folder.glob("*-*.webp")))


def upload(api: ApiClient) -> str:
    """Upload the sample picture as a form does."""
    edge = "edge-of-a-part"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{COFFEE.name}"\r\n\r\n'
    asked = urllib.request.Request(
        f"{api.url}/api/v1/files",
        data=head.encode() + COFFEE.read_bytes() + f"\r\n--{edge}--\r\n".encode(),
        headers={
            "Authorization": f"Bearer {api.token}",
            "Content-Type": f"multipart/form-data; boundary={edge}",
        },
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return str(json.load(answer)["id"])


class Journey:
    """Submit, look, fetch, cancel, retry."""

    @pytest.fixture(scope="class")
    @classmethod
    def api(cls, stack: RemoteStack) -> ApiClient:
        return stack.api()

    def test_a_mail_arrives(self, stack: RemoteStack, api: ApiClient) -> None:
        one = submit(api, "email.send", to=["ana@example.com"], subject="Hello from a container", text="Olá")

        assert done(api, one)["result"] == {"accepted": 1, "refused": {}}
        box = stack.execute("mail", "sh", "-c", "cat /mail/new/*")
        assert "Subject: Hello from a container" in box
        assert "X-RcptTo: ana@example.com" in box or "To: ana@example.com" in box

    def test_thumbnails_of_an_uploaded_picture_are_pictures(self, api: ApiClient) -> None:
        one = submit(api, "images.thumbnails", picture=upload(api), sizes=[64, 128])

        done(api, one)
        files = api.request(f"/api/v1/jobs/{one}/files").json()["items"]
        assert sorted(file["name"] for file in files) == ["coffee-128.webp", "coffee-64.webp"]
        for name, side in (("coffee-64.webp", 64), ("coffee-128.webp", 128)):
            with Image.open(download(api, one, name)) as picture:
                picture.load()
                assert (picture.format, max(picture.size)) == ("WEBP", side)

    def test_a_report_can_be_opened(self, api: ApiClient) -> None:
        one = submit(api, "reports.job_history", formats=["pdf", "xlsx"])

        pdf, xlsx = done(api, one)["result"]["files"]
        pages = pypdf.PdfReader(download(api, one, pdf)).pages
        assert "reports.job_history" in "".join(page.extract_text() for page in pages)
        book = openpyxl.load_workbook(download(api, one, xlsx))
        assert any(row for sheet in book for row in sheet.iter_rows(values_only=True) if one in row)

    def test_a_schedule_fires(self, stack: RemoteStack, api: ApiClient) -> None:
        def succeeded() -> set[str]:
            items = api.request(f"/api/v1/jobs?type={TICK}&state=succeeded").json()["items"]
            assert all(item["schedule"] == TICK for item in items)
            return {item["id"] for item in items}

        before = succeeded()
        until(lambda: len(succeeded() - before) >= 2, "two more ticks have run", every=0.2)

    def test_a_running_job_can_be_cancelled(self, api: ApiClient) -> None:
        one = submit(api, "demo.slow", seconds=600)
        until(lambda: job(api, one)["state"] == "running", "the job runs", every=0.1)

        assert api.request(f"/api/v1/jobs/{one}/cancel", {}).status == 202

        assert ended(api, one)["state"] == "cancelled"

    def test_a_job_is_tried_again_by_itself_and_a_failed_one_by_hand(self, api: ApiClient) -> None:
        flaky = submit(api, "demo.flaky", failures=1)
        failing = submit(api, "demo.failing", reason="It is closed.")

        found = ended(api, failing)
        assert (found["state"], found["error"]["message"]) == ("failed", "It is closed.")
        assert api.request(f"/api/v1/jobs/{failing}/retry", {}).status == 202

        until(lambda: ended(api, failing)["attempt"] == 2, "the failed job ran again", every=0.2)
        assert (done(api, flaky)["tries"], job(api, flaky)["attempt"]) == (2, 2)

    def test_the_pages_answer_who_signs_in_and_nobody_else(self, stack: RemoteStack, api: ApiClient) -> None:
        one = submit(api, "demo.greet", name="Ana")
        done(api, one)
        browser, stranger = Browser(stack.web_url), Browser(stack.web_url)

        page = browser.sign_in("admin", stack.admin_password())
        pages = {path: browser.get(path) for path in ("/", f"/jobs/{one}/", "/admin/")}

        assert page.status == 200 and "demo.greet" in page.body.decode()
        assert {path: answer.status for path, answer in pages.items()} == dict.fromkeys(pages, 200)
        assert "Hello Ana" in pages[f"/jobs/{one}/"].body.decode()
        assert stranger.sign_in("admin", "not the password").status == 200
        assert "demo.greet" not in stranger.get("/").body.decode()

    def test_the_command_line_in_a_container_lists_jobs(self, stack: RemoteStack, api: ApiClient) -> None:
        one = submit(api, "demo.greet")
        done(api, one)

        lines = stack.manage("jobs", "list", "--type", "demo.greet", "--json").splitlines()

        assert one in {json.loads(line)["id"] for line in lines}
        assert "demo.greet" in stack.manage("jobs", "list", "--type", "demo.greet")

    def test_static_files_and_styles_come_with_the_pages(self, stack: RemoteStack) -> None:
        browser = Browser(stack.web_url)

        page = browser.get("/login/").body.decode()
        (sheet, *_) = [
            part.split('"')[0] for part in page.split('href="')[1:] if ".css" in part.split('"')[0]
        ]

        assert browser.get(sheet).status == 200
