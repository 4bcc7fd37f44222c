"""Which jobs are evidence of a rollout, and what they count for its guardrails."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mondrian.critique.schema import Critique
from mondrian.rollout.metrics import METRICS, slow_critiques_metric
from mondrian.rollout.observations import load_observations
from mondrian.storage.engine import open_engine
from mondrian.storage.jobs import CLIENT_DISCONNECTED, JobStore, LeasePolicy
from tests.reviewing import add_completed_job

QUEUED_AT = 1_800_000_000.0


def disconnected(seconds: float) -> dict[str, Any]:
    """Return the values of a candidate's job after its client left, as the store writes them."""
    moment = datetime.fromtimestamp(QUEUED_AT + seconds, UTC).isoformat(timespec="milliseconds")
    outcome = {"status": "failed", "error": CLIENT_DISCONNECTED, "completed_at": moment}
    return {"side": "candidate"} | outcome


def test_answers_of_another_version_are_left_out_and_clients_that_left_late_count_as_slow(
    tmp_path: Path, critique: Critique
) -> None:
    store = JobStore(open_engine(str(tmp_path / "jobs.db")), LeasePolicy(60, 3))
    shared: dict[str, Any] = {"rollout": "ansel/v2", "share": 0.5, "step": 0}
    jobs: dict[str, dict[str, Any]] = {
        "own": {"side": "candidate", "adapter_version": "v2", "latency_seconds": 3.0},
        "pulled meanwhile": {"side": "candidate", "adapter_version": "v3"},
        "control": {"side": "control", "adapter_version": "v1", "latency_seconds": 4.0},
        "late": disconnected(130),
        "soon": disconnected(10),
        "error": {"side": "candidate", "status": "error"},
    }
    for client, values in jobs.items():
        add_completed_job(store, critique, subject=client, queued_at=QUEUED_AT, **shared, **values)
    observations = {obs.client: obs for obs in load_observations(store.engine, "ansel/v2", 0)}
    assert set(observations) == set(jobs) - {"pulled meanwhile"}
    slow = slow_critiques_metric(120.0)
    assert {client: slow.value(obs) for client, obs in observations.items()} == {
        "own": 0.0,
        "control": 0.0,
        "late": 1.0,
        "soon": None,
        "error": None,
    }
    assert observations["error"].outcome == "failed"  # as the application wrote it before 2026
    latency = METRICS["latency"]
    assert [latency.value(observations[client]) for client in ("own", "late", "soon")] == [
        3.0,
        None,
        None,
    ]


def test_a_critique_that_a_person_stops_is_no_failure_of_its_arm(
    tmp_path: Path, critique: Critique
) -> None:
    store = JobStore(open_engine(str(tmp_path / "jobs.db")), LeasePolicy(60, 3))
    values = {"rollout": "ansel/v2", "share": 0.5, "step": 0, "side": "candidate"}
    for subject, status in (("stopped", "analyzing"), ("cancelled", "queued")):
        row = {"id": subject, "subject": subject, "status": status, "kind": "upload"}
        store.add(row | values)
    assert store.stop("stopped")
    assert store.cancel("cancelled")
    outcomes = {obs.client: obs.outcome for obs in load_observations(store.engine, "ansel/v2", 0)}
    assert outcomes == {"stopped": "disconnected", "cancelled": "disconnected"}
