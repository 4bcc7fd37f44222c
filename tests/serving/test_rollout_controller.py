"""The rollout controller: what it tells the assignment while versions come, go and fail to load."""

import asyncio
from pathlib import Path

import pytest

from mondrian.registry.local_store import CONTROL_LINK, LocalStore, link_control_version
from mondrian.registry.pull import activate_previous
from mondrian.registry.version import parse_version
from mondrian.rollout.actions import apply_action
from mondrian.rollout.activation import activate_by_name
from mondrian.rollout.config import load_rollout_config
from mondrian.rollout.store import (
    HELD,
    REPLACED,
    ROLLED_BACK,
    RUNNING,
    Actor,
    Candidate,
    RolloutStore,
)
from mondrian.serving.assignment import ArmAssigner
from mondrian.serving.engines.base import Adapter
from mondrian.serving.rollout_controller import RolloutController, control_name
from mondrian.storage.engine import open_engine
from mondrian.storage.tables import jobs, migrate
from tests.conftest import ROOT
from tests.releasing import write_release
from tests.rollout_world import add_jobs
from tests.waiting import PATIENCE


class FakeEngine:
    """Adapters of an engine whose process ends in its first `crashes` loads of a control."""

    def __init__(self, folder: Path, crashes: int = 0) -> None:
        self.folder, self.crashes, self.loads = folder, crashes, 0
        self.adapters: dict[str, Adapter] = {}

    def serve(self, version: str) -> None:
        self.adapters["ansel"] = Adapter("ansel", str(self.folder / version), version)

    async def load_adapter(self, advisor: str, name: str, folder: Path) -> Adapter | None:
        self.loads += 1
        if self.loads <= self.crashes:
            return None
        self.adapters[name] = Adapter(name, str(folder), folder.name.rpartition("@")[2])
        return self.adapters[name]


def make_controller(tmp_path: Path, engine: FakeEngine) -> RolloutController:
    database = open_engine(str(tmp_path / "jobs.db"))
    migrate(database)
    config = load_rollout_config(ROOT / "rollout.yaml")
    store = RolloutStore(database)
    return RolloutController(store, config, ("ansel",), engine.adapters, engine.load_adapter)


def advance_to_last_step(controller: RolloutController, version: str) -> None:
    for _ in controller.config.steps[1:]:
        record = controller.store.get(f"ansel/{version}")
        assert record
        assert apply_action(
            controller.store, controller.config, record, "advance", Actor("somebody", "trusted")
        )


def assigned_adapters(controller: RolloutController, mode: str = "ab_test") -> set[str]:
    """The adapters that 200 clients are assigned."""
    snapshot = controller.current_snapshot("ansel")
    assigner = ArmAssigner("ansel", "ab_test", "1", 0.5, snapshot)
    return {assigner.plan(mode, str(i)).adapter for i in range(200)}


def test_a_version_whose_rollout_has_not_begun_answers_no_client(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    controller = make_controller(tmp_path, engine)
    assert assigned_adapters(controller) == assigned_adapters(controller, "lora") == {""}
    engine.serve("v1")
    assert assigned_adapters(controller) == assigned_adapters(controller, "lora") == {""}
    asyncio.run(controller.refresh())
    assert assigned_adapters(controller) == {"", "ansel"}
    advance_to_last_step(controller, "v1")
    asyncio.run(controller.refresh())
    assert assigned_adapters(controller) == {"ansel"}
    engine.serve("v2")  # the share of v1 does not apply to v2
    assert assigned_adapters(controller) == {""}
    asyncio.run(controller.refresh())
    assert assigned_adapters(controller) == {"ansel", control_name("ansel")}
    del engine.adapters["ansel"]
    assert assigned_adapters(controller) == {""}


def test_a_request_waits_for_the_rollout_of_a_version_that_was_just_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mondrian.serving.rollout_controller.POLL_INTERVAL", 0.05)
    monkeypatch.setattr("mondrian.serving.rollout_controller.ROLLOUT_START_TIMEOUT", PATIENCE)
    engine = FakeEngine(tmp_path)
    controller = make_controller(tmp_path, engine)
    engine.serve("v1")

    async def wait_and_assign() -> set[str]:
        polling = asyncio.create_task(controller.run())
        await controller.wait_for_start("ansel")
        polling.cancel()
        return assigned_adapters(controller, "lora")

    assert asyncio.run(wait_and_assign()) == {"ansel"}  # not the base
    engine.serve("v2")
    monkeypatch.setattr("mondrian.serving.rollout_controller.ROLLOUT_START_TIMEOUT", 0.1)
    asyncio.run(controller.wait_for_start("ansel"))  # nothing polls: it times out
    assert assigned_adapters(controller, "lora") == {""}


def pull(local_store: LocalStore, number: str, *before: str) -> None:
    """Activate a version as `mondrian pull` does."""
    version = parse_version(number)
    folder = local_store.version_folder(version)
    if not folder.exists():
        write_release(folder, str(version))
    local_store.activate(version, (folder / "release.json").read_bytes(), "pull", before)


def serve_active(controller: RolloutController, local_store: LocalStore) -> None:
    """Serve the active version as the service does after its next scan."""
    folder = local_store.current_link.resolve()
    version = folder.name.rpartition("@")[2]
    controller.adapters["ansel"] = Adapter("ansel", str(folder), version)  # type: ignore[index]
    asyncio.run(controller.refresh())


def listed_states(controller: RolloutController) -> list[tuple[str, str]]:
    return [(record.name, record.state) for record in controller.store.list_rollouts()]


@pytest.fixture
def served(tmp_path: Path) -> tuple[RolloutController, LocalStore]:
    """Serve v1, which answered all clients, and then v2 at its first step."""
    controller = make_controller(tmp_path, FakeEngine(tmp_path))
    local_store = LocalStore(tmp_path / "serving" / "ansel", "ansel")
    pull(local_store, "v1")
    serve_active(controller, local_store)
    advance_to_last_step(controller, "v1.0.0")
    pull(local_store, "v2", "v1.0.0")
    serve_active(controller, local_store)
    assert listed_states(controller) == [("ansel@v2.0.0", RUNNING), ("ansel@v1.0.0", REPLACED)]
    return controller, local_store


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_rollback_ends_the_rollout_in_a_database_that_the_command_does_not_know(
    served: tuple[RolloutController, LocalStore], tmp_path: Path, is_restarted: bool
) -> None:
    controller, local_store = served
    activate_previous(local_store)
    if is_restarted:
        controller = make_controller(tmp_path, FakeEngine(tmp_path))
    serve_active(controller, local_store)
    assert listed_states(controller) == [("ansel@v1.0.0", RUNNING), ("ansel@v2.0.0", ROLLED_BACK)]
    last = controller.store.list_decisions("ansel/v2.0.0")[0]
    assert (last.who, last.reason) == ("service", "mondrian rollback to ansel@v1.0.0")
    assert assigned_adapters(controller) == {"ansel"}  # v1, for all clients
    pull(local_store, "v3", "v1.0.0")
    serve_active(controller, local_store)
    assert controller.store.list_rollouts()[0].control == "ansel@v1.0.0"


def test_a_service_that_restarts_with_an_older_version_changes_nothing(
    served: tuple[RolloutController, LocalStore], tmp_path: Path
) -> None:
    controller, local_store = served
    activate_previous(local_store)
    serve_active(controller, local_store)
    newer = Candidate("ansel", "v3.0.0", "ansel@v3.0.0", str(tmp_path / "elsewhere/ansel@v3.0.0"))
    controller.store.get_or_start(newer, "previous")  # by another machine's service
    before = listed_states(controller)
    serve_active(make_controller(tmp_path, FakeEngine(tmp_path)), local_store)
    assert listed_states(controller) == before
    assert before[0] == ("ansel@v3.0.0", RUNNING)


def test_a_rollback_that_the_command_passed_on_is_logged_once(
    served: tuple[RolloutController, LocalStore], tmp_path: Path
) -> None:
    controller, local_store = served
    activate_previous(local_store)
    actor = Actor("ana", "mondrian rollback to ansel@v1.0.0")
    activate_by_name(str(tmp_path / "jobs.db"), "ansel@v1.0.0", "ansel@v2.0.0", actor)
    for _ in range(3):
        serve_active(controller, local_store)
    decisions = [
        (decision.action, decision.who)
        for version in ("v1.0.0", "v2.0.0")
        for decision in controller.store.list_decisions(f"ansel/{version}")[:2]
    ]
    assert decisions == [
        ("activate", "ana"),
        ("advance", "somebody"),
        ("roll back", "ana"),
        ("begin", "service"),
    ]


def test_a_version_that_was_rolled_back_and_is_pulled_again_answers_no_client(
    served: tuple[RolloutController, LocalStore],
) -> None:
    controller, local_store = served
    activate_previous(local_store)
    serve_active(controller, local_store)
    pull(local_store, "v2", "v1.0.0")
    serve_active(controller, local_store)
    assert listed_states(controller) == [("ansel@v2.0.0", ROLLED_BACK), ("ansel@v1.0.0", REPLACED)]
    assert assigned_adapters(controller) == {control_name("ansel")}
    reason = controller.current_snapshot("ansel").withdrawal_reason
    assert reason == "it was rolled back: mondrian rollback to ansel@v1.0.0"


def test_a_pull_of_an_older_version_rolls_nothing_back(
    served: tuple[RolloutController, LocalStore],
) -> None:
    controller, local_store = served
    pull(local_store, "v1", "v2.0.0")
    serve_active(controller, local_store)
    assert listed_states(controller) == [("ansel@v1.0.0", RUNNING), ("ansel@v2.0.0", REPLACED)]
    log = controller.store.list_decisions("ansel/v1.0.0")
    assert (log[0].action, log[0].reason) == ("activate", "ansel@v1.0.0 is active again")


def test_a_rollback_to_a_version_without_a_rollout_is_not_compared_with_what_was_taken_back(
    tmp_path: Path,
) -> None:
    controller = make_controller(tmp_path, FakeEngine(tmp_path))
    local_store = LocalStore(tmp_path / "serving" / "ansel", "ansel")
    pull(local_store, "v1")
    pull(local_store, "v2", "v1.0.0")
    serve_active(controller, local_store)
    advance_to_last_step(controller, "v2.0.0")
    activate_previous(local_store)
    serve_active(controller, local_store)
    first, second = controller.store.list_rollouts()
    assert (first.name, first.control, first.step) == ("ansel@v1.0.0", "base", 0)
    assert second.state == ROLLED_BACK


@pytest.mark.parametrize("crashes", [1, 9])
def test_a_control_that_crashes_the_model_is_loaded_once_and_nothing_is_compared(
    tmp_path: Path, crashes: int
) -> None:
    engine = FakeEngine(tmp_path, crashes)
    controller = make_controller(tmp_path, engine)
    engine.serve("v1")
    asyncio.run(controller.refresh())
    advance_to_last_step(controller, "v1")
    engine.serve("v2")
    for _ in range(5):
        asyncio.run(controller.refresh())
    assert engine.loads == 1
    snapshot = controller.current_snapshot("ansel")
    assert (snapshot.control, snapshot.is_evidence) == ("", False)
    plan = ArmAssigner("ansel", "ab_test", "1", 0.5, snapshot).plan("ab_test", "x")
    assert plan.is_ab_test
    assert plan.rollout_assignment is None
    name = control_name("ansel")  # the next model process could load it
    engine.adapters[name] = Adapter(name, "v1", "v1")
    asyncio.run(controller.refresh())
    assert controller.current_snapshot("ansel").is_evidence


def test_a_sample_ratio_alarm_holds_until_a_person_resumes(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    engine.serve("v1")
    controller = make_controller(tmp_path, engine)
    asyncio.run(controller.refresh())
    record = controller.store.get("ansel/v1")
    assert record
    add_jobs(controller.store, record, days=0.5, shares=(0.5,))
    with controller.store.engine.begin() as connection:
        connection.execute(jobs.update().values(share=0.2, queued_at=record.started_at))
    [(_, verdict)] = controller.decide()
    held = controller.store.get("ansel/v1")
    assert held
    assert (held.state, held.reason) == (HELD, verdict.reason)
    assert "sample-ratio mismatch" in held.reason
    assert controller.decide() == []
    decision = controller.store.list_decisions("ansel/v1")[0]
    assert (decision.who, decision.action) == ("service", "hold")
    assert apply_action(controller.store, controller.config, held, "resume", Actor("Ana", "seen"))
    assert controller.decide() == []  # only jobs since then count


def test_an_error_in_one_refresh_is_logged_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    controller = make_controller(tmp_path, FakeEngine(tmp_path))
    controller.advisors = (None,)  # type: ignore[assignment]
    controller.adapters = None  # type: ignore[assignment]
    asyncio.run(controller.refresh_safely())
    assert "it stays as it is" in caplog.text


def test_the_local_store_links_the_version_that_serves_as_control(tmp_path: Path) -> None:
    for name in ("ansel@v1.0.0", "ansel@v2.0.0"):
        (tmp_path / "ansel/versions" / name).mkdir(parents=True)
        for _ in range(2):
            link_control_version(tmp_path / "ansel/versions" / name)
            assert (tmp_path / "ansel" / CONTROL_LINK).resolve().name == name
    link_control_version(tmp_path / "ansel")
    assert sorted(path.name for path in (tmp_path / "ansel").iterdir()) == [
        CONTROL_LINK,
        "versions",
    ]
