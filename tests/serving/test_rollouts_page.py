"""The page of roll-outs and its API: over a database as days of service would have left it."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from mondrian.rollout.actions import apply_action
from mondrian.rollout.config import RolloutConfig, load_rollout
from mondrian.rollout.store import RolloutRecord, RolloutStore
from tests import browsing
from tests.browsing import opened, too_wide
from tests.conftest import ROOT
from tests.rollout_world import begun, database, served, site, world

EVIL = "<script>hacked = 1</script><img src=x onerror='hacked = 1'>\"'</title></svg>"
KEY = "a key of more than sixteen characters"


@pytest.fixture(scope="module")
def plan() -> RolloutConfig:
    return load_rollout(ROOT / "rollout.yaml")


@pytest.fixture
def found(tmp_path: Path) -> tuple[RolloutStore, RolloutRecord]:
    return world(tmp_path / "mondrian.db")


@pytest.fixture
def client(
    found: tuple[RolloutStore, RolloutRecord], plan: RolloutConfig, tmp_path: Path
) -> Iterator[httpx2.Client]:
    with (
        site(tmp_path / "mondrian.db", plan) as url,
        httpx2.Client(base_url=url, trust_env=False, timeout=30) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing.browser() as started:
        yield started


def current(found: tuple[RolloutStore, RolloutRecord]) -> RolloutRecord:
    entry = found[0].get(found[1].id)
    assert entry
    return entry


def test_the_page_tells_status_steps_guardrails_metrics_and_decisions(
    client: httpx2.Client,
) -> None:
    page = client.get("/experiments")
    assert page.status_code == 200
    for part in (
        "Ansel Adams: ansel@v2.0.0",
        "against ansel@v1.0.0",
        "<b>healthy</b>",
        "failed, at first or for good",
        "critiques slower than 120 s",
        "Success is approval",
        'class="chart"',
        "49 of 100 critiques",
        "by service",
    ):
        assert part in page.text
    assert page.text.count("<svg") > 20
    assert 'aria-current="page">Experiments' in page.text


def test_programs_get_the_same_as_json_and_csv(client: httpx2.Client) -> None:
    told = client.get("/api/experiments").json()
    assert told["steered"]
    assert told["older"] == []
    assert told["experiments"][0]["verdict"]["status"] == "healthy"
    assert client.get("/api/experiments?advisor=monet").json()["experiments"] == []
    sheet = client.get("/api/experiments.csv")
    assert sheet.headers["content-type"].startswith("text/csv")
    assert len(list(csv.reader(sheet.text.splitlines()))) > 1000


def test_a_person_decides_by_form_and_a_program_by_json(
    client: httpx2.Client, found: tuple[RolloutStore, RolloutRecord]
) -> None:
    of = found[1].id
    form = {"reason": "the numbers\nlook odd", "who": "Ana"}
    done = client.post(f"/experiments/{of}/hold", data=form)
    assert (done.status_code, done.headers["location"]) == (303, f"/experiments/{of}")
    assert "held by a person: the numbers look odd" in client.get(f"/experiments/{of}").text
    assert found[0].list_decisions(of)[0].who == "Ana (page)"
    body = {"reason": "curt", "revision": current(found).revision}
    told = client.post(f"/api/experiments/{of}/rollback", json=body).json()
    assert (told["state"], told["verdict"]["status"]) == ("rolled back", "rolled back")
    assert found[0].list_decisions(of)[0].who == "a program (API)"
    assert "Begin again at 5 %" in client.get("/experiments").text


@pytest.mark.parametrize(
    ("action", "form", "status", "words"),
    [
        ("rollback", {"who": "Ana"}, 400, "say why ansel@v2.0.0 is rolled back"),
        ("advance", {}, 400, "is not ready but healthy"),
        ("resume", {"reason": "go"}, 409, "is running already"),
        ("hold?revision=0", {}, 409, "was changed meanwhile"),
        ("hold?revision=x", {}, 409, "was changed meanwhile"),
        ("explode", {"reason": "go"}, 404, "a roll-out can advance"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(
    client: httpx2.Client,
    found: tuple[RolloutStore, RolloutRecord],
    action: str,
    form: dict[str, str],
    status: int,
    words: str,
) -> None:
    before = current(found)
    told = client.post(f"/experiments/{before.id}/{action}", data=form)
    assert (told.status_code, words in told.text) == (status, True)
    assert current(found) == before
    if status == 400 and form:
        assert 'value="Ana"' in told.text  # nothing has to be typed twice


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[1", 400),
        (b"{}", 400),
        (b'{"reason": ""}', 400),
        (b'{"reason": "x", "more": 1}', 400),
        (b'{"reason": "x", "revision": 99}', 409),
        (b'{"reason": "\\ud800"}', 400),
        (b"\xff", 400),
    ],
)
def test_a_bad_body_is_refused(
    client: httpx2.Client, found: tuple[RolloutStore, RolloutRecord], body: bytes, status: int
) -> None:
    told = client.post(f"/api/experiments/{found[1].id}/rollback", content=body)
    assert (told.status_code, list(told.json())) == (status, ["error"])
    assert current(found).state == "running"


@pytest.mark.parametrize(
    "path",
    [
        "ansel/none",
        "%00/%00",
        "..%2f..%2fetc/passwd",
        "ansel/%ff",
        "%27%20OR%201=1--/x",
        "a/" + "b" * 5000,
        "<script>/x",
    ],
)
def test_hostile_paths_lead_nowhere(client: httpx2.Client, path: str) -> None:
    for told in (
        client.get(f"/experiments/{path}"),
        client.post(f"/experiments/{path}/hold", data={"reason": "x"}),
        client.post(f"/api/experiments/{path}/hold", json={"reason": "x"}),
    ):
        assert told.status_code == 404
        assert "<script>/x" not in told.text


def test_another_page_cannot_decide_and_a_key_is_needed(
    found: tuple[RolloutStore, RolloutRecord], plan: RolloutConfig, tmp_path: Path
) -> None:
    with (
        site(tmp_path / "mondrian.db", plan, KEY) as url,
        httpx2.Client(base_url=url, trust_env=False) as client,
    ):
        for path in (f"/experiments/{found[1].id}/hold", f"/api/experiments/{found[1].id}/hold"):
            assert client.post(path, json={"reason": "x"}).status_code == 401
            far = {"origin": "https://elsewhere.example", "x-api-key": KEY}
            assert client.post(path, json={"reason": "x"}, headers=far).status_code == 403
        assert client.get("/api/experiments").status_code == 401
    assert current(found).state == "running"


def test_without_rollout_the_page_says_what_that_means_and_only_shows(
    found: tuple[RolloutStore, RolloutRecord], tmp_path: Path
) -> None:
    database(tmp_path / "empty.db")
    for name, shown in (("mondrian.db", True), ("empty.db", False)):
        with (
            site(tmp_path / name) as url,
            httpx2.Client(base_url=url, trust_env=False, timeout=30) as client,
        ):
            page = client.get("/experiments").text
            assert "This service runs without <code>--rollout</code>" in page
            assert ("ansel@v2.0.0" in page) == shown
            assert "<button" not in page
            assert client.get("/api/experiments").json()["steered"] is False
            done = client.post(f"/experiments/{found[1].id}/hold", data={"reason": "x"})
            assert done.status_code == (409 if shown else 404)


def test_older_roll_outs_have_a_page_without_buttons(
    client: httpx2.Client, found: tuple[RolloutStore, RolloutRecord]
) -> None:
    begun(found[0], version="0ld", name="ansel@v1.0.0", days=30)
    assert 'href="/experiments/ansel/0ld"' in client.get("/experiments").text
    old = client.get("/experiments/ansel/0ld").text
    assert "ansel@v1.0.0" in old
    assert "<button" not in old
    assert client.get("/api/experiments").json()["older"][0]["version"] == "0ld"


def evil_world(path: Path, plan: RolloutConfig) -> None:
    told = database(path)
    entry = begun(told, advisor=EVIL.replace("/", ""), name=EVIL, control=EVIL)
    served(told, entry, count=60)
    for action in ("hold", "rollback"):
        newest = told.get(entry.id)
        assert newest
        apply_action(told, plan, newest, action, EVIL, EVIL)


def expect_status(page: Page, status: str) -> None:
    expect(page.locator(".status").first).to_have_text(status)


@pytest.mark.slow
def test_names_and_reasons_are_text_and_nothing_else(
    browser: Browser, plan: RolloutConfig, tmp_path: Path
) -> None:
    evil_world(tmp_path / "evil.db", plan)
    with (
        site(tmp_path / "evil.db", plan) as url,
        opened(browser, url) as (page, _),
    ):
        page.goto("/experiments")
        expect(page.locator("h2")).to_contain_text(EVIL)
        expect(page.locator(".log li").first).to_contain_text(EVIL)
        assert page.evaluate("typeof hacked") == "undefined"


@pytest.mark.slow
def test_a_person_holds_and_rolls_back_with_keys_alone_and_without_javascript(
    browser: Browser, found: tuple[RolloutStore, RolloutRecord], plan: RolloutConfig, tmp_path: Path
) -> None:
    with (
        site(tmp_path / "mondrian.db", plan) as url,
        opened(browser, url, faulty=True, java_script_enabled=False) as (page, _),
    ):
        page.goto("/experiments")
        page.get_by_label("Your name").focus()
        page.keyboard.type("Ana")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect_status(page, "holding")
        page.get_by_role("button", name="Roll back").click()
        expect(page.get_by_role("alert")).to_contain_text("say why")
        page.get_by_label("Why").fill("it is curt")
        page.get_by_role("button", name="Roll back").click()
        expect_status(page, "rolled back")
        expect(page.locator(".why")).to_have_text("it is curt")
        page.get_by_role("button", name="Begin again at 5 %").click()
        expect_status(page, "no data")
    assert [one.action for one in found[0].list_decisions(found[1].id)[:3]] == [
        "resume",
        "roll back",
        "hold",
    ]


def states(folder: Path, plan: RolloutConfig) -> dict[str, Path]:
    """A database for each way that a roll-out can be."""
    paths = {
        name: folder / f"{name.replace(' ', '-')}.db"
        for name in ("no data", "healthy", "holding", "ready", "rolled back")
    }
    begun(database(paths["no data"]), days=0.2, shares=(0.05,))
    world(paths["healthy"])
    told, entry = world(paths["holding"])
    apply_action(told, plan, entry, "hold", "Ana", "a long reason, " * 30)
    ready = database(paths["ready"])
    entry = begun(ready, days=3, shares=(0.5,))
    served(ready, entry, days=3, shares=(0.5,))
    told, entry = world(paths["rolled back"], up=(0.5, 0.8), slow=0.2, failing=0.1)
    apply_action(told, plan, entry, "rollback", "Ana", "it is curt")
    return paths


@pytest.mark.slow
def test_every_state_is_shown_readable_wide_and_narrow_light_and_dark(
    browser: Browser, plan: RolloutConfig, tmp_path: Path
) -> None:
    for name, path in states(tmp_path, plan).items():
        with site(path, plan) as url:
            for width, scheme in ((1280, "light"), (390, "dark")):
                options: dict[str, Any] = {"color_scheme": scheme}
                with opened(browser, url, width, **options) as (page, _):
                    page.goto("/experiments")
                    expect_status(page, name)
                    assert too_wide(page) == 0
                    told = page.evaluate(browsing.FAINT)
                    assert told["seen"] > 40
                    assert told["faint"] == []
                    assert page.evaluate(browsing.NAMELESS) == 0
                    for chart in page.locator("svg.chart[role=img]").all():
                        assert chart.get_attribute("aria-label")


def test_a_page_over_thousands_of_jobs_comes_soon(
    found: tuple[RolloutStore, RolloutRecord], plan: RolloutConfig, tmp_path: Path
) -> None:
    told, entry = found
    served(told, replace(entry, version="many"), count=10_000)
    with told.engine.begin() as connection:
        moved = "UPDATE jobs SET subject = 'other-' || subject WHERE id LIKE 'many-%'"
        connection.exec_driver_sql(moved)
    with (
        site(tmp_path / "mondrian.db", plan) as url,
        httpx2.Client(base_url=url, trust_env=False, timeout=30) as client,
    ):
        began = time.monotonic()
        page = client.get("/experiments")
        assert page.status_code == 200
        assert time.monotonic() - began < 10
        assert len(page.content) < 1_000_000
