"""The service's hand on roll-outs: what a draw is told while versions come, go and fail to load."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mondrian.registry.local_store import CONTROL_LINK, link_control_version
from mondrian.rollout.actions import apply_action
from mondrian.rollout.config import load_rollout
from mondrian.rollout.store import Actor, RolloutStore
from mondrian.serving.assignment import ArmAssigner
from mondrian.serving.engines.base import Adapter
from mondrian.serving.rollout_controller import RolloutController, control_name
from mondrian.storage.engine import open_engine
from mondrian.storage.tables import migrate
from tests.conftest import ROOT


class Shelf:
    """Adapters of an engine; `dies` is how often its process ends under the load of a control."""

    def __init__(self, folder: Path, dies: int = 0) -> None:
        self.folder, self.dies, self.loads = folder, dies, 0
        self.adapters: dict[str, Adapter] = {}

    def serve(self, version: str) -> None:
        self.adapters["ansel"] = Adapter("ansel", str(self.folder / version), version)

    async def adopt(self, advisor: str, name: str, folder: Path) -> Adapter | None:
        self.loads += 1
        if self.loads <= self.dies:
            return None
        self.adapters[name] = Adapter(name, str(folder), folder.name)
        return self.adapters[name]


def steered(tmp_path: Path, shelf: Shelf) -> RolloutController:
    engine = open_engine(str(tmp_path / "jobs.db"))
    migrate(engine)
    plan = load_rollout(ROOT / "rollout.yaml")
    return RolloutController(RolloutStore(engine), plan, ("ansel",), shelf.adapters, shelf.adopt)


def everybody(steering: RolloutController, version: str) -> None:
    """Advance a version to its last step."""
    for _ in steering.settings.steps[1:]:
        entry = steering.rollouts.get(f"ansel/{version}")
        assert entry
        assert apply_action(
            steering.rollouts, steering.settings, entry, "advance", Actor("somebody", "trusted")
        )


def answers(steering: RolloutController, mode: str = "ab_test") -> set[str]:
    """Adapters that 200 clients are dealt."""
    stand = steering.current_snapshot("ansel")
    return {
        ArmAssigner("ansel", "ab_test", "1", 0.5, stand).plan(mode, str(i)).adapter
        for i in range(200)
    }


def test_a_version_whose_roll_out_has_not_begun_answers_nobody(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    steering = steered(tmp_path, shelf)
    assert answers(steering) == answers(steering, "lora") == {""}  # there is no adapter
    shelf.serve("v1")
    assert answers(steering) == answers(steering, "lora") == {""}
    asyncio.run(steering.refresh())
    assert answers(steering) == {"", "ansel"}
    everybody(steering, "v1")
    asyncio.run(steering.refresh())
    assert answers(steering) == {"ansel"}
    shelf.serve("v2")  # v1 answered everybody: v2 is not let in by that
    assert answers(steering) == {""}
    asyncio.run(steering.refresh())
    assert answers(steering) == {"ansel", control_name("ansel")}
    del shelf.adapters["ansel"]
    assert answers(steering) == {""}


def test_a_request_waits_for_the_roll_out_of_a_version_that_was_just_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mondrian.serving.rollout_controller.POLL_INTERVAL", 0.05)
    shelf = Shelf(tmp_path)
    steering = steered(tmp_path, shelf)
    shelf.serve("v1")

    async def asked() -> set[str]:
        looking = asyncio.create_task(steering.run())
        await steering.wait_for_start("ansel")
        looking.cancel()
        return answers(steering, "lora")

    assert asyncio.run(asked()) == {"ansel"}  # not the base, as between two looks
    shelf.serve("v2")
    monkeypatch.setattr("mondrian.serving.rollout_controller.ROLLOUT_START_TIMEOUT", 0.1)
    asyncio.run(steering.wait_for_start("ansel"))  # nobody looks: it waits no longer than that
    assert answers(steering, "lora") == {""}


@pytest.mark.parametrize("dies", [1, 9])
def test_a_control_that_the_model_dies_of_is_loaded_once_and_nothing_is_compared(
    tmp_path: Path, dies: int
) -> None:
    shelf = Shelf(tmp_path, dies)
    steering = steered(tmp_path, shelf)
    shelf.serve("v1")
    asyncio.run(steering.refresh())
    everybody(steering, "v1")
    shelf.serve("v2")
    for _ in range(5):
        asyncio.run(steering.refresh())
    assert shelf.loads == 1
    stand = steering.current_snapshot("ansel")
    assert (stand.control, stand.is_evidence) == ("", False)
    dealt = ArmAssigner("ansel", "ab_test", "1", 0.5, stand).plan("ab_test", "x")
    assert dealt.is_ab_test
    assert dealt.rollout_assignment is None
    name = control_name("ansel")  # the next model process has loaded it after all
    shelf.adapters[name] = Adapter(name, "v1", "v1")
    asyncio.run(steering.refresh())
    assert steering.current_snapshot("ansel").is_evidence


def test_a_fault_of_one_look_ends_nothing_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steering = steered(tmp_path, Shelf(tmp_path))
    steering.advisors = (None,)  # type: ignore[assignment]
    steering.adapters = None  # type: ignore[assignment]
    asyncio.run(steering.refresh_safely())
    assert "it stays as it is" in caplog.text


def test_a_shelf_knows_the_version_that_still_answers(tmp_path: Path) -> None:
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
