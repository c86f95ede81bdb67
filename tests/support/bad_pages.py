"""Addresses of pages and of the admin that are wrong, and forms, each with the statuses that it may have."""

from __future__ import annotations

from tests.support.bad_requests import NOBODY

_ADMIN = "/admin/esteira/job/"
#: Pages, with the statuses that each may have; a page is HTML, and says what is wrong.
PAGES: list[tuple[str, set[int]]] = [
    *[
        (f"/?{query}", {422})
        for query in (
            "type=%00",
            "queue=%00",
            "state=%00",
            "cursor=%00",
            "type=%FF",
            "type=%ED%A0%80",
            "state=bad",
            "state=,",
            "state=queued,dead,",
            "state=%20",
            "state=QUEUED",
            "type=%20",
            "queue=%09",
            "state=bad&state=queued",
            "type=a&type=b",
            "cursor=zzz",
            "x=%FF",
        )
    ],
    *[
        (path, {404})
        for path in (
            "/jobs/%00/",
            "/jobs/abc/",
            f"/jobs/{NOBODY}/",
            "/problems/%00",
            "/problems/no-such",
            "/%00",
            "/%FF",
            "/nothing",
        )
    ],
    *[
        (f"{_ADMIN}?{query}", {422})
        for query in (
            "q=%00",
            "q=%FF",
            "type=%00",
            "queue=%00",
            "state=%00",
            "created_at__gte=%00",
            "o=%00",
            "p=%FF",
            "id__exact=%00",
            "_facets=%00",
        )
    ],
    *[
        (f"{_ADMIN}?{query}", {400})
        for query in (
            *("p=-1", "p=0", "p=x", "p=", "p=1_0", "p=+1", "p=%201", "p=1.0", "p=%D9%A1", "p=" + "9" * 400),
            *("o=x", "o=1_0", "o=+1", "o=%201", "o=%D9%A1", "o=1..2", "o=--1"),
            *(
                "state=",
                "state=,",
                "state=bogus",
                "state=queued,dead",
                "state=QUEUED",
                "state=bad&state=queued",
            ),
            *(
                "type=",
                "queue=",
                "created_at__gte=",
                "created_at__lt=",
                "created_at__gte=x",
                "created_at__gte=5",
            ),
            *("id__exact=x", "created_at__year=2026", "type=a&type=b", "state="),
        )
    ],
    *[
        (f"/admin/{path}/?{query}", {400})
        for path, query in (
            ("esteira/schedule", "enabled__exact=bogus"),
            ("esteira/schedule", "enabled__exact="),
            ("esteira/schedule", "enabled__exact=1&enabled__exact=x"),
            ("esteira/schedule", "origin=bogus"),
            ("esteira/schedule", "origin="),
            ("esteira/schedule", "p=1_0"),
            ("esteira/schedule", "o=1_0"),
            ("esteira/queue", "p=x"),
            ("esteira/worker", "p=x"),
            ("esteira_web/apitoken", "role__exact=bogus"),
            ("esteira_web/apitoken", "role__exact="),
            ("auth/user", "is_staff__exact=2"),
            ("auth/user", "groups__id__exact=1_0"),
            ("auth/user", "groups__id__exact=x"),
            ("auth/user", "p=1_0"),
            ("auth/group", "o=+1"),
        )
    ],
    *[(f"{_ADMIN}?{query}", {200}) for query in ("p=1", "p=9", "o=9.9", "o=", "o=-1.2", "state=dead", "q=")],
    *[
        (f"/admin/{path}/?{query}", {200})
        for path, query in (
            ("esteira/schedule", "enabled__exact=1"),
            ("esteira/schedule", "enabled__exact=0&o=-1.2&p=7"),
            ("esteira_web/apitoken", "role__exact=viewer"),
            ("auth/user", "is_staff__exact=1&is_active__exact=0&all="),
        )
    ],
    *[(f"{_ADMIN}{one}/change/", {302, 404}) for one in ("%00", "_00", "%FF", NOBODY, "x" * 3000)],
    ("/login/?next=%00", {422}),
    ("/login/?next=%FF", {422}),
    ("/admin/login/?next=%00", {422}),
]
#: Forms, each with what is posted; none may do anything but say what is wrong, or lead back.
FORMS: list[tuple[str, bytes, set[int]]] = [
    ("/login/", b"username=a%00b&password=x", {200}),
    ("/login/", b"username=%FF&password=%FF", {200}),
    ("/login/", b"username=" + b"x" * 10_000 + b"&password=x", {200}),
    ("/admin/login/", b"username=a%00b&password=a%00b", {200}),
    *[
        (f"/admin/{where}/", f"action={action}&post=yes&_selected_action={chosen}".encode(), {400})
        for where, action, some in (
            ("esteira/job", "cancel", ["%00", "abc", "9" * 50]),
            ("esteira/queue", "pause", ["%00", "a%00"]),
            ("esteira/schedule", "enable", ["%00", "abc", "1.5", "1_0", "%2B1", "%201", "%D9%A1"]),
            ("esteira_web/apitoken", "delete_selected", ["%00", "abc"]),
            ("auth/user", "delete_selected", ["%00", "abc"]),
            ("auth/group", "delete_selected", ["%00", "abc"]),
        )
        for chosen in some
    ],
    ("/admin/esteira/schedule/", b"action=enable&_selected_action=" + b"9" * 50, {200, 302}),
    (_ADMIN, b"action=%00&_selected_action=" + NOBODY.encode(), {200, 302}),
    ("/admin/esteira/queue/add/", b"name=%00&reason=%00", {200}),
    ("/admin/esteira/schedule/add/", b"name=%00&type=demo.greet&params=%00", {200}),
    (f"/jobs/{NOBODY}/cancel/", b"force=%00", {404}),
    (f"/jobs/{NOBODY}/retry/", b"x=%00", {404}),
    ("/admin/password_change/", b"old_password=%00&new_password1=%00&new_password2=%00", {200}),
]
