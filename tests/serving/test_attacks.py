"""Attacks from one address cost others nothing: not one answer, and not one second for `/health`.

They come from the address of the other clients, which is the hardest case.
"""

import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection

import psutil
import pytest
from fastapi.routing import APIRoute
from PIL import Image

from mondrian.serving.routes import (
    actions,
    analyze,
    ask,
    critique_page,
    feedback,
    jobs,
    login,
    rollouts_api,
    rollouts_page,
)
from mondrian.serving.settings import API_KEY_VARIABLE
from tests.core.odd_photos import encode
from tests.service_process import ServiceProcess, run_service
from tests.serving.hostile_requests import FORM, MULTIPART, connected
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.slow
KEY = "a-key-of-more-than-16-characters"
KEY_HEADER = {"x-api-key": KEY}
MAX_RSS = 10**9  # bytes of the service, without the model process
SECONDS = 4.0  # in which others send requests during an attack, at least
OPEN_CONNECTIONS = """
import socket, sys
port, count = map(int, sys.argv[1:])
connections = [socket.create_connection(("127.0.0.1", port), 600) for _ in range(count)]
print("open", flush=True)
sys.stdin.read()
"""
ROUTES_WITH_BODY = sorted(
    (method, route.path)
    for module in (
        analyze,
        jobs,
        feedback,
        ask,
        critique_page,
        actions,
        login,
        rollouts_page,
        rollouts_api,
    )
    for route in module.router.routes
    if isinstance(route, APIRoute)
    for method in (route.methods or set()) - {"GET", "HEAD"}
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder, env = tmp_path_factory.mktemp("attacks"), {API_KEY_VARIABLE: KEY}
    with run_service(folder, env=env, requests_per_minute=0) as started:
        yield started
        assert "Traceback" not in started.log()


@pytest.fixture(scope="module")
def photo(photos: list[Image.Image]) -> bytes:
    return encode(photos[0], "JPEG")


@pytest.fixture
def pending_job(service: ServiceProcess, photo: bytes) -> str:
    with service.client(headers=KEY_HEADER) as client:
        files, fields = {"image": ("a.jpg", photo)}, {"auto_analyze": "false"}
        return str(client.post("/upload", files=files, data=fields).json()["job_id"])


@contextmanager
def unharmed(service: ServiceProcess, photo: bytes) -> Iterator[None]:
    """Send requests of others during an attack: all are answered, and `/health` quickly."""
    times: list[float] = []
    memory: list[int] = []  # bytes
    process = psutil.Process(service.process.pid)
    statuses: Counter[tuple[str, int]] = Counter()
    end, min_end = threading.Event(), time.monotonic() + SECONDS

    def is_over() -> bool:
        return end.is_set() and time.monotonic() > min_end

    def check_health() -> None:
        while not is_over():
            started = time.monotonic()
            with closing(HTTPConnection("127.0.0.1", port_of(service), PATIENCE)) as client:
                client.request("GET", "/health")
                statuses["/health", client.getresponse().status] += 1
            times.append(time.monotonic() - started)
            memory.append(process.memory_info().rss)
            time.sleep(0.05)

    def use() -> None:
        with service.client(headers=KEY_HEADER) as client:
            while not is_over():
                files = {"image": ("a.jpg", photo)}
                statuses["/analyze", client.post("/analyze", files=files).status_code] += 1
                statuses["/jobs", client.get("/jobs?limit=10").status_code] += 1

    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(check_health), pool.submit(use)]
        try:
            yield
        finally:
            end.set()
        for other in others:
            other.result()
    assert {status for _, status in statuses} == {200}, statuses
    assert {path for path, _ in statuses} == {"/health", "/analyze", "/jobs"}
    assert sorted(times)[int(0.95 * len(times))] < 1
    assert max(memory) < MAX_RSS


def port_of(service: ServiceProcess) -> int:
    return int(service.url.rsplit(":", 1)[1])


def has_ended(connection: socket.socket, end: bytes = b"no end") -> bool:
    """Return whether the service has closed a connection, or sent the end of its response."""
    connection.setblocking(False)
    try:
        while content := connection.recv(1 << 16):
            if content.endswith(end):
                return True
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def refusals(service: ServiceProcess, status: str) -> float:
    with service.client(headers=KEY_HEADER) as client:
        lines = client.get("/metrics").text.splitlines()
    name = f'mondrian_refused_total{{status="{status}"}} '
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0)


def test_child_processes_inherit_no_key(service: ServiceProcess, pending_job: str) -> None:
    children = psutil.Process(service.process.pid).children()
    commands = " ".join(" ".join(child.cmdline()) for child in children)
    assert "mondrian.serving.worker" in commands
    assert "photo_decoder" in commands
    for child in children:
        assert KEY not in child.environ().values()


@pytest.mark.parametrize("count", [330, 1000])
def test_idle_connections(service: ServiceProcess, photo: bytes, count: int) -> None:
    """They are opened by two processes, which may have few open files."""
    command = [sys.executable, "-c", OPEN_CONNECTIONS, str(port_of(service)), str(count // 2)]
    before = refusals(service, "closed")
    with unharmed(service, photo), ExitStack() as stack:
        for _ in range(2):
            attacker = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            stack.callback(attacker.kill)
        wait_for(lambda: refusals(service, "closed") >= before + count)  # after the time limit


def test_slow_bodies_of_every_route(
    service: ServiceProcess, photo: bytes, pending_job: str
) -> None:
    with unharmed(service, photo), ExitStack() as stack:
        small = []
        for method, path in ROUTES_WITH_BODY:
            path = re.sub(r"{\w+}", pending_job, path)
            for content_type, start in ((MULTIPART, FORM), ("application/json", b'{"a":')):
                head = "\r\n".join(
                    (
                        f"{method} {path} HTTP/1.1",
                        "Host: 127.0.0.1",
                        f"X-API-Key: {KEY}",
                        f"Content-Type: {content_type}",
                        "Content-Length: 5000",
                    )
                )
                for _ in range(5):
                    content = head.encode() + b"\r\n\r\n" + start
                    connection = stack.enter_context(connected(service, content))
                    if content_type != MULTIPART:
                        small.append(connection)
        # Some are refused before their body is read, and closed soon after.
        wait_for(lambda: all(map(has_ended, small)))
    assert len(ROUTES_WITH_BODY) >= 12
    assert refusals(service, "408") >= 20


def test_large_uploads_at_once(service: ServiceProcess, photo: bytes) -> None:
    large = photo + random.Random(1).randbytes(38_000_000)

    def upload(_: int) -> int:
        with service.client(headers=KEY_HEADER) as client:
            files, fields = {"image": ("a.jpg", large)}, {"auto_analyze": "false"}
            return client.post("/upload", files=files, data=fields).status_code

    with unharmed(service, photo), ThreadPoolExecutor(30) as pool:
        assert set(pool.map(upload, range(30))) == {201}


def test_3000_wrong_keys(service: ServiceProcess, photo: bytes) -> None:
    rng, statuses = random.Random(1), Counter[int]()

    def guess(count: int) -> None:
        with service.client() as client:
            for _ in range(count):
                headers = {"x-api-key": f"{rng.getrandbits(128):032x}"}
                response = client.get("/jobs", headers=headers)
                statuses[response.status_code] += 1
                assert response.status_code == 401 or int(response.headers["retry-after"]) >= 1

    with unharmed(service, photo), ThreadPoolExecutor(6) as pool:
        list(pool.map(guess, [500] * 6))
    assert statuses[401] + statuses[429] == 3000
    assert statuses[429] > 2900


def test_many_event_streams(service: ServiceProcess, photo: bytes, pending_job: str) -> None:
    def request(path: str) -> bytes:
        head = f"GET {path}{pending_job} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\n\r\n"
        return head.encode()

    with unharmed(service, photo), ExitStack() as stack:
        streams = [
            stack.enter_context(connected(service, request(path)))
            for path in ("/live?ids=", "/stream/") * 100
        ]
        with service.client(headers=KEY_HEADER) as client:
            with client.stream("GET", f"/stream/{pending_job}") as newest:
                lines = newest.iter_lines()
                assert next(lines) == "event: connected"
                assert any("heartbeat" in line for line in lines)  # it goes on
        ended = [has_ended(stream, b"\r\n0\r\n\r\n") for stream in streams]
    assert sum(ended) >= len(streams) - 64
    assert ended[0]
    assert not ended[-1]
