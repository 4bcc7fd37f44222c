"""Requests that a service must reject, and what they must not leave behind."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from mondrian.sample.scene import draw_scene, render
from tests.core.odd_photos import encode
from tests.service_process import ServiceProcess
from tests.waiting import PATIENCE

PHOTO = render(draw_scene(5, 1), 320, 256)
JPEG = encode(PHOTO, "JPEG")
UPLOAD_PATHS = ("/analyze", "/analyze_stream", "/upload", "/ask")
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="client_id"\r\n\r\n%s\r\n--x\r\nContent-'
    b'Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
)
MULTIPART = "multipart/form-data; boundary=x"


def stray_files(service: ServiceProcess) -> set[str]:
    """Return new files outside the uploads folder."""
    top = service.data.parent
    around = {path.relative_to(top) for path in top.rglob("*") if path.is_file()}
    # MLX and its compiler write mlx and cc
    own = re.compile(r"jobs\.db|service-1\.log|params-1\.yaml|service/uploads/|tmp/(mlx/|cc)")
    return {str(path) for path in around if not own.match(str(path))}


def assert_rejected(response: httpx2.Response, *statuses: int) -> None:
    """Check for a 4xx with {"error": one line}, or for the start page with the message."""
    assert response.status_code in (statuses or range(400, 500)), response.text
    if response.headers["content-type"].startswith("application/json"):
        assert list(response.json()) == ["error"]
        assert response.json()["error"].strip()
        assert "\n" not in response.json()["error"]
    else:
        assert str(response.url).endswith("/ask")
    assert "Traceback" not in response.text


@contextmanager
def connected(service: ServiceProcess, *chunks: bytes) -> Iterator[socket.socket]:
    """Open a connection and send the chunks."""
    port = int(service.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        for chunk in chunks:
            connection.sendall(chunk)
        yield connection


def head(*more: str) -> bytes:
    lines = ("POST /analyze HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {MULTIPART}", *more)
    return "\r\n".join((*lines, "", "")).encode()
