"""The outcome of the service's own A/B test, by `mondrian ab` and on the page."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine

from mondrian.cli import ab
from mondrian.core.errors import DataError
from mondrian.serving.ab_outcome import BASE, TUNED, AbOutcome, load_ab_outcomes
from mondrian.serving.assignment import NO_RAG
from mondrian.storage.engine import open_engine
from mondrian.storage.tables import jobs, migrate, preferences
from tests.rollout_world import serve_pages
from tests.waiting import PATIENCE


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(str(tmp_path / "mondrian.db"))
    migrate(engine)
    yield engine
    engine.dispose()


def add_jobs(engine: Engine, arm: str, up: int, down: int = 0, unrated: int = 0, **v: Any) -> None:
    """Add A/B critiques with these ratings."""
    row: dict[str, Any] = {"kind": "upload", "status": "completed", "advisor": "ansel"}
    row |= {"experiment": "1", "model_used": f"ab_test_{arm}", "fallback_reason": None, **v}
    thumbs = [1] * up + [-1] * down + [None] * unrated
    name = "-".join(map(str, (arm, *v.values())))
    rows = [
        row | {"id": f"{name}-{i}", "thumbs": t, "queued_at": float(37 * i % 101)}
        for i, t in enumerate(thumbs)
    ]
    with engine.begin() as connection:
        connection.execute(jobs.insert(), rows)


def add_pairs(engine: Engine, choices: list[str], **values: Any) -> None:
    """Add pairs with votes; the fine-tuned critique is at the left, except in every second pair."""
    for i, choice in enumerate(choices):
        ids = [f"pair-{i}-{arm}" for arm in (TUNED, BASE)]
        for id, arm in zip(ids, (TUNED, BASE), strict=True):
            row = {"id": id, "kind": "upload", "status": "completed", "advisor": "ansel"}
            row |= {"model_used": arm, "experiment": "1", **values}
            with engine.begin() as connection:
                connection.execute(jobs.insert(), row)
        left, right = ids if i % 2 else reversed(ids)
        vote = {"advisor": "ansel", "left_job": left, "right_job": right, "choice": choice}
        with engine.begin() as connection:
            connection.execute(preferences.insert(), vote)


def only_outcome(engine: Engine) -> AbOutcome:
    (outcome,) = load_ab_outcomes(engine)
    return outcome


def test_critiques_and_ratings_are_counted_by_the_arm_that_answered(engine: Engine) -> None:
    add_jobs(engine, TUNED, up=8, down=2, unrated=5)
    add_jobs(engine, BASE, up=6, down=6, unrated=1)
    add_jobs(engine, BASE, up=3, fallback_reason="no adapter of ansel serves: answered by the base")
    add_jobs(engine, BASE, up=1, fallback_reason=NO_RAG)  # as was planned
    add_jobs(engine, TUNED, up=9, rollout="ansel/v2")
    add_jobs(engine, TUNED, up=9, kind="shadow")
    add_jobs(engine, TUNED, up=9, status="failed")
    add_jobs(engine, TUNED, up=9, model_used="fine_tuned")  # not chosen at random
    outcome = only_outcome(engine)
    tuned, base = outcome.arms[TUNED], outcome.arms[BASE]
    assert (tuned.critiques, tuned.ratings, tuned.thumbs_up) == (15, 10, 8)
    assert (base.critiques, base.ratings, base.thumbs_up) == (14, 13, 7)
    assert outcome.fallbacks == 3
    assert tuned.approval.low < 0.8 == tuned.approval.mean < tuned.approval.high
    assert outcome.difference.mean == pytest.approx(8 / 10 - 7 / 13)
    assert outcome.difference.low < 0 < outcome.difference.high
    assert "No certain difference yet: fine-tuned has 80 % thumbs up against 54 %" in (
        outcome.conclusion
    )


@pytest.mark.parametrize(
    ("tuned", "base", "conclusion"),
    [
        ((180, 20), (120, 80), "The fine-tuned adapter is rated better than the base: 90 %"),
        ((120, 80), (180, 20), "The fine-tuned adapter is rated worse than the base: 60 %"),
        ((4, 0), (180, 20), "Too few ratings to compare: each arm needs 5; fine-tuned has 4"),
        ((0, 0), (5, 0), "Too few ratings to compare: each arm needs 5; fine-tuned has 0, base 5."),
    ],
)
def test_the_ratings_are_one_plain_sentence(
    engine: Engine, tuned: tuple[int, int], base: tuple[int, int], conclusion: str
) -> None:
    if sum(tuned):
        add_jobs(engine, TUNED, *tuned)
    add_jobs(engine, BASE, *base)
    assert only_outcome(engine).conclusion.startswith(conclusion)


def test_votes_are_counted_by_arm_wherever_it_was_shown(engine: Engine) -> None:
    votes = ["right", "left"] * 8 + ["equal", "right", "left"]  # 16 of 18 for fine-tuned
    add_pairs(engine, votes)
    revised = {"advisor": "ansel", "left_job": "pair-0-base", "right_job": "pair-0-fine_tuned"}
    with engine.begin() as connection:
        connection.execute(preferences.insert(), revised | {"choice": "left"})
        connection.execute(preferences.insert(), revised | {"choice": "right"})  # the newest counts
    outcome = only_outcome(engine)
    assert outcome.votes == {TUNED: 16, BASE: 2, "equal": 1}
    assert outcome.vote_conclusion == (
        "19 blind votes side by side: 16 for fine-tuned, 2 for the base, 1 about equal; "
        "fine-tuned is preferred."
    )


def test_each_advisor_of_a_pair_has_a_vote_of_its_own(engine: Engine) -> None:
    add_pairs(engine, ["right"], advisor="ansel,okeefe")
    vote = {"left_job": f"pair-0-{BASE}", "right_job": f"pair-0-{TUNED}"}
    with engine.begin() as connection:
        connection.execute(preferences.insert(), vote | {"advisor": "okeefe", "choice": "left"})
    ansel, okeefe = load_ab_outcomes(engine)
    assert (ansel.advisor, dict(ansel.votes)) == ("ansel", {TUNED: 1})
    assert (okeefe.advisor, dict(okeefe.votes)) == ("okeefe", {BASE: 1})


def test_a_vote_between_two_critiques_of_the_base_counts_for_no_arm(engine: Engine) -> None:
    add_pairs(engine, ["left"], model_used="base")
    assert load_ab_outcomes(engine) == []


def test_the_command_fits_into_100_columns_and_has_json(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_jobs(engine, TUNED, 180, 20)
    add_jobs(engine, BASE, 120, 80)
    add_pairs(engine, ["left"] * 3)
    db = str(tmp_path / "mondrian.db")
    ab.main(["--db", db])
    text = capsys.readouterr().out
    assert text.startswith("ansel, experiment '1'\n")
    assert "fine-tuned         200       200        90 %" in text
    assert "difference                             +30 %" in text
    assert max(map(len, text.splitlines())) <= 100
    ab.main(["--db", db, "--json"])
    (item,) = json.loads(capsys.readouterr().out)
    assert item["arms"]["fine_tuned"]["approval"]["mean"] == 0.9
    assert item["votes"] == {"fine_tuned": 1, "base": 2, "equal": 0}
    assert item["conclusion"] in text.replace("\n", " ")
    assert item["vote_conclusion"].startswith("3 blind votes side by side:")
    assert item["vote_conclusion"] in text.replace("\n", " ")
    ab.main(["--db", db, "--advisor", "okeefe"])
    assert "no A/B critiques of okeefe yet" in capsys.readouterr().out


def test_a_missing_or_foreign_database_is_one_line_and_not_changed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; start the service first"):
        ab.main(["--db", str(tmp_path / "none.db")])
    open_engine(str(tmp_path / "empty.db")).dispose()
    with pytest.raises(DataError, match="empty.db has no table jobs: it is not a database of the"):
        ab.main(["--db", str(tmp_path / "empty.db")])


def test_the_experiments_page_shows_the_outcome_without_a_rollout(
    engine: Engine, tmp_path: Path
) -> None:
    with (
        serve_pages(tmp_path / "mondrian.db") as url,
        httpx2.Client(base_url=url, trust_env=False, timeout=PATIENCE) as client,
    ):
        assert "No A/B critiques yet" in client.get("/experiments").text
        add_jobs(engine, TUNED, 180, 20)
        add_jobs(engine, BASE, 120, 80)
        page = client.get("/experiments").text
    assert "Ansel Adams" in page
    assert "is rated better than the base: 90 % thumbs up against 60 %" in page
    assert '<td class="number">+30 %</td>' in page
