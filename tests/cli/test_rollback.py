"""The commands rollback and list agree with the rollouts in the database."""

import json
import time
from pathlib import Path

import pytest

from mondrian.cli import list as list_command
from mondrian.cli import rollback, rollout
from mondrian.core.errors import DataError
from mondrian.registry.local_store import LocalStore
from mondrian.registry.version import Version, parse_version, version_tag
from mondrian.rollout.store import Actor, Candidate, RolloutRecord, RolloutStore
from tests.conftest import ROOT
from tests.releasing import write_release
from tests.rollout_world import create_database

V1, V2 = parse_version("v1"), parse_version("v2")


@pytest.fixture
def local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """Return a store in which v1 was active before v2."""
    monkeypatch.chdir(tmp_path)
    local_store = LocalStore(tmp_path / "models" / "serving" / "ansel", "ansel")
    for version, before in ((V1, ()), (V2, (str(V1),))):
        folder = local_store.version_folder(version)
        write_release(folder, str(version))
        local_store.activate(version, (folder / "release.json").read_bytes(), "pull", before)
    return local_store


@pytest.fixture
def rollouts(tmp_path: Path, local_store: LocalStore) -> RolloutStore:
    """Return the rollouts of v1, which answers all clients, and then of v2 at its first step."""
    rollouts = create_database(tmp_path / "data" / "service" / "mondrian.db")
    full = begin(rollouts, local_store, V1)
    rollouts.change(full, "advance", Actor("ana", "good"), step=3, full_since=time.time())
    begin(rollouts, local_store, V2)
    return rollouts


def begin(rollouts: RolloutStore, local_store: LocalStore, version: Version) -> RolloutRecord:
    folder, name = local_store.version_folder(version), version_tag("ansel", version)
    return rollouts.get_or_start(Candidate("ansel", str(version), name, str(folder)), "previous")


def list_rows(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str | None]]:
    capsys.readouterr()
    list_command.main(["ansel", "--json", "--params", str(ROOT / "params.yaml")])
    rows = json.loads(capsys.readouterr().out)
    return {row["version"]: (row["here"], row["rollout"]) for row in rows}


def test_after_a_rollback_all_commands_say_that_the_previous_version_serves(
    rollouts: RolloutStore, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {"v2.0.0": ("active", "step 1"), "v1.0.0": ("previous", "control")}
    assert list_rows(capsys) == before
    rollback.main(["ansel"])
    assert capsys.readouterr().out.splitlines() == [
        "ansel@v1.0.0 is active again, instead of v2.0.0",
        "the rollout of ansel@v2.0.0 has ended",
        "ansel@v1.0.0: its rollout continues: all clients",
    ]
    after = {"v2.0.0": ("installed", "rolled back"), "v1.0.0": ("active", "all clients")}
    assert list_rows(capsys) == after
    flags = ["--rollout", str(ROOT / "rollout.yaml")]
    rollout.main(["ansel", *flags])
    first, second = capsys.readouterr().out.split("\n\n")
    assert first.startswith("ansel · ansel@v1.0.0 against base: NO DATA")
    assert second.startswith("ansel · ansel@v2.0.0 against ansel@v1.0.0: ROLLED BACK")
    rollout.main(["report", "--json", *flags])
    assert [report["name"] for report in json.loads(capsys.readouterr().out)] == ["ansel@v1.0.0"]


def test_a_rollback_to_a_version_that_was_rolled_back_says_that_it_answers_nobody(
    rollouts: RolloutStore, capsys: pytest.CaptureFixture[str]
) -> None:
    full = rollouts.get("ansel/v1.0.0")
    assert full
    rollouts.change(full, "roll back", Actor("ana", "curt"), state="rolled back")
    rollback.main(["ansel"])
    assert "ansel@v1.0.0: its rollout was rolled back (curt), so it" in capsys.readouterr().out
    assert list_rows(capsys)["v1.0.0"] == ("active", "rolled back")


def test_a_rollback_without_a_database_creates_none(
    local_store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rollback.main(["ansel"])
    assert "no rollout was ended: --db data/service/mondrian.db does not" in capsys.readouterr().out
    assert local_store.active_version() == V1
    assert not (tmp_path / "data").exists()
    assert list_rows(capsys) == {"v2.0.0": ("installed", None), "v1.0.0": ("active", None)}


def test_a_rollback_works_if_the_database_does_not_answer(
    local_store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    db = ["--db", "postgresql://ana:secret@127.0.0.1:1/mondrian"]
    with pytest.raises(DataError, match=r"v2\.0\.0 was not ended: --db 127.* cannot be") as error:
        rollback.main(["ansel", *db])
    assert "ansel@v1.0.0 is active again" in capsys.readouterr().out
    assert "secret" not in str(error.value)
    assert local_store.active_version() == V1
    list_command.main(["ansel", *db, "--params", str(ROOT / "params.yaml")])
    printed = capsys.readouterr()
    assert "active" in printed.out
    assert "rollouts are unknown: --db 127.0.0.1:1/mondrian" in printed.err


def test_a_rollback_of_versions_without_rollouts_says_so(
    local_store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create_database(tmp_path / "other.db")
    rollback.main(["ansel", "--db", "other.db"])
    output = capsys.readouterr().out
    assert "there is no rollout of ansel@v2.0.0 in --db other.db" in output
    assert "that of ansel@v1.0.0 starts with the service" in output
