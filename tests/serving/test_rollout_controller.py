"""The rollout controller: what it tells the assignment while versions come, go and fail to load."""

import asyncio
from pathlib import Path

import pytest

from mondrian.registry.local_store import CONTROL_LINK, link_control_version
from mondrian.rollout.actions import apply_action
from mondrian.rollout.config import load_rollout_config
from mondrian.rollout.store import Actor, RolloutStore
from mondrian.serving.assignment import ArmAssigner
from mondrian.serving.engines.base import Adapter
from mondrian.serving.rollout_controller import RolloutController, control_name
from mondrian.storage.engine import open_engine
from mondrian.storage.tables import migrate
from tests.conftest import ROOT


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
        self.adapters[name] = Adapter(name, str(folder), folder.name)
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
