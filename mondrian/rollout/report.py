"""A roll-out -> one report, plain JSON: how it stands, why, and every number behind that.

The page, the command, the API and the CSV all show this and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from mondrian.rollout.assessment import Assessment, assess, exposure, fairness, firsts
from mondrian.rollout.config import Rollout
from mondrian.rollout.decision import MEANING, decide
from mondrian.rollout.metrics import METRICS
from mondrian.rollout.observations import Seen, evidence
from mondrian.rollout.sample_ratio import MISMATCH_LEVEL
from mondrian.rollout.store import BACK, Entry, Rollouts
from mondrian.rollout.time_series import interval, known, metrics

Report = dict[str, Any]


def report(rollouts: Rollouts, settings: Rollout | None, entry: Entry, now: float) -> Report:
    """Everything about a roll-out.

    settings  None where nobody knows them: then there is no verdict, no limit and no plan
    now       seconds since 1970
    """
    seen = evidence(rollouts.engine, entry.id, entry.evidence_from)
    asked = [one for one in seen if not one.shadow]
    told = {
        "rollout": entry.id, "advisor": entry.advisor, "version": entry.version,
        "name": entry.name, "control": entry.control, "state": entry.state, "why": entry.why,
        "revision": entry.revision, "at": moment(now), "began": moment(entry.began),
        "evidence_from": moment(entry.evidence_from), "full_since": moment(entry.full_since),
        "exposure": {"candidate": asdict(exposure(asked, True)),
                     "control": asdict(exposure(asked, False)), "dealt": _dealt(asked)},
        "fairness": _fairness(asked), "metrics": metrics(seen),
        "decisions": [asdict(one) | {"at": moment(one.at)} for one in rollouts.log(entry.id)],
        "verdict": None, "step": None, "steps": [], "guardrails": [], "success": None,
    }  # fmt: skip
    if settings is not None:
        found = assess(seen, settings, entry.step)
        told |= _judged(found, entry, settings, now) | _plan(found, entry, settings, now)
    return told


def newest(rollouts: Rollouts, advisor: str = "") -> tuple[list[Entry], list[Entry]]:
    """(the newest roll-out of each advisor, or of one; those before), each the newest first."""
    new: dict[str, Entry] = {}
    old = []
    for entry in rollouts.all():
        if advisor in ("", entry.advisor) and new.setdefault(entry.advisor, entry) is not entry:
            old.append(entry)
    return list(new.values()), old


def moment(seconds: float | None) -> str | None:
    """Seconds since 1970 as ISO text, UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _judged(found: Assessment, entry: Entry, settings: Rollout, now: float) -> Report:
    verdict, success = decide(found, entry, settings, now), found.success
    guards = [asdict(one) | {"found": interval(one.found)} for one in found.guards]
    return {
        "verdict": {"status": str(verdict.status), "meaning": MEANING[verdict.status],
                    "action": verdict.action, "why": verdict.why},
        "guardrails": guards,
        "success": {
            "metric": success.metric, "told": METRICS[success.metric].told,
            "margin": success.margin, "verdict": success.verdict,
            "difference": interval(success.difference), "paired": interval(success.paired),
        },
    }  # fmt: skip


def _plan(found: Assessment, entry: Entry, settings: Rollout, now: float) -> Report:
    """Where it is among its steps, and what the step asks for."""
    here = min(entry.step, len(settings.steps) - 1)
    at = "stopped" if entry.state == BACK else "here"
    places = ["done" if i < here else at if i == here else "to come"
              for i in range(len(settings.steps))]  # fmt: skip
    steps = [one.model_dump() | {"place": place}
             for one, place in zip(settings.steps, places, strict=True)]  # fmt: skip
    hours = max(0.0, now - entry.step_began) / 3600
    step = {
        "number": here + 1, "of": len(steps), "share": 0.0 if entry.state == BACK
        else settings.steps[here].share, "began": moment(entry.step_began),
        "hours": round(hours, 2), "hours_asked": settings.steps[here].hours,
        "jobs": found.step_jobs, "jobs_asked": settings.steps[here].jobs,
        "asks": settings.steps[here].asks, "automatic": settings.automatic,
    }  # fmt: skip
    return {"step": step, "steps": steps}


def _dealt(asked: Sequence[Seen]) -> Report:
    """Clients that were dealt by lot: the share meant for the candidate and what it got."""
    dealt = [one for one in firsts(asked) if 0 < one.share < 1]
    if not dealt:
        return {"clients": 0, "meant": None, "got": None}
    meant = sum(one.share for one in dealt) / len(dealt)
    got = sum(one.candidate for one in dealt) / len(dealt)
    return {"clients": len(dealt), "meant": known(meant), "got": known(got)}


def _fairness(asked: Sequence[Seen]) -> Report:
    mismatch, double, clients = fairness(asked)
    return {
        "mismatch": known(mismatch), "alarm": round(1 / MISMATCH_LEVEL, 6),
        "both_arms": double, "clients": clients,
    }  # fmt: skip
