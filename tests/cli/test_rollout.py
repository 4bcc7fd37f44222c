"""The command `mondrian rollout` and its report."""

import csv
import json
import sqlite3
import sys
from pathlib import Path

import pytest

from mondrian.cli import main, rollout
from mondrian.core.errors import DataError, MondrianError, ParamsError
from mondrian.rollout.store import RolloutRecord, RolloutStore
from tests.rollout_world import add_jobs, create_database, create_healthy_rollout, start_rollout


@pytest.fixture
def store_and_rollout(tmp_path: Path) -> tuple[RolloutStore, RolloutRecord]:
    return create_healthy_rollout(tmp_path / "mondrian.db")


@pytest.fixture
def db(store_and_rollout: tuple[RolloutStore, RolloutRecord], tmp_path: Path) -> str:
    return str(tmp_path / "mondrian.db")


def test_a_text_report_shows_status_metrics_and_decisions(
    db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout.main(["report", "--db", db])
    text = capsys.readouterr().out
    first = text.splitlines()[0]
    assert first == "ansel · ansel@v2.0.0 against ansel@v1.0.0: HEALTHY"
    for part in ("EXPOSURE", "GUARDRAILS", "METRICS", "DECISIONS", "thumbs up among rated"):
        assert part in text
    assert "\033" not in text


def test_a_report_is_also_json_or_csv(
    db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout.main(["report", "--db", db, "--json"])
    reports = json.loads(capsys.readouterr().out)
    assert reports[0]["verdict"]["status"] == "healthy"
    file = tmp_path / "out" / "ab.csv"
    rollout.main(["report", "--db", db, "--csv", "--output", str(file)])
    assert capsys.readouterr().out == ""
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    assert {row["arm"] for row in rows} == {"candidate", "control", "difference"}


def test_a_report_is_of_the_newest_version_unless_all_are_requested(
    store_and_rollout: tuple[RolloutStore, RolloutRecord],
    db: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start_rollout(store_and_rollout[0], version="0ld", name="ansel@v1.0.0", days=30)
    rollout.main(["report", "--db", db, "--json"])
    reports = json.loads(capsys.readouterr().out)
    assert [report["name"] for report in reports] == ["ansel@v2.0.0"]
    rollout.main(["report", "--db", db, "--json", "--all"])
    assert len(json.loads(capsys.readouterr().out)) == 2


@pytest.mark.parametrize("first", ["report", "ansel"])
def test_a_missing_database_is_not_created(first: str, tmp_path: Path) -> None:
    missing = tmp_path / "none" / "mondrian.db"
    hint = "give the --db of the service, or start it with --rollout"
    with pytest.raises(DataError, match=f"does not exist; {hint}"):
        rollout.main([first, "--db", str(missing)])
    assert not missing.parent.exists()


def test_a_database_without_rollouts_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE jobs (id TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match="has no table mondrian_decisions, so no rollouts"):
        rollout.main(["report", "--db", str(path)])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["other.db"]
    path.write_text("no database at all, but a text that is long enough to be none" * 20)
    with pytest.raises(DataError, match=r"cannot be read: file is not a database"):
        rollout.main(["report", "--db", str(path)])
    with pytest.raises(DataError, match="does not exist"):
        rollout.main(["report", "--db", str(tmp_path)])
    create_database(tmp_path / "empty.db")
    with pytest.raises(DataError, match="no rollout has started"):
        rollout.main(["report", "--db", str(tmp_path / "empty.db")])


def test_a_report_that_is_not_possible_is_an_error(
    db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="'monet' has no rollout; there are rollouts of ansel"):
        rollout.main(["report", "--db", db, "--advisor", "monet"])
    with pytest.raises(ParamsError, match="does not exist"):
        rollout.main(["report", "--db", db, "--rollout", str(tmp_path / "none.yaml")])
    with pytest.raises(SystemExit):
        rollout.main(["report", "--db", db, "--json", "--csv"])
    assert "not allowed with" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        rollout.main([])
    with pytest.raises(OSError, match=r"\S"):
        rollout.main(["report", "--db", db, "--output", f"{db}/report.txt"])


def test_an_output_that_cannot_be_written_is_an_error_of_one_line(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["mondrian", "rollout", "report", "--db", db, "--output", f"{db}/x.txt"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as error:
        main.entry()
    assert str(error.value.code).startswith("error: ")
    assert "\n" not in str(error.value.code)


def test_all_versions_of_an_advisor_are_shown_newest_first(
    store_and_rollout: tuple[RolloutStore, RolloutRecord],
    db: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start_rollout(store_and_rollout[0], version="0ld", name="ansel@v1.0.0", days=30)
    rollout.main(["ansel", "--db", db])
    text = capsys.readouterr().out
    assert text.index("ansel@v2.0.0 against") < text.index("ansel@v1.0.0 against")
    assert "◉ 50 %" in text
    rollout.main(["ansel", "--db", db, "--version", "0l"])
    assert "ansel@v2.0.0" not in capsys.readouterr().out


def test_a_rollout_can_be_held_resumed_advanced_rolled_back_and_restarted(
    store_and_rollout: tuple[RolloutStore, RolloutRecord],
    db: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollout, "current_user", lambda: "ana")
    for flags, message in (
        (["--hold"], "is held at step 3 of 4 and answers 50 % of clients"),
        (["--resume"], "is running at step 3 of 4"),
        (["--advance", "--reason", "enough"], "is running at step 4 of 4 and answers 100 %"),
        (
            ["--rollback", "--reason", "it is curt"],
            "is rolled back at step 4 of 4 and answers no clients",
        ),
        (["--resume"], "is running at step 1 of 4 and answers 5 % of clients"),
    ):
        rollout.main(["ansel", "--db", db, *flags])
        output = capsys.readouterr().out
        assert message in output
        assert "follow within two seconds" in output
    store, record = store_and_rollout
    log = store.list_decisions(record.id)
    assert [d.action for d in log[:5]] == ["resume", "roll back", "advance", "resume", "hold"]
    assert {decision.who for decision in log[:5]} == {"ana"}
    assert log[1].reason == "it is curt"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rollback"], 'give a reason to roll back ansel@v2.0.0: --reason "…"'),
        (["--advance"], r"is healthy, not ready \(.*\); give a reason to advance it: --reason"),
        (["--resume"], "is already running"),
        (["--hold", "--version", "ansel@v9"], r"--version 'ansel@v9' matches none of ansel@v2.0.0"),
    ],
)
def test_an_action_that_is_not_possible_changes_nothing(
    store_and_rollout: tuple[RolloutStore, RolloutRecord], db: str, flags: list[str], message: str
) -> None:
    store, record = store_and_rollout
    before = store.get(record.id)
    with pytest.raises(MondrianError, match=message):
        rollout.main(["ansel", "--db", db, *flags])
    assert store.get(record.id) == before


def test_one_action_at_a_time(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rollout.main(["ansel", "--db", db, "--hold", "--rollback"])
    assert "not allowed with" in capsys.readouterr().err
    with pytest.raises(DataError, match="'monet' has no rollout"):
        rollout.main(["monet", "--db", db, "--hold"])


def test_an_ambiguous_version_prefix_is_refused(tmp_path: Path) -> None:
    store = create_database(tmp_path / "mondrian.db")
    for version in ("ab1", "ab2"):
        record = start_rollout(store, version=version, name=f"ansel@{version}", shares=(0.05,))
        add_jobs(store, record, count=5)
    with pytest.raises(DataError, match="matches more than one of"):
        rollout.main(["ansel", "--db", str(tmp_path / "mondrian.db"), "--version", "ab"])
