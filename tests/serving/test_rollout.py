"""Rollouts of a running service: who answers, what is recorded, what is decided automatically."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from mondrian.core.params import Params
from mondrian.rollout.actions import apply_action
from mondrian.rollout.config import load_rollout_config
from mondrian.rollout.observations import load_observations
from mondrian.rollout.store import ROLLED_BACK, Actor, RolloutRecord, RolloutStore
from mondrian.storage.engine import open_engine
from tests.conftest import ROOT
from tests.core.odd_photos import encode
from tests.service_process import (
    ServiceProcess,
    analyze_as,
    make_adapter,
    run_service,
    stop_service,
)
from tests.serving.service_jobs import wait_until
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


def write_rollout_file(folder: Path, **values: Any) -> Path:
    """Write rollout.yaml with steps of no time that are checked ten times a second."""
    steps = [
        {"share": share, "hours": 0, "jobs": 8, "requires": "guardrails"} for share in (0.5, 1.0)
    ]
    config = yaml.safe_load((ROOT / "rollout.yaml").read_text())
    config |= {"check_interval_seconds": 0.1, "steps": steps} | values
    file = folder / "rollout.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def install_version(tiny: Any, params: Params, store: Path, name: str, seed: int) -> Path:
    """Install a version of ansel's adapter, as `mondrian pull` does."""
    folder = make_adapter(tiny, store / "ansel" / "versions" / name, "ansel", params, seed)
    link = store / "ansel" / ".current"
    link.symlink_to(Path("versions") / name)
    link.replace(store / "ansel" / "current")
    return folder


def open_rollouts(service: ServiceProcess) -> RolloutStore:
    return RolloutStore(open_engine(str(service.db)))


def wait_for_rollout(
    rollouts: RolloutStore,
    condition: Callable[[RolloutRecord], Any] = lambda record: True,
) -> RolloutRecord:
    """Return the newest rollout once there is one that meets a condition."""

    def find_rollout() -> RolloutRecord | None:
        record = next(iter(rollouts.list_rollouts()), None)
        return record if record and condition(record) else None

    return wait_for(find_rollout)


@pytest.fixture
def photo(photos: list[Image.Image]) -> bytes:
    return encode(photos[0], "JPEG", quality=95)


def test_a_new_version_advances_to_all_clients_and_is_the_control_of_the_next(
    tiny: Any, params: Params, photo: bytes, tmp_path: Path
) -> None:
    adapters, file = tmp_path / "adapters", write_rollout_file(tmp_path)
    install_version(tiny, params, adapters, "ansel@v1.0.0", 1)
    flags = ("--lora_path", adapters, "--model_mode", "ab_test", "--rollout", file)
    with run_service(tmp_path, *flags) as service, service.client() as client:
        rollouts = open_rollouts(service)
        first = wait_for_rollout(rollouts)
        assert (first.name, first.control, first.step) == ("ansel@v1.0.0", "base", 0)
        sides: list[str] = []
        while len(set(sides)) < 2 or sides.count("ab_test_fine_tuned") < 8:
            answer = analyze_as(client, photo, f"client-{len(sides)}")
            sides.append(answer["model_used"])
            assert (answer["adapter_version"] == first.version) == sides[-1].endswith("tuned")
            assert len(sides) < 40
        full = wait_for_rollout(rollouts, lambda record: record.full_since)
        decisions = rollouts.list_decisions(full.id)
        assert [decision.action for decision in decisions] == ["advance", "begin"]
        late: list[str] = []  # until the service has polled, and one answer to each of four clients
        while late[-4:] != ["ab_test_fine_tuned"] * 4:
            late.append(analyze_as(client, photo, f"client-{len(late) % 4}")["model_used"])
            assert len(late) < 200
        observations = load_observations(rollouts.engine, first.id, 0)
        assert len(observations) == len(sides) + len(late)
        assert all(obs.outcome == "completed" and obs.compliant for obs in observations)
        assert {obs.share for obs in observations} == {0.5, 1.0}

        install_version(tiny, params, adapters, "ansel@v2.0.0", 2)
        versions = [first.version]
        while versions[-1] == first.version:  # also before the rollout of the new one begins
            answer = analyze_as(client, photo, "client-0", mode="lora")
            versions.append(answer["adapter_version"])
            assert len(versions) < 200
        second = wait_for_rollout(rollouts, lambda record: record.version != first.version)
        assert (second.control, second.control_version) == ("ansel@v1.0.0", first.version)
        assert versions[-1] == second.version
        used = {analyze_as(client, photo, f"other-{i}")["adapter_version"] for i in range(10)}
        assert used == {first.version, second.version}  # no fallback to the base
        assert all(client.get(path).status_code == 200 for path in ("/", "/model-status"))


def test_a_candidate_that_breaks_a_guardrail_is_rolled_back_and_stays_so_after_a_restart(
    tiny: Any, params: Params, photo: bytes, tmp_path: Path
) -> None:
    limits = load_rollout_config(ROOT / "rollout.yaml").guardrails.model_dump()
    file = write_rollout_file(
        tmp_path,
        guardrails=limits | {"latency_p95_seconds": 0.001},
        steps=[{"share": 1.0, "hours": 0, "jobs": 1000, "requires": "guardrails"}],
    )
    adapters = tmp_path / "adapters"
    install_version(tiny, params, adapters, "ansel@v1.0.0", 1)
    flags = ("--lora_path", adapters, "--model_mode", "ab_test", "--rollout", file)
    with run_service(tmp_path, *flags) as service, service.client() as client:
        rollouts, n_requests = open_rollouts(service), 0
        while wait_for_rollout(rollouts).state != ROLLED_BACK:
            analyze_as(client, photo, f"client-{n_requests}")
            n_requests += 1
            assert n_requests <= 300
        record = wait_for_rollout(rollouts, lambda record: record.state == ROLLED_BACK)
        assert "latency" in record.reason
        assert rollouts.list_decisions(record.id)[0].who == "service"
        wait_for(lambda: analyze_as(client, photo, "client-0")["model_used"] == "base")
        fallback = analyze_as(client, photo, "client-0", mode="lora")
        assert fallback["model_used"] == "base"
        assert fallback["fallback_occurred"]
        assert "rolled back" in fallback["fallback_reason"]
    with run_service(tmp_path, *flags) as service, service.client() as client:
        assert analyze_as(client, photo, "client-0")["model_used"] == "base"
        rollouts = open_rollouts(service)
        record, config = wait_for_rollout(rollouts), load_rollout_config(file)
        reason = "the machine was slow"
        assert apply_action(rollouts, config, record, "resume", Actor("somebody", reason))
        wait_for(
            lambda: analyze_as(client, photo, "client-0")["model_used"] == "ab_test_fine_tuned"
        )


def test_a_client_keeps_its_arm_after_restarts_and_in_every_process_and_a_killed_job_has_its_arm(
    tiny: Any, params: Params, photo: bytes, tmp_path: Path
) -> None:
    steps = [
        {"share": share, "hours": 1, "jobs": 9, "requires": "guardrails"} for share in (0.5, 1)
    ]
    adapters, file = tmp_path / "adapters", write_rollout_file(tmp_path, steps=steps)
    install_version(tiny, params, adapters, "ansel@v1.0.0", 1)
    flags = ("--lora_path", adapters, "--model_mode", "ab_test", "--rollout", file)
    with run_service(tmp_path, *flags) as first, run_service(tmp_path, *flags) as second:
        with first.client() as client, second.client() as other:
            ids = [f"client-{i}" for i in range(6)]
            before = [analyze_as(client, photo, id)["model_used"] for id in ids]
            assert before == [analyze_as(other, photo, id)["model_used"] for id in ids]
            response = client.post(
                "/upload",
                files={"image": ("lake.jpg", photo)},
                data={"advisor": "ansel"},
                headers={"x-client-id": "client-0"},
            )
            job_id = response.json()["job_id"]
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
    with run_service(tmp_path, *flags) as service, service.client() as client:
        assert before == [analyze_as(client, photo, id)["model_used"] for id in ids]
        wait_until(client, job_id, "completed")
        job = client.get(f"/status/{job_id}").json()
        assert job["model_used"] == before[0]
        assert job["side"] == ("candidate" if before[0].endswith("tuned") else "control")


def test_the_base_replaces_a_control_that_was_deleted_and_the_log_says_so(
    tiny: Any, params: Params, photo: bytes, tmp_path: Path
) -> None:
    adapters, file = tmp_path / "adapters", write_rollout_file(tmp_path)
    flags = ("--lora_path", adapters, "--model_mode", "ab_test", "--rollout", file)
    first = install_version(tiny, params, adapters, "ansel@v1.0.0", 1)
    with run_service(tmp_path, *flags) as service:
        rollouts, config = open_rollouts(service), load_rollout_config(file)
        record = wait_for_rollout(rollouts)
        assert apply_action(rollouts, config, record, "advance", Actor("somebody", "trusted"))
        stop_service(service)
    install_version(tiny, params, adapters, "ansel@v2.0.0", 2)
    shutil.rmtree(first)
    with run_service(tmp_path, *flags) as service, service.client() as client:
        wait_for_rollout(open_rollouts(service), lambda record: record.name == "ansel@v2.0.0")
        used = {analyze_as(client, photo, f"client-{i}")["model_used"] for i in range(12)}
        assert used == {"ab_test_base", "ab_test_fine_tuned"}
        assert "cannot serve as control" in service.log()


def test_a_rollout_needs_an_ab_test_and_a_valid_file(tmp_path: Path) -> None:
    file, missing = write_rollout_file(tmp_path), tmp_path / "none.yaml"
    ab_test = ("--model_mode", "ab_test", "--lora_path", "models")
    for flags, message in (
        (("--rollout", file), "--rollout needs --model_mode ab_test"),
        (("--rollout", missing, *ab_test), "does not exist"),
        (("--rollout", file, *ab_test, "--ab_test_split", "0.5"), "both say who answers"),
    ):
        with pytest.raises(AssertionError, match=message), run_service(tmp_path, *flags):
            pass
