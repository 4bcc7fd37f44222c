"""The page of rollouts and its API, over a database as days of service would have left it."""

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from mondrian.rollout.actions import apply_action
from mondrian.rollout.activation import activate_by_name
from mondrian.rollout.config import RolloutConfig, load_rollout_config
from mondrian.rollout.store import Actor, RolloutRecord, RolloutStore
from tests import browsing
from tests.browsing import open_page, overflow_width
from tests.conftest import ROOT
from tests.rollout_world import (
    add_jobs,
    create_database,
    create_healthy_rollout,
    serve_pages,
    start_rollout,
)
from tests.waiting import PATIENCE

HOSTILE = "<script>hacked = 1</script><img src=x onerror='hacked = 1'>\"'</title></svg>"
KEY = "a key of more than sixteen characters"


@pytest.fixture(scope="module")
def config() -> RolloutConfig:
    return load_rollout_config(ROOT / "rollout.yaml")


@pytest.fixture
def rollout(tmp_path: Path) -> tuple[RolloutStore, RolloutRecord]:
    return create_healthy_rollout(tmp_path / "mondrian.db")


@pytest.fixture
def client(
    rollout: tuple[RolloutStore, RolloutRecord], config: RolloutConfig, tmp_path: Path
) -> Iterator[httpx2.Client]:
    with (
        serve_pages(tmp_path / "mondrian.db", config) as url,
        httpx2.Client(base_url=url, trust_env=False, timeout=PATIENCE) as client,
    ):
        yield client


def current(rollout: tuple[RolloutStore, RolloutRecord]) -> RolloutRecord:
    store, record = rollout
    newest = store.get(record.id)
    assert newest
    return newest


def test_the_page_shows_status_steps_guardrails_metrics_and_decisions(
    client: httpx2.Client,
) -> None:
    page = client.get("/experiments")
    assert page.status_code == 200
    for text in (
        "Ansel Adams: ansel@v2.0.0",
        "against ansel@v1.0.0",
        "<b>healthy</b>",
        "failed, or needed a retry",
        "critiques slower than 120 s",
        "Success metric: approval",
        'class="chart"',
        "49 of 100 critiques",
        "by service",
    ):
        assert text in page.text
    assert re.search(r"of \d+ clients\);</span> .*at most 5 %; control \d", page.text)
    assert page.text.count("<svg") > 20
    assert 'aria-current="page">Experiments' in page.text


def test_the_api_returns_the_report_as_json_and_csv(client: httpx2.Client) -> None:
    listing = client.get("/api/experiments").json()
    assert listing["managed"]
    assert listing["older"] == []
    assert listing["experiments"][0]["verdict"]["status"] == "healthy"
    assert client.get("/api/experiments?advisor=monet").json()["experiments"] == []
    table = client.get("/api/experiments.csv")
    assert table.headers["content-type"].startswith("text/csv")
    assert len(list(csv.reader(table.text.splitlines()))) > 1000


def test_the_page_and_the_api_change_a_rollout(
    client: httpx2.Client, rollout: tuple[RolloutStore, RolloutRecord]
) -> None:
    store, id = rollout[0], rollout[1].id
    form = {"reason": "the numbers\nlook odd", "who": "Ana"}
    response = client.post(f"/experiments/{id}/hold", data=form)
    assert (response.status_code, response.headers["location"]) == (303, f"/experiments/{id}")
    assert (
        "held until a person resumes it: the numbers look odd"
        in client.get(f"/experiments/{id}").text
    )
    assert store.list_decisions(id)[0].who == "Ana (page)"
    body = {"reason": "curt", "revision": current(rollout).revision}
    report = client.post(f"/api/experiments/{id}/rollback", json=body).json()
    assert (report["state"], report["verdict"]["status"]) == ("rolled back", "rolled back")
    assert store.list_decisions(id)[0].who == "a program (API)"
    assert "Start again at 5 %" in client.get("/experiments").text


@pytest.mark.parametrize(
    ("action", "form", "status", "message"),
    [
        ("rollback", {"who": "Ana"}, 400, "give a reason to roll back ansel@v2.0.0"),
        ("advance", {}, 400, "is healthy, not ready"),
        ("resume", {"reason": "go"}, 409, "is already running"),
        ("hold?revision=0", {}, 409, "was changed in the meantime"),
        ("hold?revision=x", {}, 409, "was changed in the meantime"),
        ("explode", {"reason": "go"}, 404, "expected advance, hold, resume, rollback"),
    ],
)
def test_an_action_that_is_not_allowed_is_explained_and_changes_nothing(
    client: httpx2.Client,
    rollout: tuple[RolloutStore, RolloutRecord],
    action: str,
    form: dict[str, str],
    status: int,
    message: str,
) -> None:
    before = current(rollout)
    response = client.post(f"/experiments/{before.id}/{action}", data=form)
    assert response.status_code == status
    assert message in response.text
    assert current(rollout) == before
    if status == 400 and form:
        assert 'value="Ana"' in response.text  # the form keeps its inputs


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
    client: httpx2.Client, rollout: tuple[RolloutStore, RolloutRecord], body: bytes, status: int
) -> None:
    response = client.post(f"/api/experiments/{rollout[1].id}/rollback", content=body)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert current(rollout).state == "running"


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
    for response in (
        client.get(f"/experiments/{path}"),
        client.post(f"/experiments/{path}/hold", data={"reason": "x"}),
        client.post(f"/api/experiments/{path}/hold", json={"reason": "x"}),
    ):
        assert response.status_code == 404
        assert "<script>/x" not in response.text


def test_another_origin_cannot_act_and_an_api_key_is_required(
    rollout: tuple[RolloutStore, RolloutRecord], config: RolloutConfig, tmp_path: Path
) -> None:
    with (
        serve_pages(tmp_path / "mondrian.db", config, KEY) as url,
        httpx2.Client(base_url=url, trust_env=False) as client,
    ):
        for path in (
            f"/experiments/{rollout[1].id}/hold",
            f"/api/experiments/{rollout[1].id}/hold",
        ):
            assert client.post(path, json={"reason": "x"}).status_code == 401
            headers = {"origin": "https://elsewhere.example", "x-api-key": KEY}
            response = client.post(path, json={"reason": "x"}, headers=headers)
            assert response.status_code == 403
        assert client.get("/api/experiments").status_code == 401
    assert current(rollout).state == "running"


def test_without_rollout_yaml_the_page_explains_it_and_has_no_buttons(
    rollout: tuple[RolloutStore, RolloutRecord], tmp_path: Path
) -> None:
    create_database(tmp_path / "empty.db")
    for name, has_rollout in (("mondrian.db", True), ("empty.db", False)):
        with (
            serve_pages(tmp_path / name) as url,
            httpx2.Client(base_url=url, trust_env=False, timeout=PATIENCE) as client,
        ):
            page = client.get("/experiments").text
            assert "This service runs without <code>--rollout</code>" in page
            assert ("ansel@v2.0.0" in page) == has_rollout
            assert "<button" not in page
            assert client.get("/api/experiments").json()["managed"] is False
            response = client.post(f"/experiments/{rollout[1].id}/hold", data={"reason": "x"})
            assert response.status_code == (409 if has_rollout else 404)


def test_older_rollouts_have_a_page_without_buttons(
    client: httpx2.Client, rollout: tuple[RolloutStore, RolloutRecord]
) -> None:
    start_rollout(rollout[0], version="0ld", name="ansel@v1.0.0", days=30)
    assert 'href="/experiments/ansel/0ld"' in client.get("/experiments").text
    page = client.get("/experiments/ansel/0ld").text
    assert "ansel@v1.0.0" in page
    assert "<button" not in page
    assert client.get("/api/experiments").json()["older"][0]["version"] == "0ld"


def test_the_page_and_the_api_show_the_version_that_serves_after_a_rollback(
    client: httpx2.Client, rollout: tuple[RolloutStore, RolloutRecord], tmp_path: Path
) -> None:
    store, record = rollout
    start_rollout(store, version="0ld", name="ansel@v1.0.0", days=30)
    assert 'ansel@v1.0.0</a> <span class="soft">replaced' in client.get("/experiments").text
    actor = Actor("ana", "mondrian rollback to ansel@v1.0.0")
    activate_by_name(str(tmp_path / "mondrian.db"), "ansel@v1.0.0", record.name, actor)
    page = client.get("/experiments").text
    assert "Ansel Adams: ansel@v1.0.0" in page
    assert 'ansel@v2.0.0</a> <span class="soft">rolled back' in page
    ended = client.get(f"/experiments/{record.id}").text
    assert "mondrian rollback to ansel@v1.0.0" in ended
    assert "<button" not in ended
    listing = client.get("/api/experiments").json()
    assert [report["name"] for report in listing["experiments"]] == ["ansel@v1.0.0"]
    assert [(r["name"], r["state"]) for r in listing["older"]] == [("ansel@v2.0.0", "rolled back")]
    response = client.post(f"/api/experiments/{record.id}/resume", json={"reason": "again"})
    assert response.status_code == 409
    assert "ansel@v2.0.0 is not active, ansel@v1.0.0 is" in response.json()["error"]


def test_the_page_shows_no_difference_of_few_observations(
    config: RolloutConfig, tmp_path: Path
) -> None:
    store = create_database(tmp_path / "few.db")
    record = start_rollout(store, days=2, shares=(0.5,))
    add_jobs(store, record, count=8, days=2, shares=(0.5,))
    with serve_pages(tmp_path / "few.db", config) as url:
        page = httpx2.get(f"{url}/experiments", trust_env=False).text
    assert page.count('<td class="number">–</td><td class="number">fewer than 5 per arm</td>') == 10
    assert "Difference, candidate minus control" not in page


def hostile_world(path: Path, config: RolloutConfig) -> None:
    store = create_database(path)
    record = start_rollout(store, advisor=HOSTILE.replace("/", ""), name=HOSTILE, control=HOSTILE)
    add_jobs(store, record, count=60)
    for action in ("hold", "rollback"):
        actor = Actor(HOSTILE, HOSTILE)
        apply_action(store, config, current((store, record)), action, actor)


def expect_status(page: Page, status: str) -> None:
    expect(page.locator(".status").first).to_have_text(status)


@pytest.mark.slow
def test_names_and_reasons_are_escaped(
    browser: Browser, config: RolloutConfig, tmp_path: Path
) -> None:
    hostile_world(tmp_path / "hostile.db", config)
    with (
        serve_pages(tmp_path / "hostile.db", config) as url,
        open_page(browser, url) as (page, _),
    ):
        page.goto("/experiments")
        expect(page.locator("h2")).to_contain_text(HOSTILE)
        expect(page.locator(".log li").first).to_contain_text(HOSTILE)
        assert page.evaluate("typeof hacked") == "undefined"


@pytest.mark.slow
def test_a_person_holds_and_rolls_back_with_the_keyboard_and_without_javascript(
    browser: Browser,
    rollout: tuple[RolloutStore, RolloutRecord],
    config: RolloutConfig,
    tmp_path: Path,
) -> None:
    with (
        serve_pages(tmp_path / "mondrian.db", config) as url,
        open_page(browser, url, faulty=True, java_script_enabled=False) as (page, _),
    ):
        page.goto("/experiments")
        page.get_by_label("Your name").focus()
        page.keyboard.type("Ana")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect_status(page, "holding")
        page.get_by_role("button", name="Roll back").click()
        expect(page.get_by_role("alert")).to_contain_text("give a reason")
        page.get_by_label("Reason").fill("it is curt")
        page.get_by_role("button", name="Roll back").click()
        expect_status(page, "rolled back")
        expect(page.locator(".reason")).to_have_text("it is curt")
        page.get_by_role("button", name="Start again at 5 %").click()
        expect_status(page, "no data")
    log = rollout[0].list_decisions(rollout[1].id)
    assert [decision.action for decision in log[:3]] == ["resume", "roll back", "hold"]


def status_databases(folder: Path, config: RolloutConfig) -> dict[str, Path]:
    """Return a database for each status of a rollout."""
    paths = {
        name: folder / f"{name.replace(' ', '-')}.db"
        for name in ("no data", "healthy", "holding", "ready", "rolled back")
    }
    start_rollout(create_database(paths["no data"]), days=0.2, shares=(0.05,))
    create_healthy_rollout(paths["healthy"])
    on_hold = create_healthy_rollout(paths["holding"])
    apply_action(on_hold[0], config, on_hold[1], "hold", Actor("Ana", "a long reason, " * 30))
    ready = create_database(paths["ready"])
    add_jobs(ready, start_rollout(ready, days=3, shares=(0.5,)), days=3, shares=(0.5,))
    bad = create_healthy_rollout(paths["rolled back"], up=(0.5, 0.8), slow=0.2, failing=0.1)
    apply_action(bad[0], config, bad[1], "rollback", Actor("Ana", "it is curt"))
    return paths


@pytest.mark.slow
def test_every_status_is_readable_wide_and_narrow_light_and_dark(
    browser: Browser, config: RolloutConfig, tmp_path: Path
) -> None:
    for name, path in status_databases(tmp_path, config).items():
        with serve_pages(path, config) as url:
            for width, scheme in ((1280, "light"), (390, "dark")):
                options: dict[str, Any] = {"color_scheme": scheme}
                with open_page(browser, url, width, **options) as (page, _):
                    page.goto("/experiments")
                    expect_status(page, name)
                    assert overflow_width(page) == 0
                    contrast = page.evaluate(browsing.CONTRAST_SCRIPT)
                    assert contrast["seen"] > 40
                    assert contrast["faint"] == []
                    assert page.evaluate(browsing.UNLABELED_SCRIPT) == 0
                    for chart in page.locator("svg.chart[role=img]").all():
                        assert chart.get_attribute("aria-label")


@pytest.mark.slow
def test_the_page_over_thousands_of_jobs_stays_small(
    rollout: tuple[RolloutStore, RolloutRecord], config: RolloutConfig, tmp_path: Path
) -> None:
    store, record = rollout
    add_jobs(store, replace(record, version="many"), count=10_000)
    with store.engine.begin() as connection:
        update = "UPDATE jobs SET subject = 'other-' || subject WHERE id LIKE 'many-%'"
        connection.exec_driver_sql(update)
    with (
        serve_pages(tmp_path / "mondrian.db", config) as url,
        httpx2.Client(base_url=url, trust_env=False, timeout=PATIENCE) as client,
    ):
        page = client.get("/experiments")
        assert page.status_code == 200
        assert len(page.content) < 1_000_000
