"""Access control: host names, origins, API keys, rate limits, security headers."""

import asyncio
from collections.abc import Callable
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
    AccessRules,
    SecurityMiddleware,
    session_token,
)

KEY = "a-key-of-more-than-16-characters"
BASE_URL = "http://127.0.0.1:5100"


def make_client(on_refuse: Callable[[int], None] = lambda _: None, **rules: Any) -> TestClient:
    """Return a client of a small application with these access rules."""

    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse((await request.body()).decode())

    paths = ("/jobs", "/health", "/login", "/static/app.js")
    app = Starlette(routes=[Route(p, answer, methods=["GET", "POST", "DELETE"]) for p in paths])
    guarded = SecurityMiddleware(app, AccessRules(**rules), on_refuse=on_refuse)
    return TestClient(guarded, base_url=BASE_URL)


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
def test_an_unknown_host_name_is_rejected(host: str, status: int) -> None:
    """With DNS rebinding, an attacker's host name resolves to this machine."""
    response = make_client(hosts=["studio.local"]).get("/jobs", headers={"host": host})
    assert response.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # not a browser
        ({"origin": BASE_URL}, 200),
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
def test_pages_of_other_origins_cannot_write(headers: dict[str, str], status: int) -> None:
    client = make_client(origins=["https://lab.example"])
    assert client.post("/jobs", headers=headers).status_code == status
    assert client.delete("/jobs", headers=headers).status_code == status
    assert client.get("/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize("key", [KEY, "schlüssel-aus-sechzehn-Zeichen"])
def test_only_the_api_key_in_a_header_or_cookie_gives_access(key: str) -> None:
    client, raw = make_client(api_key=key), key.encode()
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
        response = make_client(api_key=key).get("/jobs", headers=headers)
        assert response.status_code == 401, headers
        assert response.headers["www-authenticate"] == "Bearer"
        assert key not in response.text
    assert client.get("/jobs?key=" + key).status_code == 401  # it would be logged
    for path in ("/health", "/login", "/static/app.js"):
        assert client.get(path).status_code == 200
    page = client.get("/jobs", headers={"accept": "text/html"}, follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (303, "/login")


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(sent: bytes, expected: bytes) -> bool:
        compared.append(expected)
        return sent == expected

    monkeypatch.setattr(security, "compare_digest", compare)
    client = make_client(api_key=KEY)
    assert client.get("/jobs", headers={"x-api-key": KEY}).status_code == 200
    assert client.get("/jobs", headers={"cookie": f"{COOKIE}=x"}).status_code == 401
    assert compared == [KEY.encode(), KEY.encode(), session_token(KEY).encode()]
    assert KEY not in session_token(KEY)


def test_too_many_requests_get_429_with_retry_after() -> None:
    client = make_client(requests_per_minute=3)
    assert [client.post("/jobs").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    response = client.post("/jobs")
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["error"].startswith("more than 3 requests a minute; try again in ")
    assert client.get("/jobs").status_code == 200  # reading is not limited


def test_wrong_keys_are_slowed_and_a_right_one_is_accepted() -> None:
    client, right = make_client(api_key=KEY), {"x-api-key": KEY}
    wrong = [{"x-api-key": f"{i}"} for i in range(20)]
    wrong[10]["accept"] = "text/html"  # a page is no way round
    responses = [client.get("/jobs", headers=headers) for headers in wrong]
    assert [response.status_code for response in responses] == [401] * 5 + [429] * 15
    assert 1 <= int(responses[-1].headers["retry-after"]) <= 60
    assert (
        responses[-1].json()["error"].startswith("more than 5 wrong API keys a minute; try again")
    )
    assert client.get("/jobs", headers=right).status_code == 200
    assert client.get("/jobs").status_code == 401  # no key is no guess
    other = TestClient(client.app, BASE_URL, client=("10.0.0.9", 1))
    assert other.get("/jobs", headers=wrong[0]).status_code == 401


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("text/*, application/json;q=0.5", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/html;q=0.9", False),
        ("application/json, text/html", False),
        ("text/html;q=0, */*", False),
        ("text/html;q=x", True),
    ],
)
def test_a_refusal_is_a_page_only_for_a_client_that_prefers_one(accept: str, is_page: bool) -> None:
    client, headers = make_client(api_key=KEY, requests_per_minute=1), {"accept": accept}
    key_header = {"x-api-key": KEY}
    client.post("/jobs", headers=key_header)
    refusals = {
        400: client.get("/jobs", headers=headers | {"host": "evil.example"}),
        401: client.post("/jobs", headers=headers),
        403: client.post("/jobs", headers=headers | key_header | {"origin": "null"}),
        415: client.get("/jobs", headers=headers | key_header | {"content-type": "a; charset=x"}),
        429: client.post("/jobs", headers=headers | key_header),
    }
    assert [response.status_code for response in refusals.values()] == list(refusals)
    for response in refusals.values():
        if is_page:
            assert response.headers["content-type"] == "text/html; charset=utf-8"
            assert '<p class="fault" role="alert">' in response.text
        else:
            assert list(response.json()) == ["error"]
    assert int(refusals[429].headers["retry-after"]) > 0
    assert refusals[401].headers["www-authenticate"] == "Bearer"


def test_the_page_of_a_refusal_shows_what_a_client_sent_as_text() -> None:
    headers = {"accept": BROWSER, "content-type": "text/plain; charset=<script>alert(1)</script>"}
    response = make_client().get("/jobs", headers=headers)
    assert response.status_code == 415
    assert "<script>alert" not in response.text
    assert "&lt;script&gt;" in response.text


def test_refusals_are_counted() -> None:
    refused: list[int] = []
    client = make_client(refused.append, api_key=KEY)
    client.get("/jobs")
    client.get("/jobs", headers={"host": "evil.example"})
    client.post("/jobs", headers={"origin": "null"})
    client.get("/jobs", headers={"accept": "text/html"}, follow_redirects=False)
    client.get("/health")
    assert refused == [401, 400, 403]


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


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5), st.sampled_from(["", KEY]))
@settings(max_examples=300)
def test_headers_of_any_bytes_get_a_response(headers: dict[str, bytes], key: str) -> None:
    raw_headers = [
        (name.encode(), value) for name, value in ({"host": b"localhost"} | headers).items()
    ]
    post = {"type": "http", "method": "POST", "path": "/jobs", "query_string": b""}
    scope, statuses = {**post, "headers": raw_headers}, []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    async def request() -> None:
        await make_client(api_key=key).app(scope, receive, send)

    asyncio.run(request())
    assert statuses[0] in (200, 400, 401, 403, 415)


def test_every_response_has_the_security_headers() -> None:
    client = make_client(api_key=KEY, requests_per_minute=1)
    key_header = {"x-api-key": KEY}
    responses = [
        client.get("/jobs", headers=key_header),
        client.get("/jobs"),
        client.get("/nothing", headers=key_header),
        client.get("/jobs", headers={"host": "evil.example"}),
        client.post("/jobs", headers=key_header),
        client.post("/jobs", headers=key_header),
        client.post("/jobs", headers={"origin": "null"}),
    ]
    assert [response.status_code for response in responses] == [200, 401, 404, 400, 200, 429, 403]
    for response in responses:
        assert {name: response.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert "script-src 'self';" in SECURITY_HEADERS["content-security-policy"]
