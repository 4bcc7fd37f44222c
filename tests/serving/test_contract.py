"""What existing clients send and read, replayed against the running service.

tests/serving/exchanges holds one file for each call of the application's HTTP contract: the client,
its request, and what it needs in the response. They are written from the contract, not from our
responses; tests/shapes.py explains their notation.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import lxml.html
import psutil
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.service_process import TINY, ServiceProcess, run_service
from tests.serving.service_jobs import wait_until
from tests.shapes import differences, html_differences, parse_events
from tests.waiting import PATIENCE, wait_for

FOLDER = ROOT / "tests/serving/exchanges"
NOT_CALLS = {1: "ports", 21: "a badge of older pages", 35: "a defect of the job worker"}
OLD_PAGE = (
    '<div class="feedback-card"><h3>Composition <span class="dimension-score">(8/10)</span></h3>'
    '<p class="feedback-comment">Calm.</p><div class="feedback-recommendation">Recommendation: '
    'wait.</div></div><div class="overall-grade-box"><p class="overall-grade-text">'
    "Overall Grade: 8.1/10</p></div>"
)


@dataclass
class Exchange:
    """One call of one file."""

    name: str
    setup: str
    request: dict[str, Any]
    response: dict[str, Any]
    outlines: dict[str, dict[str, Any]]


def read_exchanges() -> tuple[list[Exchange], set[int]]:
    """Return all exchanges, and the numbers of the contract's items that they cover."""
    exchanges, items = [], set()
    for path in sorted(FOLDER.glob("*.json")):
        content = json.loads(path.read_text())
        items |= set(content["items"])
        for exchange in content["exchanges"]:
            name = f"{path.stem}: {exchange['title']}"
            outlines = content.get("outlines", {})
            parts = (exchange["setup"], exchange["request"], exchange["response"])
            exchanges.append(Exchange(name, *parts, outlines))
    return exchanges, items


EXCHANGES, ITEMS = read_exchanges()


@dataclass
class ServiceStates:
    """The services of this module, and the jobs that an exchange can start from."""

    service: ServiceProcess
    photo: bytes
    start_other: Callable[[str], ServiceProcess]
    job_ids: dict[str, str] = field(default_factory=dict)

    def set_up(self, setup: str) -> tuple[ServiceProcess, dict[str, str]]:
        """Return the service for an exchange, and the values of its placeholders."""
        if setup.startswith("a service"):
            return self.start_other(setup), {}
        if setup == "nothing":
            return self.service, {"url": self.service.url}
        setups: dict[str, Callable[[], str]] = {
            "a finished job": self.add_finished_job,
            "a job that waits": lambda: self.upload(auto_analyze="false"),
            "a job just uploaded": self.upload,
            "a failed job": self.add_failed_job,
            "a job done in 2025": lambda: self.insert_row("done", analysis_html=OLD_PAGE),
            "a job that another program works on": lambda: self.insert_row(
                "processing", llm_thinking="Generating analysis... (150 tokens, 44.1 tps)"
            ),
        }
        id = setups[setup]()
        with self.service.client() as client:
            return self.service, {
                "url": self.service.url,
                "id": id,
                "filename": client.get(f"/status/{id}").json()["filename"],
            }

    def upload(self, **fields: str) -> str:
        with self.service.client() as client:
            files = {"image": ("lake.jpg", self.photo)}
            response = client.post("/upload", files=files, data={"advisor": "ansel", **fields})
            assert response.status_code == 201, response.text
            return str(response.json()["job_id"])

    def add_finished_job(self) -> str:
        with self.service.client() as client:
            id = self.job_ids.get("finished", "")
            if not id or client.get(f"/status/{id}").status_code != 200:
                id = self.job_ids["finished"] = self.upload()
            return wait_until(client, id, "completed")

    def add_failed_job(self) -> str:
        id = self.upload(auto_analyze="false")
        with self.service.client() as client:
            assert client.put(f"/jobs/{id}", json={"status": "failed"}).status_code == 200
        return id

    def insert_row(self, status: str, **columns: str) -> str:
        """Insert a row as the existing application does; return its id."""
        id = f"job-{status}"
        row = {
            "id": id,
            "status": status,
            "advisor": "ansel",
            "filename": "lake.jpg",
            "created_at": "2025-11-02T10:00:00",
            **columns,
        }
        connection = sqlite3.connect(self.service.db, timeout=PATIENCE)
        with connection:
            marks = ", ".join("?" for _ in row)
            command = f"INSERT OR REPLACE INTO jobs ({', '.join(row)}) VALUES ({marks})"
            connection.execute(command, list(row.values()))
        connection.close()
        return id


def jpeg(photo: Image.Image) -> bytes:
    content = BytesIO()
    photo.save(content, "JPEG", quality=95)
    return content.getvalue()


@pytest.fixture(scope="module")
def states(
    adapters: Path, photos: list[Image.Image], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceStates]:
    """A service with ansel's adapter; others are started when an exchange needs them."""
    with ExitStack() as stack:

        def start(setup: str) -> ServiceProcess:
            if setup not in services:
                folder = tmp_path_factory.mktemp("other")
                is_loading = setup == "a service that loads"
                base = TINY if is_loading else str(folder)  # an empty folder holds no model
                services[setup] = stack.enter_context(run_service(folder, base=base, ready=False))
                if is_loading:
                    stack.callback(suspend_model(services[setup]))
                else:
                    wait_until_failed(services[setup])
            return services[setup]

        services: dict[str, ServiceProcess] = {}
        folder = tmp_path_factory.mktemp("service")
        lora_path = adapters / "mondrian-tiny-lora-ansel"
        service = stack.enter_context(run_service(folder, "--lora_path", lora_path))
        yield ServiceStates(service, jpeg(photos[0]), start)


def suspend_model(service: ServiceProcess) -> Callable[[], None]:
    """Suspend a model process before it has loaded; return the call that resumes it."""
    model = wait_for(psutil.Process(service.process.pid).children)[0]
    model.suspend()
    return model.resume


def wait_until_failed(service: ServiceProcess) -> None:
    with service.client() as client:
        wait_for(lambda: client.get("/health").json()["status"] == "error", service.log)


def test_every_item_of_the_contract_has_an_exchange() -> None:
    assert len(EXCHANGES) > 50
    assert set(range(1, 47)) == ITEMS | set(NOT_CALLS)
    assert not ITEMS & set(NOT_CALLS)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
def test_todays_clients_get_the_responses_they_need(
    exchange: Exchange, states: ServiceStates
) -> None:
    service, values = states.set_up(exchange.setup)
    expected = fill_placeholders(exchange.response, values)
    with (
        service.client() as client,
        send(client, fill_placeholders(exchange.request, values), states) as response,
    ):
        assert response.status_code == expected["status"], response.read()
        assert response.headers["content-type"].split(";")[0] == expected["type"]
        for name, value in expected.get("headers", {}).items():
            assert response.headers[name] == value
        if "events" in expected:
            assert_events(response, expected["events"])
            return
        response.read()
        html = expected.get("html", {})
        pages = (
            {html: response.text}
            if isinstance(html, str)
            else {outline: response.json()[name] for name, outline in html.items()}
        )
        errors = [
            error
            for name, page in pages.items()
            for error in html_differences(page, exchange.outlines[name])
        ]
        if "fields" in expected:
            errors += differences(response.json(), expected["fields"])
        errors += [name for name in expected.get("absent", ()) if name in response.json()]
        if exchange.request["method"] == "HEAD":
            assert response.content == b""
        assert not errors, "\n".join(errors)


def fill_placeholders(content: Any, values: dict[str, str]) -> Any:
    """Replace {url}, {id} and {filename} by their values."""
    if isinstance(content, dict):
        return {name: fill_placeholders(item, values) for name, item in content.items()}
    if isinstance(content, list):
        return [fill_placeholders(item, values) for item in content]
    if isinstance(content, str):
        for name, value in values.items():
            content = content.replace(f"{{{name}}}", value)
    return content


def send(client: httpx2.Client, request: dict[str, Any], states: ServiceStates) -> Any:
    """Send the request of an exchange; the response is not yet read."""
    heic = (ROOT / "tests/core/rendered.heic").read_bytes()
    files = {
        name: (file, heic if file.endswith(".heic") else states.photo)
        for name, file in request.get("files", {}).items()
    }
    fields = request.get("fields", {})
    form: dict[str, Any] = {"files": files, "data": fields} if files else {"data": fields}
    body = {"json": request["json"]} if "json" in request else form
    if request["method"] in ("GET", "HEAD", "DELETE"):
        body = {}
    return client.stream(request["method"], request["path"], **body)


def assert_events(response: httpx2.Response, expected: dict[str, Any]) -> None:
    """Check the order of the events and the data of each."""
    names: list[str] = []
    errors: list[str] = []
    for name, data in parse_events(response.iter_lines()):
        assert bool(name) == expected["named"]
        names.append(name or data["type"])
        errors += differences(data, expected["data"].get(names[-1], {}), names[-1])
        if names[-1] == expected.get("until"):
            break
    assert re.fullmatch(expected["order"], " ".join(names)), names
    assert not errors, "\n".join(errors)


def test_the_summary_lists_the_three_weakest_dimensions_lowest_first(states: ServiceStates) -> None:
    with states.service.client() as client:
        files = {"image": ("lake.jpg", states.photo)}
        result = client.post("/analyze", files=files, data={"advisor": "okeefe"}).json()
    weakest = sorted(result["analysis"]["dimensions"], key=lambda d: d["score"])[:3]
    lines = [f"{d['name']} ({d['score']:g}/10): {d['recommendation']}" for d in weakest]
    page = lxml.html.fromstring(result["summary_html"])
    assert [node.text_content() for node in page.xpath("//p[@class='rec-text']")] == lines
    assert result["summary"] == "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))


def test_the_progress_of_a_job_never_goes_back(states: ServiceStates) -> None:
    id = states.upload(advisor="ansel,okeefe")
    with states.service.client() as client, client.stream("GET", f"/stream/{id}") as response:
        updates = [
            data["job_data"]
            for name, data in parse_events(response.iter_lines())
            if "job_data" in data
        ]
    order = ("queued", "analyzing", "completed")
    positions = [order.index(update["status"]) for update in updates]
    shares = [update["progress_percentage"] for update in updates]
    assert positions == sorted(positions)
    assert shares == sorted(shares)
    assert (positions[-1], shares[-1], updates[-1]["current_step"]) == (2, 100, "Analysis complete")
