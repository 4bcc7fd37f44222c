"""What today's clients send and read, replayed against the running service.

tests/serving/exchanges holds one file for each call of the application's HTTP contract: who makes
it, what it sends, and what it needs of the answer. They are written from the contract, not from our
answers; tests/shapes.py explains their words.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
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
from tests.service_process import TINY, Running, running
from tests.shapes import differences, events, html_differences

pytestmark = pytest.mark.slow
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
    given: str
    request: dict[str, Any]
    answer: dict[str, Any]
    outlines: dict[str, dict[str, Any]]


def read_exchanges() -> tuple[list[Exchange], set[int]]:
    """All of them, and the numbers of the contract's items that they cover."""
    found, items = [], set()
    for path in sorted(FOLDER.glob("*.json")):
        told = json.loads(path.read_text())
        items |= set(told["items"])
        for one in told["exchanges"]:
            name = f"{path.stem}: {one['what']}"
            outlines = told.get("outlines", {})
            found.append(Exchange(name, one["given"], one["request"], one["answer"], outlines))
    return found, items


EXCHANGES, ITEMS = read_exchanges()


@dataclass
class World:
    """The services of this module, and what a call may find there; `known` is made once."""

    service: Running
    photograph: bytes
    others: Callable[[str], Running]
    known: dict[str, str] = field(default_factory=dict)

    def given(self, what: str) -> tuple[Running, dict[str, str]]:
        """The service that is asked, and what stands for {…} in the call."""
        if what.startswith("a service"):
            return self.others(what), {}
        if what == "nothing":
            return self.service, {}
        makers: dict[str, Callable[[], str]] = {
            "a finished job": self.finished,
            "a job that waits": lambda: self.upload(auto_analyze="false"),
            "a job just uploaded": self.upload,
            "a failed job": self.failed,
            "a job done in 2025": lambda: self.stored("done", analysis_html=OLD_PAGE),
            "a job that another program works on": lambda: self.stored(
                "processing", llm_thinking="Generating analysis... (150 tokens, 44.1 tps)"
            ),
        }
        id = makers[what]()
        with self.service.client() as client:
            return self.service, {
                "id": id,
                "filename": client.get(f"/status/{id}").json()["filename"],
            }

    def upload(self, **fields: str) -> str:
        with self.service.client() as client:
            files = {"image": ("lake.jpg", self.photograph)}
            told = client.post("/upload", files=files, data={"advisor": "ansel", **fields})
            assert told.status_code == 201, told.text
            return str(told.json()["job_id"])

    def finished(self) -> str:
        with self.service.client() as client:
            id = self.known.get("finished", "")
            if not id or client.get(f"/status/{id}").status_code != 200:
                id = self.known["finished"] = self.upload()
            return wait_until(client, id, "completed")

    def failed(self) -> str:
        id = self.upload(auto_analyze="false")
        with self.service.client() as client:
            assert client.put(f"/jobs/{id}", json={"status": "failed"}).status_code == 200
        return id

    def stored(self, status: str, **columns: str) -> str:
        """A row that another program wrote, as today's application does."""
        id = f"job-{status}"
        row = {
            "id": id,
            "status": status,
            "advisor": "ansel",
            "filename": "lake.jpg",
            "created_at": "2025-11-02T10:00:00",
            **columns,
        }
        connection = sqlite3.connect(self.service.db, timeout=30)
        with connection:
            marks = ", ".join("?" for _ in row)
            command = f"INSERT OR REPLACE INTO jobs ({', '.join(row)}) VALUES ({marks})"
            connection.execute(command, list(row.values()))
        connection.close()
        return id


def wait_until(client: httpx2.Client, id: str, status: str) -> str:
    deadline = time.monotonic() + 60
    while (told := client.get(f"/status/{id}").json())["status"] != status:
        assert told["status"] != "failed", told["error"]
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
    return id


def jpeg(photo: Image.Image) -> bytes:
    kept = BytesIO()
    photo.save(kept, "JPEG", quality=95)
    return kept.getvalue()


@pytest.fixture(scope="module")
def world(
    adapters: Path, photos: list[Image.Image], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A service with an adapter of ansel alone; others are started when a call wants them."""
    with ExitStack() as started:

        def start(what: str) -> Running:
            if what not in known:
                folder = tmp_path_factory.mktemp("other")
                loads = what == "a service that loads"
                base = TINY if loads else str(folder)  # an empty folder holds no model
                known[what] = started.enter_context(running(folder, base=base, ready=False))
                if loads:
                    started.callback(hold_its_model(known[what]))
                else:
                    wait_until_broken(known[what])
            return known[what]

        known: dict[str, Running] = {}
        folder = tmp_path_factory.mktemp("service")
        lora_path = adapters / "mondrian-tiny-lora-ansel"
        service = started.enter_context(running(folder, "--lora_path", lora_path))
        yield World(service, jpeg(photos[0]), start)


def hold_its_model(service: Running) -> Callable[[], None]:
    """Stop a model process before it has loaded; what is returned lets it go on."""
    while not (children := psutil.Process(service.process.pid).children()):
        time.sleep(0.005)
    children[0].suspend()
    return children[0].resume


def wait_until_broken(service: Running) -> None:
    with service.client() as client:
        deadline = time.monotonic() + 60
        while client.get("/health").json()["status"] != "error":
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_every_item_of_the_contract_has_its_exchange() -> None:
    assert len(EXCHANGES) > 50
    assert set(range(1, 42)) == ITEMS | set(NOT_CALLS)
    assert not ITEMS & set(NOT_CALLS)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
def test_a_client_of_today_reads_what_it_needs(exchange: Exchange, world: World) -> None:
    service, values = world.given(exchange.given)
    wanted = filled(exchange.answer, values)
    with service.client() as client, sent(client, filled(exchange.request, values), world) as told:
        assert told.status_code == wanted["status"], told.read()
        assert told.headers["content-type"].split(";")[0] == wanted["type"]
        for name, value in wanted.get("headers", {}).items():
            assert told.headers[name] == value
        if "events" in wanted:
            assert_events(told, wanted["events"])
            return
        told.read()
        html = wanted.get("html", {})
        pages = (
            {html: told.text}
            if isinstance(html, str)
            else {outline: told.json()[name] for name, outline in html.items()}
        )
        faults = [
            fault
            for name, page in pages.items()
            for fault in html_differences(page, exchange.outlines[name])
        ]
        if "fields" in wanted:
            faults += differences(told.json(), wanted["fields"])
        assert not faults, "\n".join(faults)


def filled(told: Any, values: dict[str, str]) -> Any:
    """With {id} and {filename} in the place of which they stand."""
    if isinstance(told, dict):
        return {name: filled(one, values) for name, one in told.items()}
    if isinstance(told, list):
        return [filled(one, values) for one in told]
    if isinstance(told, str):
        for name, value in values.items():
            told = told.replace(f"{{{name}}}", value)
    return told


def sent(client: httpx2.Client, request: dict[str, Any], world: World) -> Any:
    """The call of an exchange, its answer still to be read."""
    heic = (ROOT / "tests/core/rendered.heic").read_bytes()
    files = {
        name: (file, heic if file.endswith(".heic") else world.photograph)
        for name, file in request.get("files", {}).items()
    }
    fields = request.get("fields", {})
    form: dict[str, Any] = {"files": files, "data": fields} if files else {"data": fields}
    body = {"json": request["json"]} if "json" in request else form
    if request["method"] in ("GET", "DELETE"):
        body = {}
    return client.stream(request["method"], request["path"], **body)


def assert_events(told: httpx2.Response, wanted: dict[str, Any]) -> None:
    """Names in their order, and what each carries."""
    names: list[str] = []
    faults: list[str] = []
    for name, data in events(told.iter_lines()):
        assert bool(name) == wanted["named"]
        names.append(name or data["type"])
        faults += differences(data, wanted["data"].get(names[-1], {}), names[-1])
        if names[-1] == wanted.get("until"):
            break
    assert re.fullmatch(wanted["order"], " ".join(names)), names
    assert not faults, "\n".join(faults)


def test_the_three_weakest_dimensions_come_first_the_lowest_before_all(world: World) -> None:
    with world.service.client() as client:
        files = {"image": ("lake.jpg", world.photograph)}
        told = client.post("/analyze", files=files, data={"advisor": "okeefe"}).json()
    ranked = sorted(told["analysis"]["dimensions"], key=lambda one: one["score"])[:3]
    lines = [f"{one['name']} ({one['score']:g}/10): {one['recommendation']}" for one in ranked]
    page = lxml.html.fromstring(told["summary_html"])
    assert [one.text_content() for one in page.xpath("//p[@class='rec-text']")] == lines
    assert told["summary"] == "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))


def test_a_job_goes_forward_and_never_back(world: World) -> None:
    id = world.upload(advisor="ansel,okeefe")
    with world.service.client() as client, client.stream("GET", f"/stream/{id}") as told:
        seen = [data["job_data"] for name, data in events(told.iter_lines()) if "job_data" in data]
    order = ("queued", "analyzing", "completed")
    states = [order.index(one["status"]) for one in seen]
    shares = [one["progress_percentage"] for one in seen]
    assert states == sorted(states)
    assert shares == sorted(shares)
    assert (states[-1], shares[-1], seen[-1]["current_step"]) == (2, 100, "Analysis complete")
