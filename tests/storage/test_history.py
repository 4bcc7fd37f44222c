"""Search, filters and pages of the history, over thousands of critiques."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from mondrian.storage.engine import open_engine
from mondrian.storage.history import HistoryFilter, SearchWord, load_entries, load_history
from mondrian.storage.tables import feedback, jobs, migrate, preferences

COUNT = 4000


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A database with 4,000 requests: every fifth is a pair, every fourth A/B-assigned."""
    engine = open_engine(str(tmp_path_factory.mktemp("history") / "mondrian.db"))
    migrate(engine)
    rows = []
    for i in range(COUNT):
        row = job(f"first-{i:05}", queued_at=float(i), score=i % 100 / 10, model_used="base")
        row |= {"advisor": ("ansel", "okeefe", "ansel,okeefe")[i % 3]}
        row |= {"created_at": f"2026-{1 + i // 400:02}-{1 + i % 28:02}T12:00:00.000+00:00"}
        row |= {"filename": f"uploads/{i}_lake-{i}.jpg"}
        if i % 5 == 0:
            second = row | {"id": f"a-second-{i:05}", "pair_of": row["id"]}
            rows.append(second | {"model_used": "fine_tuned", "score": 9.95})
        elif i % 4 == 0:
            row |= {"model_used": "ab_test_fine_tuned", "thumbs": 1 if i % 8 == 0 else None}
        rows.append(row)
    rows += [job("shadow", kind="shadow"), job("other program", kind=None)]
    with engine.begin() as connection:
        connection.execute(jobs.insert(), rows)
        vote = {"left_job": "first-00010", "right_job": "a-second-00010", "choice": "left"}
        of_one_of_two_advisors = {"left_job": "first-00020", "right_job": "a-second-00020"}
        connection.execute(preferences.insert(), vote | {"advisor": "okeefe"})
        of_one_of_two_advisors |= {"choice": "left", "advisor": "ansel"}
        connection.execute(preferences.insert(), of_one_of_two_advisors)
        withdrawn = {"left_job": "first-00030", "right_job": "a-second-00030", "advisor": "ansel"}
        connection.execute(preferences.insert(), withdrawn | {"choice": "right"})
        connection.execute(preferences.insert(), withdrawn | {"choice": None})
        for advisor, number in (("ansel", 8), ("okeefe", 8), ("ansel", 56)):
            row = {"job": f"first-{number:05}", "advisor": advisor, "thumbs": 1}
            connection.execute(feedback.insert(), row)
    return engine


def job(id: str, **values: Any) -> dict[str, Any]:
    text = "# Ansel Analysis\n" + "The horizon is level. " * 100
    columns = dict.fromkeys(column.name for column in jobs.columns)
    row = {"id": id, "kind": "upload", "status": "completed", "analysis_markdown": text}
    return columns | row | values


def first_ids(engine: Engine, offset: int = 0, limit: int = 50, **values: Any) -> list[str]:
    page = load_history(engine, HistoryFilter(**values), offset, limit)
    return [str(max(row["id"] for row in entry)) for entry in page.entries]


def test_pages_hold_every_request_once_newest_first(engine: Engine) -> None:
    ids: list[str] = []
    for offset in range(0, COUNT, 500):
        ids += first_ids(engine, offset, 500)
    assert ids == [f"first-{i:05}" for i in reversed(range(COUNT))]
    page = load_history(engine, HistoryFilter(), COUNT - 1, 50)
    assert (page.total, len(page.entries)) == (COUNT, 1)


def test_a_pair_is_one_entry_whose_order_says_nothing_about_its_arms(engine: Engine) -> None:
    (pair,) = load_history(engine, HistoryFilter(), COUNT - 6, 1).entries
    assert [row["id"] for row in pair] == ["a-second-00005", "first-00005"]
    page = load_entries(engine, ["first-00005", "a-second-00005", "first-00006"])
    assert [len(entry) for entry in page.entries] == [2, 1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"advisor": "okeefe"}, lambda i: i % 3),
        ({"since": "2026-02", "until": "2026-03"}, lambda i: i // 400 == 1),
        ({"min_score": 9.0, "max_score": 9.4}, lambda i: 90 <= i % 100 <= 94),
        ({"min_score": 9.95}, lambda i: i % 5 == 0),  # the second critique of a pair counts
        ({"words": [SearchWord("lake-399", [])]}, lambda i: str(i).startswith("399")),
        ({"words": [SearchWord("HORIZON", []), SearchWord("x", ["okeefe"])]}, lambda i: i % 3),
        ({"words": [SearchWord("100%", [])]}, lambda i: False),
    ],
)
def test_filters(engine: Engine, values: dict[str, Any], expected: Callable[[int], bool]) -> None:
    page = load_history(engine, HistoryFilter(**values), 0, 50)
    matching = [i for i in reversed(range(COUNT)) if expected(i)]
    assert page.total == len(matching)
    assert first_ids(engine, **values) == [f"first-{i:05}" for i in matching[:50]]


def test_an_unrated_critique_is_blind_and_no_filter_by_arm_finds_it(engine: Engine) -> None:
    page = load_history(engine, HistoryFilter(), COUNT - 20, 20)
    singles = {f"first-{i:05}" for i in range(20) if i % 4 == 0 and i % 5 and i % 8}
    pairs = {f"{half}-{i:05}" for half in ("first", "a-second") for i in (0, 5, 15)}
    assert page.blind_ids == singles | pairs
    ids = first_ids(engine, arm="fine_tuned", limit=COUNT)
    rated = [i for i in range(COUNT) if i % 8 == 0 and i % 5 and (i % 3 != 2 or i == 8)]
    assert ids == [f"first-{i:05}" for i in reversed(sorted([*rated, 10]))]


def test_a_pair_is_blind_whichever_of_its_jobs_is_listed(engine: Engine) -> None:
    page = load_entries(engine, ["a-second-00005", "deleted meanwhile"])
    assert [row["id"] for row in page.entries[0]] == ["a-second-00005", "first-00005"]
    assert page.blind_ids == {"a-second-00005", "first-00005"}
    assert page.total == 1


def test_a_withdrawn_vote_does_not_end_the_blind_comparison(engine: Engine) -> None:
    assert load_entries(engine, ["first-00030"]).blind_ids == {"a-second-00030", "first-00030"}


def test_a_critique_of_several_advisors_is_blind_until_each_is_rated(engine: Engine) -> None:
    assert load_entries(engine, ["first-00008", "first-00056"]).blind_ids == {"first-00056"}


def test_a_filtered_page_of_thousands_reads_each_critique_a_few_times(
    engine: Engine,
) -> None:
    words = [SearchWord("horizon", []), SearchWord("lake", [])]
    calls = count()  # one per thousand instructions of SQLite

    def count_steps(connection: Any, *_: object) -> None:
        connection.set_progress_handler(lambda: next(calls) and 0, 1000)

    event.listen(engine, "checkout", count_steps)
    page = load_history(engine, HistoryFilter(words, "ansel", min_score=5.0), 500, 50)
    event.remove(engine, "checkout", count_steps)
    assert page.total > 1000
    assert 0 < next(calls) < COUNT  # 90 instructions a critique, and up to 1,000 are allowed


def test_scores_of_older_critiques_are_filled_in(tmp_path: Path) -> None:
    engine = open_engine(str(tmp_path / "old.db"))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE jobs (id TEXT, kind TEXT, status, llm_outputs)")
        outputs = '{"analysis": {"overall_score": 7.5}}'
        for id, kind, text in (
            ("a", "upload", outputs),
            ("b", None, outputs),
            ("c", "upload", "[1"),
        ):
            insert = "INSERT INTO jobs VALUES (?, ?, 'completed', ?)"
            connection.exec_driver_sql(insert, (id, kind, text))
    migrate(engine)
    with engine.begin() as connection:
        scores = connection.exec_driver_sql("SELECT id, score FROM jobs ORDER BY id").all()
    assert scores == [("a", 7.5), ("b", None), ("c", None)]
    engine.dispose()


def test_a_job_that_was_deleted_meanwhile_has_no_entry(engine: Engine) -> None:
    page = load_entries(engine, ["first-00001", "deleted", "first-00002"])
    assert [entry[0]["id"] for entry in page.entries] == ["first-00001", "first-00002"]
    assert page.total == 2
