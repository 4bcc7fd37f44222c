"""Every body has a limit of size and of time."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from mondrian.serving.http.body_limits import (
    MAX_JSON_BYTES,
    BodyLimit,
    BodyLimitMiddleware,
    FormDisk,
    ReceivedForm,
    release_form,
)
from mondrian.serving.http.error_wording import error_message
from mondrian.serving.http.page_response import describe_error
from mondrian.serving.http.request_parsing import read_small_body
from mondrian.serving.http.uploads import RequestRejectedError

MULTIPART = "multipart/form-data; boundary=x"
FORM_LIMIT = BodyLimit(1_000_000, 0.1)


async def measure(request: Request) -> Response:
    return JSONResponse({"size": len(await request.body())})


async def measure_small(request: Request) -> Response:
    return JSONResponse({"size": len(await read_small_body(request))})


def limited_app(refused: list[int]) -> BodyLimitMiddleware:
    routes = [
        Route("/", measure, methods=["POST", "PUT", "DELETE"]),
        Route("/small", measure_small, methods=["POST"]),
    ]
    return BodyLimitMiddleware(
        Starlette(routes=routes),
        FORM_LIMIT,
        FormDisk(10**9),
        refused.append,
        BodyLimit(MAX_JSON_BYTES, 0.1),
    )


@pytest.mark.parametrize(
    ("path", "content_type", "size", "status"),
    [
        ("/", MULTIPART, 1_000_000, 200),
        ("/", MULTIPART, 1_000_001, 413),
        ("/", "application/json", 256_000, 200),
        ("/", "application/json", 256_001, 413),
        ("/", "application/x-www-form-urlencoded", 256_001, 413),
        ("/", "", 256_001, 413),
        ("/small", MULTIPART, 256_000, 200),
        ("/small", MULTIPART, 256_001, 413),
    ],
)
def test_only_a_form_with_files_may_be_large(
    path: str, content_type: str, size: int, status: int
) -> None:
    client = TestClient(limited_app([]))
    chunks = [b"x" * (size // 2), b"x" * (size - size // 2)]
    for content in (b"".join(chunks), iter(chunks)):  # with a length, and chunked
        response = client.post(path, content=content, headers={"content-type": content_type})
        assert response.status_code == status


def test_a_body_that_declares_too_many_bytes_is_refused_unread_and_counted() -> None:
    refused: list[int] = []
    response = TestClient(limited_app(refused)).post("/", content=b"x" * 256_001)
    assert response.json() == {"error": "the body has 256001 bytes; at most 256,000"}
    assert refused == [413]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (HTTPException(413, "the body has 41 bytes; at most 40"), "The photo is too large."),
        (HTTPException(408, "the body did not arrive within 60 s"), "The photo did not arrive"),
        (RequestRejectedError(400, "the photo is empty (0 bytes)"), "There is no photo yet."),
        (RequestRejectedError(400, "mode has 210 bytes"), "Mode has 210 bytes."),
    ],
)
def test_a_page_names_the_limit_of_a_photo_in_plain_words(error: Exception, words: str) -> None:
    status, message, _ = describe_error(error)
    assert status == getattr(error, "status_code", 400)
    assert error_message(error, message).startswith(words)


@pytest.mark.parametrize(("accept", "is_page"), [("text/html,*/*;q=0.8", True), ("*/*", False)])
def test_a_browser_without_scripts_gets_a_page_about_a_large_body(
    accept: str, is_page: bool
) -> None:
    headers = {"content-type": MULTIPART, "accept": accept}
    client = TestClient(limited_app([]))
    response = client.post("/", content=b"x" * 1_000_001, headers=headers)
    assert response.status_code == 413
    assert ("Export a smaller copy." in response.text) == is_page
    assert response.headers["content-type"].startswith("text/html") == is_page


def test_forms_on_disk_are_limited_and_one_is_always_received() -> None:
    disk = FormDisk(100)
    first, second = ReceivedForm(disk), ReceivedForm(disk)
    first.add(60)
    first.add(90)  # it is alone
    with pytest.raises(HTTPException, match="too many photos are being received") as error:
        second.add(1)
    assert (error.value.status_code, (error.value.headers or {})["retry-after"]) == (503, "5")
    first.release()
    second.add(100)
    second.release()
    second.release()
    assert disk.used_bytes == 0


@pytest.mark.parametrize("is_form", [True, False])
def test_only_forms_with_files_are_counted_until_they_are_released(is_form: bool) -> None:
    disk, counts = FormDisk(10**9), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        counts.append(disk.used_bytes)
        if len(counts) == 1:
            release_form(scope)
            counts.append(disk.used_bytes)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"x" * 10, "more_body": False}

    async def send(message: Any) -> None: ...

    content_type = MULTIPART if is_form else "application/json"
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", content_type.encode())],
    }
    for _ in range(2):
        asyncio.run(BodyLimitMiddleware(app, FORM_LIMIT, disk)(dict(scope), receive, send))
    assert counts == ([10, 0, 10] if is_form else [0, 0, 0])
    assert disk.used_bytes == 0


def run_request(messages: Sequence[Any], **scope: Any) -> list[Any]:
    """Send messages and then nothing more; return what the application sends."""
    sent, queue = [], list(messages)

    async def receive() -> Any:
        if queue:
            return queue.pop(0)
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", **scope}
    asyncio.run(limited_app([])(scope, receive, send))
    return sent


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("content_type", [MULTIPART, "application/json", ""])
def test_a_body_that_does_not_arrive_gets_408_and_its_connection_ends(
    method: str, content_type: str
) -> None:
    first = {"type": "http.request", "body": b"{", "more_body": True}
    headers = [(b"content-type", content_type.encode())]
    start, _ = run_request([first], method=method, headers=headers)
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]


def test_a_route_may_wait_for_the_disconnect_after_the_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert not (await receive())["more_body"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receive(), 0.3)  # longer than a body may take

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await asyncio.sleep(3600)

    async def send(message: Any) -> None: ...

    messages = [{"type": "http.request", "body": b"", "more_body": False}]
    scope = {"type": "http", "method": "POST", "headers": []}
    asyncio.run(BodyLimitMiddleware(app, FORM_LIMIT, FormDisk(10**9))(scope, receive, send))


def test_the_limit_says_how_large_the_body_is() -> None:
    with pytest.raises(HTTPException, match="the body has 11 bytes; at most 10") as error:
        BodyLimit(10, 1.0).check(11)
    assert error.value.status_code == 413
