"""Bodies and requests that are broken, endless or slow: refused, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from mondrian.core.params import Params
from mondrian.serving.http import request_parsing
from mondrian.serving.http.uploads import RequestRejected
from tests.service_process import Running, running
from tests.serving.test_hostile import DOORS, JPEG, assert_refused, strangers

FORM = (
    b'--x\r\nContent-Disposition: form-data; name="client_id"\r\n\r\n%s\r\n--x\r\nContent-'
    b'Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
)
PART = b"--x\r\nContent-Disposition: form-data; %s\r\n\r\nvalue\r\n"
MULTIPART = "multipart/form-data; boundary=x"
BODIES: dict[str, tuple[str, bytes]] = {
    "no boundary": ("multipart/form-data", FORM + JPEG + b"\r\n--x--\r\n"),
    "an empty boundary": ("multipart/form-data; boundary=", b"--\r\n"),
    "a boundary of 5 kB": ("multipart/form-data; boundary=" + "x" * 5000, FORM),
    "no parts": (MULTIPART, b"junk" * 1000),
    "cut in the photograph": (MULTIPART, FORM + JPEG[:3000]),
    "cut in a header": (MULTIPART, FORM[:60]),
    "a part without a name": (MULTIPART, b"--x\r\n\r\nvalue\r\n--x--\r\n"),
    "a header of 1 MB": (MULTIPART, b"--x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\nv\r\n--x--\r\n"),
    "1,000 fields": (MULTIPART, PART % b"name=a" * 1000),
    "100 files": (MULTIPART, PART % b"name=a; filename=b" * 100),
    "a field of 2 MB": (MULTIPART, PART % b"name=a" + b"v" * 2_000_000),
    "the photograph alone": ("image/jpeg", JPEG),
    "JSON": ("application/json", b'{"image": "/etc/passwd"}'),
    "no kind": ("", JPEG),
    "a path in a plain form": ("application/x-www-form-urlencoded", b"image=/etc/passwd"),
    "half a surrogate": (f"{MULTIPART}; charset=unicode_escape", FORM % b"\\ud800" + JPEG),
    "UTF-7": (f"{MULTIPART}; charset=utf-7", FORM % b"+2AA-" + JPEG),
    "no charset of this world": (f"{MULTIPART}; charset=undefined", FORM + JPEG),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("bodies")
    (folder / "tmp").mkdir()
    with running(folder, env={"TMPDIR": str(folder / "tmp")}) as started:
        yield started
        assert "Traceback" not in started.log()


@pytest.mark.slow
@pytest.mark.parametrize("name", BODIES)
def test_a_broken_body_is_refused(service: Running, name: str) -> None:
    kind, body = BODIES[name]
    with service.client() as client:
        for door in DOORS:
            headers = {"content-type": kind} if kind else {}
            assert_refused(client.post(door, content=body, headers=headers), 400, 415)


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
def test_a_job_is_not_made_of_nonsense(service: Running, body: bytes) -> None:
    with service.client() as client:
        assert_refused(client.post("/jobs", content=body), 400)
        assert_refused(client.put("/jobs/unknown", content=body.replace(b"image_path", b"status")))


@contextmanager
def connected(service: Running, *sent: bytes) -> Iterator[socket.socket]:
    """A connection on which so much has been sent."""
    port = int(service.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        for some in sent:
            wire.sendall(some)
        yield wire


def head(*more: str) -> bytes:
    lines = ("POST /analyze HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {MULTIPART}", *more)
    return "\r\n".join((*lines, "", "")).encode()


@pytest.mark.slow
def test_a_body_of_41_megabytes_is_refused_before_any_of_it_is_read(service: Running) -> None:
    with connected(service, head("Content-Length: 41000000")) as wire:
        told = b""
        while b"}" not in told:  # head and body, in one piece or in two
            piece = wire.recv(4000)
            assert piece
            told += piece
        assert told.startswith(b"HTTP/1.1 413 ")
        assert b'{"error":"the body has 41000000 bytes' in told


@pytest.mark.slow
def test_a_body_that_does_not_say_its_length_is_refused_where_it_gets_too_long(
    service: Running,
) -> None:
    piece = b"%x\r\n%s\r\n" % (1 << 20, bytes(1 << 20))
    first = b"%x\r\n%s\r\n" % (len(FORM), FORM)
    with connected(service, head("Transfer-Encoding: chunked"), first) as wire:
        for _ in range(41):
            try:
                wire.sendall(piece)
            except OSError:  # it hung up on us
                break
        assert wire.recv(100).startswith(b"HTTP/1.1 413 ")
    assert not strangers(service)


@pytest.mark.slow
def test_clients_that_stall_keep_nobody_waiting(service: Running) -> None:
    half = head(f"Content-Length: {len(FORM) + 5000}") + FORM
    with connected(service, half), connected(service, half), connected(service, half[:40]):
        with service.client() as client:
            assert client.get("/health").status_code == 200
            assert client.post("/analyze", files={"image": ("a.jpg", JPEG)}).status_code == 200


@pytest.mark.slow
def test_a_client_that_goes_away_in_the_middle_is_no_fault(service: Running) -> None:
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
    "told",
    [
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\nhello",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /health HTTP/1.0\r\n\r\n",
        b"GET http://evil.example/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        bytes(9) + b"\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(service: Running, told: bytes) -> None:
    with connected(service, told) as wire:
        assert re.match(rb"HTTP/1.1 4\d\d ", wire.recv(100))


def test_a_body_that_does_not_come_is_given_up(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_parsing, "BODY_SECONDS", 0.05)

    async def stall() -> Any:
        await asyncio.sleep(20)

    kind = (b"content-type", MULTIPART.encode())
    request = Request({"type": "http", "method": "POST", "headers": [kind]}, stall)
    with pytest.raises(RequestRejected, match="did not come") as refused:
        asyncio.run(request_parsing.read_form(request, params))
    assert refused.value.status == 408


@given(st.binary(max_size=400), st.sampled_from([MULTIPART, "application/x-www-form-urlencoded"]))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_form_of_any_bytes_is_read_or_refused(params: Params, told: bytes, kind: str) -> None:
    whole = FORM.replace(b"%s", told) + JPEG + b"\r\n--x--\r\n"
    for body in (told, whole, whole[: len(told) + 40]):

        async def receive(body: bytes = body) -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        headers = [(b"content-type", kind.encode())]
        scope = {"type": "http", "method": "POST", "headers": headers, "app": None}
        try:
            asked = asyncio.run(request_parsing.read_form(Request(scope, receive), params))
            json.dumps(asked.subject, ensure_ascii=False).encode()  # what a file can hold
        except (RequestRejected, HTTPException):
            pass
