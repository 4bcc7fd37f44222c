"""What mondrian pull and mondrian rollback change in the rollouts of a database."""

import time
from pathlib import Path

import pytest

from mondrian.core.errors import DataError
from mondrian.rollout.actions import InvalidTransitionError, apply_manual_action
from mondrian.rollout.activation import activate_by_name, describe_activated
from mondrian.rollout.config import RolloutConfig, load_rollout_config
from mondrian.rollout.lookup import NoRolloutsError
from mondrian.rollout.report import build_rollout_report
from mondrian.rollout.store import (
    HELD,
    REPLACED,
    ROLLED_BACK,
    RUNNING,
    Actor,
    Candidate,
    RolloutRecord,
    RolloutStore,
)
from mondrian.rollout.terminal import format_summary
from tests.conftest import ROOT
from tests.rollout_world import create_database

REASON = "mondrian rollback to ansel@v1"


@pytest.fixture(scope="module")
def config() -> RolloutConfig:
    return load_rollout_config(ROOT / "rollout.yaml")


@pytest.fixture
def db(tmp_path: Path) -> str:
    return str(tmp_path / "mondrian.db")


@pytest.fixture
def store(db: str) -> RolloutStore:
    """Return the rollouts of ansel@v1, which answers all clients, and then of ansel@v2."""
    store = create_database(Path(db))
    store.change(
        begin(store, "v1"), "advance", Actor("ana", "good"), step=3, full_since=time.time()
    )
    begin(store, "v2")
    return store


def begin(store: RolloutStore, version: str) -> RolloutRecord:
    candidate = Candidate("ansel", version, f"ansel@{version}", f"versions/ansel@{version}")
    return store.get_or_start(candidate, "previous")


def states(store: RolloutStore) -> list[tuple[str, str]]:
    return [(record.version, record.state) for record in store.list_rollouts()]


def roll_back_v2(db: str) -> tuple[RolloutRecord | None, RolloutRecord | None]:
    return activate_by_name(db, "ansel@v1", "ansel@v2", Actor("ana", REASON))


def test_a_new_version_replaces_the_one_before(store: RolloutStore) -> None:
    assert states(store) == [("v2", RUNNING), ("v1", REPLACED)]


def test_a_rollback_ends_the_rollout_of_the_version_taken_back(
    store: RolloutStore, db: str, config: RolloutConfig
) -> None:
    active, taken_back = roll_back_v2(db)
    assert states(store) == [("v1", RUNNING), ("v2", ROLLED_BACK)]
    assert taken_back == store.get("ansel/v2")
    assert active
    assert describe_activated(active) == "its rollout continues: all clients"
    last = store.list_decisions("ansel/v2")[0]
    assert (last.action, last.who, last.reason) == ("roll back", "ana", REASON)
    assert [d.action for d in store.list_decisions("ansel/v1")] == ["activate", "advance", "begin"]
    summaries = [
        format_summary(build_rollout_report(store, config, record, time.time()))
        for record in store.list_rollouts()
    ]
    assert "ansel@v1 against base: NO DATA" in summaries[0]
    assert "ansel@v2 against ansel@v1: ROLLED BACK\n  mondrian rollback to ansel@v1" in summaries[1]
    assert "✕ 5 %" in summaries[1]


def test_a_repeated_rollback_changes_nothing(store: RolloutStore, db: str) -> None:
    roll_back_v2(db)
    before = store.list_rollouts(), store.list_decisions("ansel/v1")
    roll_back_v2(db)
    assert (store.list_rollouts(), store.list_decisions("ansel/v1")) == before


def test_a_version_that_was_rolled_back_answers_no_client_when_it_is_pulled_again(
    store: RolloutStore, db: str, config: RolloutConfig
) -> None:
    roll_back_v2(db)
    active, _ = activate_by_name(db, "ansel@v2", "", Actor("ana", "mondrian pull"))
    assert active
    message = describe_activated(active)
    assert "was rolled back (mondrian rollback to ansel@v1), so it answers no client" in message
    assert "mondrian rollout ansel --resume" in message
    assert states(store) == [("v2", ROLLED_BACK), ("v1", REPLACED)]
    again = apply_manual_action(store, config, active, "resume", Actor("ana", ""))
    assert (again.state, again.step) == (RUNNING, 0)


def test_a_newer_version_after_a_rollback_is_compared_with_the_one_that_serves(
    store: RolloutStore, db: str
) -> None:
    roll_back_v2(db)
    assert begin(store, "v3").control == "ansel@v1"
    assert states(store) == [("v3", RUNNING), ("v1", REPLACED), ("v2", ROLLED_BACK)]


def test_a_held_rollout_is_still_held_when_its_version_is_active_again(
    store: RolloutStore, db: str
) -> None:
    record = store.get("ansel/v1")
    assert record
    store.change(record, "hold", Actor("ana", "guests"), state=HELD, full_since=None, step=1)
    active, _ = roll_back_v2(db)
    assert active
    assert (active.state, active.reason) == (HELD, "guests")
    assert describe_activated(active) == "its rollout continues: held at step 2"


@pytest.mark.parametrize("action", ["advance", "hold", "resume"])
def test_a_person_cannot_change_the_rollout_of_a_version_that_is_not_active(
    store: RolloutStore, db: str, config: RolloutConfig, action: str
) -> None:
    roll_back_v2(db)
    record = store.get("ansel/v2")
    assert record
    with pytest.raises(InvalidTransitionError, match="ansel@v2 is not active, ansel@v1 is; pull"):
        apply_manual_action(store, config, record, action, Actor("ana", "why not"))
    assert store.get("ansel/v2") == record


def test_a_replaced_rollout_is_not_decided_on_but_a_person_can_roll_it_back(
    store: RolloutStore, config: RolloutConfig
) -> None:
    replaced = store.list_rollouts()[1]
    report = build_rollout_report(store, config, replaced, time.time())
    assert (report["verdict"]["status"], report["verdict"]["action"]) == ("replaced", "")
    assert report["step"]["share"] == 0
    assert "REPLACED" in format_summary(report)
    apply_manual_action(store, config, replaced, "rollback", Actor("ana", "it is curt"))
    assert states(store) == [("v2", RUNNING), ("v1", ROLLED_BACK)]


def test_versions_without_a_rollout_change_nothing(store: RolloutStore, db: str) -> None:
    before = store.list_rollouts()
    assert activate_by_name(db, "okeefe@v1", "okeefe@v2", Actor("ana", REASON)) == (None, None)
    assert store.list_rollouts() == before


def test_a_missing_database_is_not_created(tmp_path: Path) -> None:
    missing = tmp_path / "none.db"
    for db in (str(missing), f"sqlite:///{missing}"):
        with pytest.raises(NoRolloutsError, match=r"none\.db does not exist"):
            roll_back_v2(db)
    assert not missing.exists()
    with pytest.raises(DataError, match="cannot be opened"):
        roll_back_v2("postgresql://127.0.0.1:1/mondrian")
