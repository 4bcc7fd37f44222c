"""Jobs of a rollout, as its verdict sees them."""

from dataclasses import replace

from mondrian.rollout.observations import Observation
from mondrian.rollout.store import (
    RolloutRecord,
)

RECORD = RolloutRecord(
    id="ansel/v2",
    advisor="ansel",
    version="v2",
    name="ansel@v2.0.0",
    folder="models",
    started_at=0.0,
    step_started_at=0.0,
    evidence_from=0.0,
)
FAILED = {"compliant": None, "latency": None}


def observe(i: int, is_candidate: bool, **values: object) -> Observation:
    """Return a job that went well, a minute after the previous one."""
    observation = Observation(
        id=f"job-{i}",
        is_shadow=False,
        client=f"client-{i}",
        pair_of="",
        is_candidate=is_candidate,
        share=0.5,
        step=0,
        outcome="completed",
        queued_at=60.0 * i,
        ended_at=60.0 * i + 5,
        rated_at=60.0 * i + 30,
        used_fallback=False,
        compliant=True,
        latency=5.0,
        tokens=300,
        thumbs=None,
        accepted=None,
        score_change=None,
    )
    return replace(observation, **values)  # type: ignore[arg-type]
