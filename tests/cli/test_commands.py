"""mondrian rollout and its report, as a person types them."""

from __future__ import annotations

import csv
import json
import sqlite3
import sys
from pathlib import Path

import pytest

from mondrian.cli import main as __main__
from mondrian.cli import rollout
from mondrian.core.errors import DataError, MondrianError, ParamsError
from mondrian.rollout.store import RolloutRecord, RolloutStore
from tests.rollout_world import begun, database, served, world


@pytest.fixture
def found(tmp_path: Path) -> tuple[RolloutStore, RolloutRecord]:
    return world(tmp_path / "mondrian.db")


@pytest.fixture
def db(found: tuple[RolloutStore, RolloutRecord], tmp_path: Path) -> str:
    return str(tmp_path / "mondrian.db")


def test_a_report_for_people_tells_status_numbers_and_decisions(
    db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout.main(["report", "--db", db])
    text = capsys.readouterr().out
    first = text.splitlines()[0]
    assert first == "ansel · ansel@v2.0.0 against ansel@v1.0.0: HEALTHY"
    for part in ("EXPOSURE", "GUARDRAILS", "METRICS", "DECISIONS", "thumbs up among rated"):
        assert part in text
    assert "\033" not in text


def test_the_same_as_json_and_as_csv_in_a_file(
    db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout.main(["report", "--db", db, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told[0]["verdict"]["status"] == "healthy"
    file = tmp_path / "out" / "ab.csv"
    rollout.main(["report", "--db", db, "--csv", "--output", str(file)])
    assert capsys.readouterr().out == ""
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    assert {row["arm"] for row in rows} == {"candidate", "control", "difference"}


def test_a_report_is_of_the_newest_version_unless_all_are_asked_for(
    found: tuple[RolloutStore, RolloutRecord], db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(found[0], version="0ld", name="ansel@v1.0.0", days=30)
    rollout.main(["report", "--db", db, "--json"])
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["ansel@v2.0.0"]
    rollout.main(["report", "--db", db, "--json", "--all"])
    assert len(json.loads(capsys.readouterr().out)) == 2


@pytest.mark.parametrize("first", ["report", "ansel"])
def test_a_database_that_is_not_there_is_not_made(first: str, tmp_path: Path) -> None:
    missing = tmp_path / "none" / "mondrian.db"
    with pytest.raises(DataError, match=r"does not exist; a service that runs with --rollout"):
        rollout.main([first, "--db", str(missing)])
    assert not missing.parent.exists()


def test_a_database_without_roll_outs_is_left_as_it_was(tmp_path: Path) -> None:
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
    database(tmp_path / "empty.db")
    with pytest.raises(DataError, match="no rollout has started"):
        rollout.main(["report", "--db", str(tmp_path / "empty.db")])


def test_what_cannot_be_reported_is_told_in_a_line(
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


def test_an_output_that_cannot_be_written_is_one_line_of_the_command(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["mondrian", "rollout", "report", "--db", db, "--output", f"{db}/x.txt"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        __main__.entry()
    assert str(ended.value.code).startswith("error: ")
    assert "\n" not in str(ended.value.code)


def test_every_version_of_an_advisor_is_shown_the_newest_first(
    found: tuple[RolloutStore, RolloutRecord], db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(found[0], version="0ld", name="ansel@v1.0.0", days=30)
    rollout.main(["ansel", "--db", db])
    text = capsys.readouterr().out
    assert text.index("ansel@v2.0.0 against") < text.index("ansel@v1.0.0 against")
    assert "◉ 50 %" in text
    rollout.main(["ansel", "--db", db, "--version", "0l"])
    assert "ansel@v2.0.0" not in capsys.readouterr().out


def test_a_person_holds_resumes_rolls_back_and_begins_anew(
    found: tuple[RolloutStore, RolloutRecord],
    db: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollout.getpass, "getuser", lambda: "ana")  # type: ignore[attr-defined]
    for flags, words in (
        (["--hold"], "is held at step 3 of 4 and answers 50 % of clients"),
        (["--resume"], "is running at step 3 of 4"),
        (["--advance", "--reason", "enough"], "is running at step 4 of 4 and answers 100 %"),
        (
            ["--rollback", "--reason", "it is curt"],
            "is rolled back at step 4 of 4 and answers nobody",
        ),
        (["--resume"], "is running at step 1 of 4 and answers 5 % of clients"),
    ):
        rollout.main(["ansel", "--db", db, *flags])
        told = capsys.readouterr().out
        assert words in told
        assert "follow within two seconds" in told
    log = found[0].list_decisions(found[1].id)
    assert [one.action for one in log[:5]] == ["resume", "roll back", "advance", "resume", "hold"]
    assert {one.who for one in log[:5]} == {"ana"}
    assert log[1].reason == "it is curt"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rollback"], 'give a reason to roll back ansel@v2.0.0: --reason "…"'),
        (["--advance"], r"is healthy, not ready \(.*\); give a reason to advance it: --reason"),
        (["--resume"], "is already running"),
        (["--hold", "--version", "ansel@v9"], r"--version 'ansel@v9' matches none of ansel@v2.0.0"),
    ],
)
def test_what_cannot_be_done_is_told_and_not_done(
    found: tuple[RolloutStore, RolloutRecord], db: str, flags: list[str], words: str
) -> None:
    before = found[0].get(found[1].id)
    with pytest.raises(MondrianError, match=words):
        rollout.main(["ansel", "--db", db, *flags])
    assert found[0].get(found[1].id) == before


def test_one_action_at_a_time(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rollout.main(["ansel", "--db", db, "--hold", "--rollback"])
    assert "not allowed with" in capsys.readouterr().err
    with pytest.raises(DataError, match="'monet' has no rollout"):
        rollout.main(["monet", "--db", db, "--hold"])


def test_a_version_by_letters_that_several_begin_with_is_refused(tmp_path: Path) -> None:
    told = database(tmp_path / "mondrian.db")
    for version in ("ab1", "ab2"):
        served(told, begun(told, version=version, name=f"ansel@{version}", shares=(0.05,)), count=5)
    with pytest.raises(DataError, match="matches more than one of"):
        rollout.main(["ansel", "--db", str(tmp_path / "mondrian.db"), "--version", "ab"])
