"""Invalid, endless and slow bodies and requests are rejected and do not delay other clients."""

import asyncio
import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from mondrian.core.params import Params
from mondrian.serving.http import request_parsing
from mondrian.serving.http.body_limits import PhotoMemory
from mondrian.serving.http.uploads import RequestRejectedError
from tests.service_process import ServiceProcess, run_service
from tests.serving.hostile_requests import (
    FORM,
    JPEG,
    MULTIPART,
    UPLOAD_PATHS,
    assert_rejected,
    connected,
    head,
    stray_files,
)
from tests.waiting import PATIENCE

PART = b"--x\r\nContent-Disposition: form-data; %s\r\n\r\nvalue\r\n"
BODIES: dict[str, tuple[str, bytes]] = {
    "no boundary": ("multipart/form-data", FORM + JPEG + b"\r\n--x--\r\n"),
    "an empty boundary": ("multipart/form-data; boundary=", b"--\r\n"),
    "a boundary of 5 kB": ("multipart/form-data; boundary=" + "x" * 5000, FORM),
    "no parts": (MULTIPART, b"junk" * 1000),
    "cut in the photo": (MULTIPART, FORM + JPEG[:3000]),
    "cut in a header": (MULTIPART, FORM[:60]),
    "a part without a name": (MULTIPART, b"--x\r\n\r\nvalue\r\n--x--\r\n"),
    "a header of 1 MB": (MULTIPART, b"--x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\nv\r\n--x--\r\n"),
    "1,000 fields": (MULTIPART, PART % b"name=a" * 1000),
    "100 files": (MULTIPART, PART % b"name=a; filename=b" * 100),
    "a field of 2 MB": (MULTIPART, PART % b"name=a" + b"v" * 2_000_000),
    "only the photo": ("image/jpeg", JPEG),
    "JSON": ("application/json", b'{"image": "/etc/passwd"}'),
    "no content type": ("", JPEG),
    "a path in a plain form": ("application/x-www-form-urlencoded", b"image=/etc/passwd"),
    "half a surrogate": (f"{MULTIPART}; charset=unicode_escape", FORM % b"\\ud800" + JPEG),
    "UTF-7": (f"{MULTIPART}; charset=utf-7", FORM % b"+2AA-" + JPEG),
    "an unknown charset": (f"{MULTIPART}; charset=undefined", FORM + JPEG),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("bodies")
    (folder / "tmp").mkdir()
    with run_service(folder, env={"TMPDIR": str(folder / "tmp")}) as started:
        yield started
        assert "Traceback" not in started.log()


@pytest.mark.slow
@pytest.mark.parametrize("name", BODIES)
def test_an_invalid_body_is_rejected(service: ServiceProcess, name: str) -> None:
    content_type, body = BODIES[name]
    with service.client() as client:
        for path in UPLOAD_PATHS:
            headers = {"content-type": content_type} if content_type else {}
            assert_rejected(client.post(path, content=body, headers=headers), 400, 415)


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        b'{"image_path": "\\ud800"}',
        b'{"image_path": "a\\u0000"}',
        b'{"image_path": {"a": 1}}',
        b'{"image_path": "../jobs.db"}',
        b"[" * 100_000,
        b"1" * 10_000,
        b"null",
        b"\xff",
        b"NaN",
        b"",
    ],
)
def test_an_invalid_job_body_is_rejected(service: ServiceProcess, body: bytes) -> None:
    with service.client() as client:
        assert_rejected(client.post("/jobs", content=body), 400)
        assert_rejected(client.put("/jobs/unknown", content=body.replace(b"image_path", b"status")))


@pytest.mark.slow
def test_a_body_of_41_megabytes_is_rejected_before_it_is_read(service: ServiceProcess) -> None:
    with connected(service, head("Content-Length: 41000000")) as connection:
        response = b""
        while b"}" not in response:  # the server may send head and body separately
            chunk = connection.recv(4000)
            assert chunk
            response += chunk
        assert response.startswith(b"HTTP/1.1 413 ")
        assert b'{"error":"the body has 41000000 bytes' in response


@pytest.mark.slow
def test_a_body_of_unknown_length_is_rejected_when_it_becomes_too_long(
    service: ServiceProcess,
) -> None:
    chunk = b"%x\r\n%s\r\n" % (1 << 20, bytes(1 << 20))
    first_chunk = b"%x\r\n%s\r\n" % (len(FORM), FORM)
    with connected(service, head("Transfer-Encoding: chunked"), first_chunk) as connection:
        for _ in range(41):
            try:
                connection.sendall(chunk)
            except OSError:  # the service closed the connection
                break
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert not stray_files(service)


@pytest.mark.slow
def test_stalled_clients_do_not_delay_others(service: ServiceProcess) -> None:
    incomplete = head(f"Content-Length: {len(FORM) + 5000}") + FORM
    with (
        connected(service, incomplete),
        connected(service, incomplete),
        connected(service, incomplete[:40]),
    ):
        with service.client() as client:
            assert client.get("/health").status_code == 200
            assert client.post("/analyze", files={"image": ("a.jpg", JPEG)}).status_code == 200


@pytest.mark.slow
def test_a_client_that_disconnects_while_sending_is_not_an_error(service: ServiceProcess) -> None:
    before = len(service.log())
    with connected(service, head("Content-Length: 5000"), FORM):
        pass
    jobs = b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n{"
    with connected(service, jobs):
        pass
    with service.client() as client:
        assert client.get("/health").status_code == 200
    assert '"level": "error"' not in service.log()[before:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\nhello",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /health HTTP/1.0\r\n\r\n",
        b"GET http://evil.example/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        bytes(9) + b"\r\n\r\n",
    ],
)
def test_a_malformed_request_is_rejected(service: ServiceProcess, content: bytes) -> None:
    with connected(service, content) as connection:
        assert re.match(rb"HTTP/1.1 4\d\d ", connection.recv(100))


def test_the_bytes_of_photos_in_memory_are_limited(params: Params) -> None:
    memory = PhotoMemory(int(2.5 * len(JPEG)), PATIENCE)
    app = SimpleNamespace(state=SimpleNamespace(photo_memory=memory))
    body = FORM.replace(b"%s", b"a") + JPEG + b"\r\n--x--\r\n"
    headers = [(b"content-type", MULTIPART.encode())]
    scope = {"type": "http", "method": "POST", "headers": headers, "app": app}
    in_memory = 0

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def read(end: asyncio.Event) -> None:
        nonlocal in_memory
        request = Request(dict(scope), receive)
        async with request_parsing.read_form(request, params) as form:
            assert form.content == JPEG
            in_memory += 1
            await end.wait()
        in_memory -= 1

    async def read_four() -> None:
        ends = [asyncio.Event() for _ in range(4)]
        tasks = [asyncio.create_task(read(end)) for end in ends]
        await asyncio.sleep(0.05)
        assert in_memory == 2
        tasks[0].cancel()  # the client disconnects
        tasks[3].cancel()  # while it waits
        await asyncio.sleep(0.05)
        assert [task.done() for task in tasks] == [True, False, False, True]
        for end in ends:
            end.set()
        await asyncio.gather(*tasks[1:3])

    asyncio.run(asyncio.wait_for(read_four(), 10))


def test_a_photo_larger_than_the_memory_for_photos_is_read_alone() -> None:
    async def reserve() -> None:
        memory = PhotoMemory(10, PATIENCE)
        async with memory.reserve(20):
            other = asyncio.create_task(memory.reserve(1).__aenter__())
            await asyncio.sleep(0.01)
            assert not other.done()
        await other

    asyncio.run(reserve())


def test_a_photo_waits_for_memory_only_for_a_limited_time() -> None:
    async def reserve() -> None:
        memory = PhotoMemory(10, 0.05)
        async with memory.reserve(8):
            with pytest.raises(HTTPException, match="too many photos") as error:
                async with memory.reserve(8):
                    raise AssertionError
            assert error.value.status_code == 503
            assert error.value.headers == {"retry-after": "30"}
        async with memory.reserve(8):  # nothing is counted for the one that gave up
            pass

    asyncio.run(reserve())


@given(st.binary(max_size=400), st.sampled_from([MULTIPART, "application/x-www-form-urlencoded"]))
@settings(max_examples=150)
def test_a_form_of_any_bytes_is_accepted_or_rejected(
    params: Params, content: bytes, content_type: str
) -> None:
    complete = FORM.replace(b"%s", content) + JPEG + b"\r\n--x--\r\n"
    for body in (content, complete, complete[: len(content) + 40]):

        async def receive(body: bytes = body) -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        headers = [(b"content-type", content_type.encode())]
        memory = PhotoMemory(10**9, PATIENCE)
        app = SimpleNamespace(state=SimpleNamespace(photo_memory=memory))
        scope = {"type": "http", "method": "POST", "headers": headers, "app": app}

        async def read(scope: dict[str, Any] = scope, receive: Any = receive) -> int:
            async with request_parsing.read_form(Request(scope, receive), params) as form:
                json.dumps(form.subject, ensure_ascii=False).encode()  # it can be written to a file
            return 201

        try:
            status = asyncio.run(read())
        except RequestRejectedError as rejection:
            status = rejection.status
        except HTTPException as rejection:
            status = rejection.status_code
        assert status in (201, 400)
