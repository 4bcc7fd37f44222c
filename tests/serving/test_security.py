"""The guard before everything: names of this service, pages of others, keys, limits, headers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from mondrian.serving.http import security
from mondrian.serving.http.security import (
    COOKIE,
    SECURITY_HEADERS,
    SecurityMiddleware,
    session_token,
)

SECRET = "a-key-of-more-than-16-characters"
HERE = "http://127.0.0.1:5100"


def guarded(**rules: Any) -> TestClient:
    """A client of one route behind a Guard of such rules."""

    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse((await request.body()).decode())

    paths = ("/jobs", "/health", "/login", "/static/app.js")
    app = Starlette(routes=[Route(p, answer, methods=["GET", "POST", "DELETE"]) for p in paths])
    whole: dict[str, Any] = {"key": "", "origins": (), "hosts": (), "each": 0, **rules}
    return TestClient(SecurityMiddleware(app, **whole), base_url=HERE)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:5100", 200),
        ("localhost:5100", 200),
        ("[::1]:5100", 200),
        ("192.168.1.20", 200),
        ("studio.local", 200),
        ("STUDIO.LOCAL:5100", 200),
        ("evil.example", 400),
        ("", 400),
        ("[", 400),
        ("127.0.0.1.evil.example", 400),
        ("localhost.evil.example", 400),
        ("studio.local.evil", 400),
    ],
)
def test_a_foreign_name_that_leads_here_is_refused(host: str, status: int) -> None:
    """DNS rebinding: a page's own name that now stands for this machine."""
    told = guarded(hosts=["studio.local"]).get("/jobs", headers={"host": host})
    assert told.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # no browser
        ({"origin": HERE}, 200),
        ({"origin": "https://lab.example"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 403),
        ({"origin": "https://lab.example.evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": "127.0.0.1:5100"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_a_page_of_another_address_may_not_change_anything(
    headers: dict[str, str], status: int
) -> None:
    client = guarded(origins=["https://lab.example"])
    assert client.post("/jobs", headers=headers).status_code == status
    assert client.delete("/jobs", headers=headers).status_code == status
    assert client.get("/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize("key", [SECRET, "schlüssel-aus-sechzehn-Zeichen"])
def test_a_key_lets_in_by_header_or_cookie_and_nothing_else_does(key: str) -> None:
    client, raw = guarded(key=key), key.encode()
    for headers in (
        {b"authorization": b"Bearer " + raw},
        {b"Authorization": b"bearer   " + raw},
        {b"x-api-key": raw},
        {b"cookie": f"a=b; {COOKIE}={session_token(key)}".encode()},
    ):
        assert client.get("/jobs", headers=headers).status_code == 200
    for headers in (
        {},
        {b"authorization": b"Bearer"},
        {b"authorization": b"Basic " + raw},
        {b"x-api-key": raw[:-1]},
        {b"x-api-key": raw + b"x"},
        {b"x-api-key": b"\xff" * 20},
        {b"cookie": f"{COOKIE}={key}".encode()},
        {b"cookie": f'{COOKIE}="\\777"'.encode()},
        {b"cookie": b"\xff=;;=" + raw},
        {b"authorization": raw},
    ):
        told = client.get("/jobs", headers=headers)
        assert told.status_code == 401, headers
        assert told.headers["www-authenticate"] == "Bearer"
        assert key not in told.text
    assert client.get("/jobs?key=" + key).status_code == 401  # it would stand in logs
    for path in ("/health", "/login", "/static/app.js"):
        assert client.get(path).status_code == 200
    page = client.get("/jobs", headers={"accept": "text/html"}, follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (303, "/login")


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(sent: bytes, wanted: bytes) -> bool:
        compared.append(wanted)
        return sent == wanted

    monkeypatch.setattr(security, "compare_digest", compare)
    client = guarded(key=SECRET)
    assert client.get("/jobs", headers={"x-api-key": SECRET}).status_code == 200
    assert client.get("/jobs", headers={"cookie": f"{COOKIE}=x"}).status_code == 401
    assert compared == [SECRET.encode(), SECRET.encode(), session_token(SECRET).encode()]
    assert SECRET not in session_token(SECRET)


def test_who_asks_too_often_is_told_when_to_come_again() -> None:
    client = guarded(each=3)
    assert [client.post("/jobs").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    told = client.post("/jobs")
    assert int(told.headers["retry-after"]) > 0
    assert told.json()["error"].startswith("more than 3 requests a minute")
    assert client.get("/jobs").status_code == 200  # to look is free


def test_a_body_that_is_too_long_by_its_own_word_is_refused_unread() -> None:
    client = guarded(most=10)
    assert client.post("/jobs", content=b"x" * 10).text == "x" * 10
    told = client.post("/jobs", content=b"x" * 11)
    assert (told.status_code, told.json()["error"]) == (413, "the body has 11 bytes; most 10")


NAMES = (
    "host",
    "origin",
    "cookie",
    "authorization",
    "x-api-key",
    "content-type",
    "content-length",
    "sec-fetch-site",
    "accept",
)
PIECES = st.sampled_from(
    [
        b"127.0.0.1",
        b"http://",
        b"[",
        b"]",
        b":",
        b"null",
        b"mondrian=",
        b"Bearer ",
        b"boundary=x",
        b"multipart/form-data",
        b"charset=",
        b"utf-8",
        b"utf-7",
        b";",
        b'"',
        b"99999999999",
        b"\xb2",
        b"\xff",
    ]
)
VALUES = st.lists(PIECES | st.binary(max_size=4), max_size=6).map(b"".join)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5), st.sampled_from(["", SECRET]))
@settings(max_examples=300, deadline=None)
def test_headers_of_any_bytes_are_answered(headers: dict[str, bytes], key: str) -> None:
    told = [(name.encode(), value) for name, value in ({"host": b"localhost"} | headers).items()]
    post = {"type": "http", "method": "POST", "path": "/jobs", "query_string": b""}
    scope, statuses = {**post, "headers": told}, []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    async def ask() -> None:
        await guarded(key=key, most=100).app(scope, receive, send)

    asyncio.run(ask())
    assert statuses[0] in (200, 400, 401, 403, 413, 415)


def test_every_answer_of_the_guard_has_its_headers() -> None:
    client = guarded(key=SECRET, each=1)
    let = {"x-api-key": SECRET}
    answers = [
        client.get("/jobs", headers=let),
        client.get("/jobs"),
        client.get("/nothing", headers=let),
        client.get("/jobs", headers={"host": "evil.example"}),
        client.post("/jobs", headers=let),
        client.post("/jobs", headers=let),
        client.post("/jobs", headers={"origin": "null"}),
    ]
    assert [one.status_code for one in answers] == [200, 401, 404, 400, 200, 429, 403]
    for one in answers:
        assert {name: one.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert "script-src 'self';" in SECURITY_HEADERS["content-security-policy"]
