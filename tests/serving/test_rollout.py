"""A running service and its roll-outs: who answers, what is on record, what it does by itself."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from PIL import Image

from mondrian.core.params import Params
from mondrian.rollout.actions import apply_action
from mondrian.rollout.config import load_rollout
from mondrian.rollout.observations import load_observations
from mondrian.rollout.store import BACK, RolloutRecord, RolloutStore
from mondrian.storage.engine import open_engine
from tests.conftest import ROOT
from tests.odd_files import encoded
from tests.service_process import Running, make_adapter, running, stop

pytestmark = pytest.mark.slow


def rollout_file(folder: Path, **more: Any) -> Path:
    """rollout.yaml with steps of no time, looked at ten times a second."""
    told = (
        yaml.safe_load((ROOT / "rollout.yaml").read_text()) | {"check_interval_seconds": 0.1} | more
    )
    told["steps"] = more.get("steps") or [
        {"share": share, "hours": 0, "jobs": 8, "requires": "guardrails"} for share in (0.5, 1.0)
    ]
    file = folder / "rollout.yaml"
    file.write_text(yaml.safe_dump(told))
    return file


def shelved(tiny: Any, params: Params, shelf: Path, name: str, seed: int) -> Path:
    """Put a version of ansel's adapter where the service looks, as `mondrian pull` does."""
    folder = make_adapter(tiny, shelf / "ansel" / "versions" / name, "ansel", params, seed)
    beside = shelf / "ansel" / ".current"
    beside.symlink_to(Path("versions") / name)
    beside.replace(shelf / "ansel" / "current")
    return folder


def ask(client: httpx2.Client, photo: bytes, who: str, mode: str = "") -> dict[str, Any]:
    answer = client.post(
        "/analyze",
        files={"image": ("lake.jpg", photo)},
        data={"advisor": "ansel", "mode": mode},
        headers={"x-client-id": who},
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def store(service: Running) -> RolloutStore:
    return RolloutStore(open_engine(str(service.db)))


def wait_for(rollouts: RolloutStore, wanted: Any, seconds: float = 20) -> RolloutRecord:
    deadline = time.monotonic() + seconds
    while True:
        found = next(iter(rollouts.list_rollouts()), None)
        if found and wanted(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.fixture
def photo(photos: list[Image.Image]) -> bytes:
    return encoded(photos[0], "JPEG", quality=95)


def test_a_new_version_is_dealt_judged_advanced_and_serves_everybody_and_the_next_begins_anew(
    tiny: Any, params: Params, photo: bytes, tmp_path: Path
) -> None:
    shelf, file = tmp_path / "shelf", rollout_file(tmp_path)
    shelved(tiny, params, shelf, "ansel@v1.0.0", 1)
    flags = ("--lora_path", shelf, "--model_mode", "ab_test", "--rollout", file)
    with running(tmp_path, *flags) as service, service.client() as client:
        told = store(service)
        first = wait_for(told, lambda one: True)
        assert (first.name, first.control, first.step) == ("ansel@v1.0.0", "base", 0)
        sides: list[str] = []
        while len(set(sides)) < 2 or sides.count("ab_test_fine_tuned") < 8:
            answer = ask(client, photo, f"client-{len(sides)}")
            sides.append(answer["model_used"])
            assert (answer["adapter_version"] == first.version) == sides[-1].endswith("tuned")
            assert len(sides) < 40
        full = wait_for(told, lambda one: one.full_since)
        assert [one.action for one in told.list_decisions(full.id)] == ["advance", "begin"]
        time.sleep(1.2)  # the service sees it at its next look
        assert {ask(client, photo, f"client-{i}")["model_used"] for i in range(4)} == {
            "ab_test_fine_tuned"
        }
        seen = load_observations(told.engine, first.id, 0)
        assert len(seen) == len(sides) + 4
        assert all(one.outcome == "completed" and one.compliant for one in seen)
        assert {one.share for one in seen} == {0.5, 1.0}

        shelved(tiny, params, shelf, "ansel@v2.0.0", 2)
        named = [first.version]
        while named[-1] == first.version:  # also between the switch and the roll-out's begin
            named.append(ask(client, photo, "client-0", mode="lora")["adapter_version"])
            assert len(named) < 200
        second = wait_for(told, lambda one: one.version != first.version)
        assert (second.control, second.control_version) == ("ansel@v1.0.0", first.version)
        assert named[-1] == second.version
        versions = {ask(client, photo, f"other-{i}")["adapter_version"] for i in range(10)}
        assert versions == {first.version, second.version}  # nobody falls back to the base
        assert all(one.status_code == 200 for one in (client.get("/"), client.get("/model-status")))


def test_a_candidate_that_breaks_a_guardrail_is_rolled_back_by_itself_and_stays_so(
    tiny: Any, params: Params, photo: bytes, tmp_path: Path
) -> None:
    limits = load_rollout(ROOT / "rollout.yaml").guardrails.model_dump()
    file = rollout_file(
        tmp_path,
        guardrails=limits | {"latency_p95_seconds": 0.001},
        steps=[{"share": 1.0, "hours": 0, "jobs": 1000, "requires": "guardrails"}],
    )
    shelf = tmp_path / "shelf"
    shelved(tiny, params, shelf, "ansel@v1.0.0", 1)
    flags = ("--lora_path", shelf, "--model_mode", "ab_test", "--rollout", file)
    with running(tmp_path, *flags) as service, service.client() as client:
        told, asked = store(service), 0
        while wait_for(told, lambda one: True).state != BACK:
            ask(client, photo, f"client-{asked}")
            asked += 1
            assert asked <= 60
        back = wait_for(told, lambda one: one.state == BACK)
        assert "latency" in back.why
        assert told.list_decisions(back.id)[0].who == "service"
        time.sleep(1.2)
        answer = ask(client, photo, "client-0")
        assert answer["model_used"] == "base"
        by_name = ask(client, photo, "client-0", mode="lora")
        assert by_name["model_used"] == "base"
        assert by_name["fallback_occurred"]
        assert "rolled back" in by_name["fallback_reason"]
    with (
        running(tmp_path, *flags) as service,
        service.client() as client,
    ):  # a start changes nothing
        assert ask(client, photo, "client-0")["model_used"] == "base"  # a start changes nothing
        again = store(service)
        assert apply_action(
            again,
            load_rollout(file),
            wait_for(again, lambda one: True),
            "resume",
            "somebody",
            "the machine was slow",
        )
        time.sleep(1.5)
        assert ask(client, photo, "client-0")["model_used"] == "ab_test_fine_tuned"


@pytest.mark.long
def test_a_client_keeps_its_arm_over_restarts_and_processes_and_a_killed_job_is_on_record(
    tiny: Any, params: Params, photo: bytes, tmp_path: Path
) -> None:
    steps = [
        {"share": share, "hours": 1, "jobs": 9, "requires": "guardrails"} for share in (0.5, 1)
    ]
    shelf, file = tmp_path / "shelf", rollout_file(tmp_path, steps=steps)
    shelved(tiny, params, shelf, "ansel@v1.0.0", 1)
    flags = ("--lora_path", shelf, "--model_mode", "ab_test", "--rollout", file)
    with running(tmp_path, *flags) as one, running(tmp_path, *flags) as two:
        with one.client() as a, two.client() as b:
            clients = [f"client-{i}" for i in range(6)]
            before = [ask(a, photo, who)["model_used"] for who in clients]
            assert before == [ask(b, photo, who)["model_used"] for who in clients]
            sent = a.post(
                "/upload",
                files={"image": ("lake.jpg", photo)},
                data={"advisor": "ansel"},
                headers={"x-client-id": "client-0"},
            )
            id = sent.json()["job_id"]
        os.kill(one.process.pid, signal.SIGKILL)
        one.process.wait()
    with running(tmp_path, *flags) as service, service.client() as client:
        assert before == [ask(client, photo, who)["model_used"] for who in clients]
        deadline = time.monotonic() + 30
        while client.get(f"/status/{id}").json()["status"] != "completed":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        told = client.get(f"/status/{id}").json()
        assert told["model_used"] == before[0]
        assert told["side"] == ("candidate" if before[0].endswith("tuned") else "control")


@pytest.mark.long
def test_a_control_that_is_gone_from_the_disk_is_the_base_and_it_is_said(
    tiny: Any, params: Params, photo: bytes, tmp_path: Path
) -> None:
    shelf, file = tmp_path / "shelf", rollout_file(tmp_path)
    flags = ("--lora_path", shelf, "--model_mode", "ab_test", "--rollout", file)
    first = shelved(tiny, params, shelf, "ansel@v1.0.0", 1)
    with running(tmp_path, *flags) as service:
        told = store(service)
        plan = load_rollout(file)
        assert apply_action(
            told, plan, wait_for(told, lambda one: True), "advance", "somebody", "trusted"
        )
        stop(service)
    shelved(tiny, params, shelf, "ansel@v2.0.0", 2)
    shutil.rmtree(first)
    with running(tmp_path, *flags) as service, service.client() as client:
        wait_for(store(service), lambda one: one.name == "ansel@v2.0.0")
        used = {ask(client, photo, f"client-{i}")["model_used"] for i in range(12)}
        assert used == {"ab_test_base", "ab_test_fine_tuned"}
        assert "cannot serve as control" in service.log()


def test_a_rollout_wants_an_ab_test_and_a_sound_file(tmp_path: Path) -> None:
    file = rollout_file(tmp_path)
    for flags, words in (
        (("--rollout", file), "--rollout needs --model_mode ab_test"),
        (
            (
                "--rollout",
                tmp_path / "none.yaml",
                "--model_mode",
                "ab_test",
                "--lora_path",
                "models",
            ),
            "does not exist",
        ),
        (
            (
                "--rollout",
                file,
                "--model_mode",
                "ab_test",
                "--lora_path",
                "models",
                "--ab_test_split",
                "0.5",
            ),
            "both say who answers",
        ),
    ):
        with pytest.raises(AssertionError, match=words), running(tmp_path, *flags):
            pass
