"""What is told of a roll-out: the report, its table, its charts and its text."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from io import StringIO
from math import isclose
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from mondrian.rollout.actions import InvalidTransition
from mondrian.rollout.charts import build_chart, ticks, time_ticks
from mondrian.rollout.config import RolloutConfig, load_rollout
from mondrian.rollout.csv_export import CSV_COLUMNS, render_csv
from mondrian.rollout.formatting import format_interval, format_value, percent
from mondrian.rollout.manual import REASON, MissingReason, apply_manual_action, clean_line
from mondrian.rollout.metrics import METRICS
from mondrian.rollout.page_charts import build_guardrail_bar, build_page_charts
from mondrian.rollout.report import build_rollout_report, split_newest
from mondrian.rollout.store import RolloutRecord, RolloutStore
from mondrian.rollout.terminal import LINE_WIDTH, format_report, sparkline
from mondrian.rollout.time_series import ARMS, MAX_POINTS
from mondrian.storage.tables import jobs
from tests.conftest import ROOT
from tests.rollout_world import begun, database, served, world

SHARE = {"kind": "share", "unit": ""}


@pytest.fixture(scope="module")
def plan() -> RolloutConfig:
    return load_rollout(ROOT / "rollout.yaml")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[RolloutStore, RolloutRecord]:
    return world(tmp_path_factory.mktemp("world") / "mondrian.db")


@pytest.fixture(scope="module")
def told(found: tuple[RolloutStore, RolloutRecord], plan: RolloutConfig) -> dict[str, Any]:
    return build_rollout_report(found[0], plan, found[1], time.time())


def test_a_report_tells_how_it_stands_and_every_number_behind_that(told: dict[str, Any]) -> None:
    json.dumps(told, allow_nan=False)
    assert (told["name"], told["control"]) == ("ansel@v2.0.0", "ansel@v1.0.0")
    assert told["verdict"]["status"] == "healthy"
    assert "of 100 critiques, 40 h of 48 h" in told["verdict"]["why"]
    assert [step["place"] for step in told["steps"]] == ["done", "done", "here", "to come"]
    arms = told["exposure"]
    assert arms["candidate"]["jobs"] + arms["control"]["jobs"] == 300
    assert arms["dealt"]["clients"] == 300
    assert isclose(arms["dealt"]["got"], arms["candidate"]["subjects"] / 300, rel_tol=1e-5)
    assert told["fairness"]["mismatch"] < told["fairness"]["alarm"] == 10
    assert len(told["guardrails"]) == 5
    assert [one["action"] for one in told["decisions"]] == ["advance", "advance", "begin"]


def test_every_metric_has_its_intervals_over_time_at_most_a_hundred(told: dict[str, Any]) -> None:
    assert [one["name"] for one in told["metrics"]] == list(METRICS)
    for metric in told["metrics"]:
        for arm in ARMS:
            now, series = metric[arm]["now"], metric[arm]["series"]
            assert 0 < len(series) <= MAX_POINTS
            assert [now["count"], now["mean"], now["low"], now["high"]] == series[-1][1:]
            assert [p[:2] for p in series] == sorted(p[:2] for p in series)
    correction = next(one for one in told["metrics"] if one["name"] == "correction")
    assert correction["candidate"]["now"]["low"] is None  # nobody moved a score: no spread yet


def test_the_success_of_a_report_is_the_difference_of_its_metric(told: dict[str, Any]) -> None:
    approval = next(one for one in told["metrics"] if one["name"] == "approval")
    assert told["success"]["difference"] == approval["difference"]["now"]


def test_without_settings_what_can_be_told_is(found: tuple[RolloutStore, RolloutRecord]) -> None:
    told = build_rollout_report(found[0], None, found[1], time.time())
    assert (told["verdict"], told["steps"], told["guardrails"]) == (None, [], [])
    assert told["exposure"]["candidate"]["jobs"] > 0
    assert "RUNNING" in format_report(told)
    assert any(build_page_charts(told).arms.values())


def test_a_roll_out_without_jobs_has_a_report(tmp_path: Path, plan: RolloutConfig) -> None:
    rollouts = database(tmp_path / "new.db")
    told = build_rollout_report(rollouts, plan, begun(rollouts, shares=(0.05,)), time.time())
    assert told["verdict"]["status"] == "no data"
    assert not any((*build_page_charts(told).arms.values(), *build_page_charts(told).bars.values()))
    assert "NO DATA" in format_report(told)
    assert render_csv([told]).splitlines() == [",".join(CSV_COLUMNS)]


def test_the_newest_of_each_advisor_stands_before_those_it_followed(tmp_path: Path) -> None:
    rollouts = database(tmp_path / "many.db")
    for version, days in (("a", 9), ("b", 3), ("c", 6)):
        begun(rollouts, version=version, days=days)
    begun(rollouts, advisor="okeefe", version="d", days=5)
    new, old = split_newest(rollouts)
    assert ([one.version for one in new], [one.version for one in old]) == (["b", "d"], ["c", "a"])
    assert [one.version for one in split_newest(rollouts, "okeefe")[0]] == ["d"]


def test_the_table_has_a_row_for_each_look(told: dict[str, Any]) -> None:
    rows = list(csv.DictReader(StringIO(render_csv([told]))))
    assert tuple(rows[0]) == CSV_COLUMNS
    looks = sum(len(metric[arm]["series"]) for metric in told["metrics"] for arm in ARMS)
    assert len(rows) == looks
    assert {row["arm"] for row in rows} == set(ARMS)
    approval = [row for row in rows if (row["metric"], row["arm"]) == ("approval", "difference")]
    assert float(approval[-1]["mean"]) == told["success"]["difference"]["mean"]
    assert any(row["low"] == "" for row in rows)


def test_the_text_fits_a_terminal_and_tells_the_status_first(told: dict[str, Any]) -> None:
    text = format_report(told)
    assert text.splitlines()[0].endswith("HEALTHY")
    assert max(map(len, text.splitlines())) <= 1.1 * LINE_WIDTH
    assert "\033[1;32mHEALTHY" in format_report(told, colored=True)
    evil = told | {"decisions": [told["decisions"][0] | {"why": "\033[2J\n\x07gone " + "x" * 300}]}
    assert "\033" not in format_report(evil)
    assert "\x07" not in format_report(evil)


def test_a_small_curve_rises_as_its_values_do() -> None:
    assert sparkline([0.0, 1.0])[0] == "▁"
    assert sparkline([0.0, 1.0])[-1] == "█"
    assert sparkline([None, 1.0]) == ""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0 %"),
        (0.05, "5 %"),
        (0.955, "95.5 %"),
        (1.0, "100 %"),
        (0.4, "40 %"),
        (-0.083, "−8.3 %"),
    ],
)
def test_shares_are_told_in_percent(value: float, words: str) -> None:
    assert percent(value) == words


def test_numbers_carry_their_unit_once() -> None:
    seconds = {"kind": "mean", "unit": "s"}
    assert format_value(13.759, seconds) == "13.8 s"
    assert format_value(0.2, seconds, signed=True) == "+0.2 s"
    assert format_value(None, seconds) == "–"
    assert format_interval({"count": 3, "low": -0.1, "high": 0.25}, SHARE, True) == "−10 to +25 %"
    assert (
        format_interval({"count": 3, "low": None, "high": None}, SHARE) == "too few for an interval"
    )
    assert format_interval({"count": 0, "low": None, "high": None}, SHARE) == "no data"


def test_a_chart_keeps_its_newest_numbers_inside_and_its_paths_finite() -> None:
    points = [
        [60.0 * i, i + 1, 0.5 + 0.1 / (i + 1), 0.5 - 1 / (i + 1), 0.5 + 1 / (i + 1)]
        for i in range(100)
    ]
    chart = build_chart({"candidate": points}, SHARE, 0, 6000, levels={"margin": 0.4})  # type: ignore[dict-item]
    assert chart
    x, y, width, height = chart.inside
    at = chart.lines[0].dot
    assert x <= at[0] <= x + width
    assert y <= at[1] <= y + height
    assert y <= chart.levels[0][0] <= y + height
    assert len(chart.y) >= 2
    assert "nan" not in chart.lines[0].area
    assert "inf" not in chart.lines[0].area


def test_a_chart_of_one_value_or_of_none(told: dict[str, Any]) -> None:
    one = [[5.0, 1, 3.0, None, None]]
    chart = build_chart({"control": one}, {"kind": "mean", "unit": "s"}, 5, 5)
    assert chart
    assert chart.lines[0].area == ""
    assert build_chart({"control": []}, SHARE, 0, 9) is None
    assert build_chart({"control": [[1.0, 1, None, None, None]]}, SHARE, 0, 9) is None


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 1),
        (0.93, 1),
        (-0.2, 0.31),
        (0, 1234),
        (-1e-4, 1e-4),
    ],
)
def test_labels_of_an_axis_are_round_few_and_within_it(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


@pytest.mark.parametrize("seconds", [60, 5000, 86400, 5 * 86400, 400 * 86400])
def test_times_of_an_axis_are_few_and_within_it(seconds: float) -> None:
    start = 1_790_000_123.0
    found = time_ticks(start, start + seconds)
    assert len(found) <= 6
    assert all(start <= at <= start + seconds for at, _ in found)
    assert len({words for _, words in found}) == len(found)


def test_a_guardrail_is_drawn_with_its_limit_and_interval_on_the_scale() -> None:
    interval = {"mean": 0.02, "low": 0.0, "high": 0.3, "count": 9}
    for guard in (
        {"found": interval, "limit": 0.05, "least": False},
        {"found": interval | {"mean": 0.97, "low": 0.9, "high": 1.0}, "limit": 0.95, "least": True},
    ):
        drawn = build_guardrail_bar(guard)
        assert drawn
        places = (drawn.left, drawn.mean, drawn.limit, drawn.left + drawn.width)
        assert all(0 <= place <= 100.01 for place in places)
    assert build_guardrail_bar({"found": {"count": 0}, "limit": 0, "least": False}) is None


def test_what_goes_against_the_numbers_wants_a_reason(tmp_path: Path, plan: RolloutConfig) -> None:
    rollouts, entry = world(tmp_path / "mondrian.db")
    now = time.time()
    for action in ("rollback", "advance"):
        with pytest.raises(MissingReason, match="say why"):
            apply_manual_action(rollouts, plan, entry, action, "Ana", " \n", now)
    held = apply_manual_action(rollouts, plan, entry, "hold", "", "", now)
    assert (held.state, rollouts.list_decisions(entry.id)[0].who) == ("held", "somebody")
    with pytest.raises(InvalidTransition, match="changed meanwhile"):
        apply_manual_action(rollouts, plan, entry, "rollback", "Ana", "seen too late", now)
    gone = apply_manual_action(rollouts, plan, held, "rollback", "Ana", "curt\nand cold", now)
    assert (gone.state, gone.why) == ("rolled back", "curt and cold")


def test_a_ready_one_advances_without_a_reason(tmp_path: Path, plan: RolloutConfig) -> None:
    rollouts = database(tmp_path / "mondrian.db")
    entry = begun(rollouts, days=3, shares=(0.5,))
    served(rollouts, entry, days=3, shares=(0.5,))
    assert apply_manual_action(rollouts, plan, entry, "advance", "Ana", "", time.time()).step == 1


def test_a_reason_becomes_a_line_that_every_database_takes() -> None:
    assert clean_line("a\0b\ud800\x1b[2J\tc\u202e", REASON) == "ab[2J c"
    assert len(clean_line("x" * 10_000, REASON)) == REASON


def test_jobs_lost_or_dealt_otherwise_are_told(tmp_path: Path, plan: RolloutConfig) -> None:
    rollouts, entry = world(tmp_path / "mondrian.db")
    with rollouts.engine.begin() as connection:
        few = (jobs.c.side == "candidate") & (jobs.c.step < 2)
        connection.execute(update(jobs).where(few), {"side": "control"})
        connection.execute(jobs.delete().where(jobs.c.side == "candidate", jobs.c.thumbs.is_(None)))
    told = build_rollout_report(rollouts, plan, replace(entry), time.time())
    assert told["fairness"]["mismatch"] > 10
    assert "ALARM" in format_report(told)
