"""Which jobs are evidence of a roll-out, and what they say of its guardrails."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mondrian.critique.schema import Critique
from mondrian.rollout.metrics import METRICS, slow_critiques_metric
from mondrian.rollout.observations import load_observations
from mondrian.storage.engine import open_engine
from mondrian.storage.jobs import CLIENT_DISCONNECTED, JobStore, LeasePolicy
from tests.reviewing import served

ASKED = 1_800_000_000.0


def after(seconds: float) -> str:
    """When a client left, as the store writes it."""
    return datetime.fromtimestamp(ASKED + seconds, UTC).isoformat(timespec="milliseconds")


def test_what_another_version_answered_is_left_out_and_who_left_late_saw_a_slow_one(
    tmp_path: Path, critique: Critique
) -> None:
    store = JobStore(open_engine(str(tmp_path / "jobs.db")), LeasePolicy(60, 3))
    dealt: dict[str, Any] = {"rollout": "ansel/v2", "share": 0.5, "step": 0, "queued_at": ASKED}
    made: dict[str, dict[str, Any]] = {
        "own": {"side": "candidate", "adapter_version": "v2", "latency_seconds": 3.0},
        "pulled meanwhile": {"side": "candidate", "adapter_version": "v3"},
        "control": {"side": "control", "adapter_version": "v1", "latency_seconds": 4.0},
        "late": {
            "side": "candidate",
            "status": "failed",
            "error": CLIENT_DISCONNECTED,
            "completed_at": after(130),
        },
        "soon": {
            "side": "candidate",
            "status": "failed",
            "error": CLIENT_DISCONNECTED,
            "completed_at": after(10),
        },
    }
    for who, values in made.items():
        served(store, critique, subject=who, **dealt, **values)
    seen = {one.subject: one for one in load_observations(store.engine, "ansel/v2", 0)}
    assert set(seen) == set(made) - {"pulled meanwhile"}
    within = slow_critiques_metric(120.0)
    assert {who: within.value(one) for who, one in seen.items()} == {
        "own": 0.0,
        "control": 0.0,
        "late": 1.0,
        "soon": None,
    }
    latency = METRICS["latency"]
    assert [latency.value(seen[who]) for who in ("own", "late", "soon")] == [3.0, None, None]
