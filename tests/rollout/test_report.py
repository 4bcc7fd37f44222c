"""The report on a rollout, its CSV, charts and text, and actions of a person."""

import csv
import json
import time
from io import StringIO
from math import isclose
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from mondrian.core.terminal import LINE_WIDTH
from mondrian.rollout.actions import (
    MAX_REASON_CHARS,
    InvalidTransitionError,
    MissingReasonError,
    apply_manual_action,
    clean_line,
)
from mondrian.rollout.charts import (
    ChartAxes,
    build_chart,
    build_guardrail_bar,
    build_page_charts,
    time_ticks,
)
from mondrian.rollout.config import RolloutConfig, load_rollout_config
from mondrian.rollout.formatting import format_interval, format_value, percent
from mondrian.rollout.metrics import METRICS
from mondrian.rollout.report import (
    CSV_COLUMNS,
    MAX_POINTS,
    SERIES_NAMES,
    build_rollout_report,
    render_csv,
)
from mondrian.rollout.store import Actor, RolloutRecord, RolloutStore
from mondrian.rollout.terminal import format_report, sparkline
from mondrian.storage.tables import jobs
from tests.conftest import ROOT
from tests.rollout_world import add_jobs, create_database, create_healthy_rollout, start_rollout

SHARE = {"kind": "share", "unit": ""}


@pytest.fixture(scope="module")
def config() -> RolloutConfig:
    return load_rollout_config(ROOT / "rollout.yaml")


@pytest.fixture(scope="module")
def rollout(tmp_path_factory: pytest.TempPathFactory) -> tuple[RolloutStore, RolloutRecord]:
    return create_healthy_rollout(tmp_path_factory.mktemp("world") / "mondrian.db")


@pytest.fixture(scope="module")
def report(rollout: tuple[RolloutStore, RolloutRecord], config: RolloutConfig) -> dict[str, Any]:
    return build_rollout_report(rollout[0], config, rollout[1], time.time())


def test_a_report_has_the_status_and_every_number_behind_it(report: dict[str, Any]) -> None:
    json.dumps(report, allow_nan=False)
    assert (report["name"], report["control"]) == ("ansel@v2.0.0", "ansel@v1.0.0")
    assert report["verdict"]["status"] == "healthy"
    assert "of 100 critiques, 40 h of 48 h" in report["verdict"]["reason"]
    statuses = [step["status"] for step in report["steps"]]
    assert statuses == ["done", "done", "current", "upcoming"]
    exposure, assignment = report["exposure"], report["assignment"]
    assert exposure["candidate"]["jobs"] + exposure["control"]["jobs"] == 300
    assert assignment["random_clients"] == 300
    assert isclose(assignment["actual"], exposure["candidate"]["clients"] / 300, rel_tol=1e-5)
    assert assignment["e_value"] < assignment["alarm_from"] == 10
    assert len(report["guardrails"]) == 5
    actions = [decision["action"] for decision in report["decisions"]]
    assert actions == ["advance", "advance", "begin"]


def test_every_metric_has_intervals_over_time_at_most_a_hundred(report: dict[str, Any]) -> None:
    assert [metric["name"] for metric in report["metrics"]] == list(METRICS)
    for metric in report["metrics"]:
        for arm in SERIES_NAMES:
            estimate, series = metric[arm]["estimate"], metric[arm]["series"]
            assert 0 < len(series) <= MAX_POINTS
            assert [estimate[name] for name in ("count", "mean", "low", "high")] == series[-1][1:]
            assert [p[:2] for p in series] == sorted(p[:2] for p in series)
    correction = next(metric for metric in report["metrics"] if metric["name"] == "correction")
    assert correction["candidate"]["estimate"]["low"] is None  # no score was changed: no spread


def test_the_success_of_a_report_is_the_difference_of_its_metric(report: dict[str, Any]) -> None:
    approval = next(metric for metric in report["metrics"] if metric["name"] == "approval")
    assert report["success"]["difference"] == approval["difference"]["estimate"]


def test_a_report_without_rollout_yaml_has_exposure_and_metrics(
    rollout: tuple[RolloutStore, RolloutRecord],
) -> None:
    report = build_rollout_report(rollout[0], None, rollout[1], time.time())
    assert (report["verdict"], report["steps"], report["guardrails"]) == (None, [], [])
    assert report["exposure"]["candidate"]["jobs"] > 0
    assert "RUNNING" in format_report(report)
    assert any(build_page_charts(report).arms.values())


def test_a_rollout_without_jobs_has_a_report(tmp_path: Path, config: RolloutConfig) -> None:
    store = create_database(tmp_path / "new.db")
    report = build_rollout_report(store, config, start_rollout(store, shares=(0.05,)), time.time())
    charts = build_page_charts(report)
    assert report["verdict"]["status"] == "no data"
    assert not any((*charts.arms.values(), *charts.bars.values()))
    assert "NO DATA" in format_report(report)
    assert render_csv([report]).splitlines() == [",".join(CSV_COLUMNS)]


def test_a_difference_is_shown_from_five_observations_in_each_arm_on(
    tmp_path: Path, config: RolloutConfig
) -> None:
    store = create_database(tmp_path / "few.db")
    record = start_rollout(store, days=2, shares=(0.5,))
    add_jobs(store, record, count=60, days=2, shares=(0.5,))
    report = build_rollout_report(store, config, record, time.time())
    latency = {metric["name"]: metric for metric in report["metrics"]}["latency"]
    times = {
        arm: [point[0] for point in latency[arm]["series"]] for arm in ("candidate", "control")
    }
    fifth = max(times["candidate"][4], times["control"][4])
    for seconds, _, mean, *_ in latency["difference"]["series"]:
        assert (mean is not None) == (seconds >= fifth), seconds
    rows = csv.DictReader(StringIO(render_csv([report])))
    differences = [row for row in rows if row["arm"] == "difference"]
    assert {row["mean"] == "" for row in differences} == {True, False}
    assert all(row["low"] == row["high"] == "" for row in differences if row["mean"] == "")


def test_fewer_observations_say_so_in_every_form(tmp_path: Path, config: RolloutConfig) -> None:
    store = create_database(tmp_path / "few.db")
    record = start_rollout(store, days=2, shares=(0.5,))
    add_jobs(store, record, count=8, days=2, shares=(0.5,), rated=1)
    report = build_rollout_report(store, config, record, time.time())
    text = format_report(report)
    assert text.count("–  fewer than 5 per arm") == len(METRICS)
    assert "Difference, above 0 is better: fewer than 5 per arm" in text
    estimates = [metric["difference"]["estimate"] for metric in report["metrics"]]
    estimates.append(report["success"]["difference"])
    assert {estimate["mean"] for estimate in estimates} == {None}
    assert not any(build_page_charts(report).differences.values())
    assert max(map(len, text.splitlines())) <= LINE_WIDTH


def test_the_newest_rollout_of_each_advisor_is_separated_from_older_ones(tmp_path: Path) -> None:
    store = create_database(tmp_path / "many.db")
    for version, days in (("a", 9), ("b", 3), ("c", 6)):
        start_rollout(store, version=version, days=days)
    start_rollout(store, advisor="okeefe", version="d", days=5)
    newest, older = store.split_newest()
    assert [record.version for record in newest] == ["b", "d"]
    assert [record.version for record in older] == ["c", "a"]
    assert [record.version for record in store.split_newest("okeefe")[0]] == ["d"]


def test_the_csv_has_a_row_for_each_point(report: dict[str, Any]) -> None:
    rows = list(csv.DictReader(StringIO(render_csv([report]))))
    assert tuple(rows[0]) == CSV_COLUMNS
    points = sum(len(metric[arm]["series"]) for metric in report["metrics"] for arm in SERIES_NAMES)
    assert len(rows) == points
    assert {row["arm"] for row in rows} == set(SERIES_NAMES)
    approval = [row for row in rows if (row["metric"], row["arm"]) == ("approval", "difference")]
    assert float(approval[-1]["mean"]) == report["success"]["difference"]["mean"]
    assert any(row["low"] == "" for row in rows)


def test_the_text_fits_a_terminal_and_starts_with_the_status(report: dict[str, Any]) -> None:
    text = format_report(report)
    assert text.splitlines()[0].endswith("HEALTHY")
    assert max(map(len, text.splitlines())) <= LINE_WIDTH
    assert "\033[1;32mHEALTHY" in format_report(report, colored=True)
    decision = report["decisions"][0] | {"reason": "\033[2J\n\x07gone " + "x" * 300}
    hostile_text = format_report(report | {"decisions": [decision]})
    assert "\033" not in hostile_text
    assert "\x07" not in hostile_text


def test_a_sparkline_rises_with_its_values() -> None:
    assert sparkline([0.0, 1.0])[0] == "▁"
    assert sparkline([0.0, 1.0])[-1] == "█"
    assert sparkline([None, 1.0]) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 %"),
        (0.05, "5 %"),
        (0.955, "95.5 %"),
        (1.0, "100 %"),
        (0.4, "40 %"),
        (-0.083, "−8.3 %"),
    ],
)
def test_shares_are_formatted_in_percent(value: float, text: str) -> None:
    assert percent(value) == text


def test_numbers_have_their_unit_once() -> None:
    seconds = {"kind": "mean", "unit": "s"}
    assert format_value(13.759, seconds) == "13.8 s"
    assert format_value(0.2, seconds, signed=True) == "+0.2 s"
    assert format_value(None, seconds) == "–"
    known = {"count": 30, "mean": 0.1, "low": -0.1, "high": 0.25}
    assert format_interval(known, SHARE, True) == "−10 to +25 %"
    assert format_interval(known | {"low": None, "high": None}, SHARE) == "no interval yet"
    assert format_interval(known | {"mean": None}, SHARE) == "fewer than 5 per arm"
    assert format_interval(known | {"count": 0, "mean": None}, SHARE) == "no data"


def test_a_chart_contains_its_newest_numbers_and_its_paths_are_finite() -> None:
    points: list[Any] = [
        [60.0 * i, i + 1, 0.5 + 0.1 / (i + 1), 0.5 - 1 / (i + 1), 0.5 + 1 / (i + 1)]
        for i in range(100)
    ]
    chart = build_chart({"candidate": points}, ChartAxes(SHARE, 0, 6000), levels={"margin": 0.4})
    assert chart
    x, y, width, height = chart.inside
    dot_x, dot_y = chart.lines[0].dot
    assert x <= dot_x <= x + width
    assert y <= dot_y <= y + height
    assert y <= chart.levels[0][0] <= y + height
    assert len(chart.y) >= 2
    assert "nan" not in chart.lines[0].area
    assert "inf" not in chart.lines[0].area


def test_a_chart_of_a_single_value_or_of_none() -> None:
    seconds, empty = {"kind": "mean", "unit": "s"}, [[1.0, 1, None, None, None]]
    chart = build_chart({"control": [[5.0, 1, 3.0, None, None]]}, ChartAxes(seconds, 5, 5))
    assert chart
    assert chart.lines[0].area == ""
    assert build_chart({"control": []}, ChartAxes(SHARE, 0, 9)) is None
    assert build_chart({"control": empty}, ChartAxes(SHARE, 0, 9)) is None


@pytest.mark.parametrize("seconds", [60, 5000, 86400, 5 * 86400, 400 * 86400])
def test_time_ticks_are_few_and_within_the_axis(seconds: float) -> None:
    start = 1_790_000_123.0
    tick_labels = time_ticks(start, start + seconds)
    assert len(tick_labels) <= 6
    assert all(start <= tick <= start + seconds for tick, _ in tick_labels)
    assert len({label for _, label in tick_labels}) == len(tick_labels)


def test_a_guardrail_bar_has_limit_and_interval_on_its_scale() -> None:
    low = {"mean": 0.02, "low": 0.0, "high": 0.3, "count": 9}
    high = low | {"mean": 0.97, "low": 0.9, "high": 1.0}
    for guardrail in (
        {"estimate": low, "limit": 0.05, "is_minimum": False},
        {"estimate": high, "limit": 0.95, "is_minimum": True},
    ):
        bar = build_guardrail_bar(guardrail)
        assert bar
        positions = (bar.left, bar.mean, bar.limit, bar.left + bar.width)
        assert all(0 <= position <= 100.01 for position in positions)
    empty = {"estimate": {"count": 0}, "limit": 0, "is_minimum": False}
    assert build_guardrail_bar(empty) is None


def test_an_action_against_the_verdict_needs_a_reason(
    tmp_path: Path, config: RolloutConfig
) -> None:
    store, record = create_healthy_rollout(tmp_path / "mondrian.db")
    for action in ("rollback", "advance"):
        with pytest.raises(MissingReasonError, match="give a reason"):
            apply_manual_action(store, config, record, action, Actor("Ana", " \n"))
    on_hold = apply_manual_action(store, config, record, "hold", Actor("", ""))
    assert (on_hold.state, store.list_decisions(record.id)[0].who) == ("held", "unknown")
    with pytest.raises(InvalidTransitionError, match="changed in the meantime"):
        apply_manual_action(store, config, record, "rollback", Actor("Ana", "too late"))
    back = apply_manual_action(store, config, on_hold, "rollback", Actor("Ana", "curt\nand cold"))
    assert (back.state, back.reason) == ("rolled back", "curt and cold")


def test_a_ready_rollout_advances_without_a_reason(tmp_path: Path, config: RolloutConfig) -> None:
    store = create_database(tmp_path / "mondrian.db")
    record = start_rollout(store, days=3, shares=(0.5,))
    add_jobs(store, record, days=3, shares=(0.5,))
    assert apply_manual_action(store, config, record, "advance", Actor("Ana", "")).step == 1


def test_a_reason_becomes_one_line_that_every_database_accepts() -> None:
    assert clean_line("a\0b\ud800\x1b[2J\tc\u202e", MAX_REASON_CHARS) == "ab[2J c"
    assert len(clean_line("x" * 10_000, MAX_REASON_CHARS)) == MAX_REASON_CHARS


def test_lost_or_wrongly_assigned_jobs_raise_an_alarm(
    tmp_path: Path, config: RolloutConfig
) -> None:
    store, record = create_healthy_rollout(tmp_path / "mondrian.db")
    is_candidate = jobs.c.side == "candidate"
    with store.engine.begin() as connection:
        early = is_candidate & (jobs.c.step < 2)
        connection.execute(update(jobs).where(early), {"side": "control"})
        connection.execute(jobs.delete().where(is_candidate, jobs.c.thumbs.is_(None)))
    report = build_rollout_report(store, config, record, time.time())
    assert report["assignment"]["e_value"] > 10
    assert "ALARM" in format_report(report)
