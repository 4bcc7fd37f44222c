"""Choice of the arm that answers, by the client's mode, the service's mode and the A/B test.

An assignment depends only on experiment, version and client: it is the same in every process and
after a restart, and a client of the candidate stays with it when its share rises.
"""

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Self

from mondrian.core.errors import MondrianError
from mondrian.storage.tables import CANDIDATE, CONTROL

DEFAULT_MODE = "baseline"  # existing clients send it for the mode of the service
_ADAPTER_MODES = {"lora", "fine_tuned", "rag+lora", "lora+rag", "rag_lora", "lora_rag"}
MODES = ("baseline", "base", "rag", *sorted(_ADAPTER_MODES), "ab_test")
NO_RAG = "there is no retrieval here: answered without"


class UnknownModeError(MondrianError):
    """A client requests a mode that does not exist."""


@dataclass(frozen=True)
class RolloutSnapshot:
    rollout: str
    version: str
    step: int
    share: float  # of clients that the candidate answers
    control: str = ""  # name of the adapter that answers the others; empty for the base
    withdrawal_reason: str = ""  # why the candidate answers no client; empty if it does
    is_evidence: bool = True  # jobs count as evidence; not if the control cannot serve


@dataclass(frozen=True)
class RolloutAssignment:
    """A job's part in a rollout, in the columns of these names."""

    rollout: str
    side: str
    share: float
    step: int


@dataclass(frozen=True)
class AnswerPlan:
    requested_mode: str
    adapter: str  # its name; empty for the base
    is_ab_test: bool
    reason: str = ""  # why this is not what was requested; empty if it is
    fell_back: bool = False  # the base answers because an adapter cannot
    rollout_assignment: RolloutAssignment | None = None

    @property
    def arm(self) -> str:
        return "fine_tuned" if self.adapter else "base"

    @property
    def model_used(self) -> str:
        return f"ab_test_{self.arm}" if self.is_ab_test else self.arm

    @property
    def mode_used(self) -> str:
        return "lora" if self.adapter else DEFAULT_MODE

    def replace_adapter(self, adapter: str, reason: str) -> Self:
        """Return the plan with another adapter, or a fallback to the base if it is empty."""
        reasons = "; ".join(filter(None, (self.reason, reason)))
        return replace(self, adapter=adapter, reason=reasons, fell_back=not adapter)


@dataclass(frozen=True)
class ArmAssigner:
    """Plans which arm answers for one advisor."""

    advisor: str
    model_mode: str
    experiment: str
    split: float  # share of clients that the adapter answers in an A/B test without a rollout
    snapshot: RolloutSnapshot | None = None

    def plan(self, mode: str, subject: str) -> AnswerPlan:
        """Plan which arm answers a client's request. Raises UnknownModeError."""
        mode = normalize_mode(mode)
        reason = NO_RAG if "rag" in mode else ""
        if mode == "base":
            return AnswerPlan(mode, "", False)
        wants_adapter = mode in _ADAPTER_MODES
        if mode == "ab_test" or (self.model_mode == "ab_test" and not wants_adapter):
            return replace(self._assign_arm(mode, subject), reason=reason)
        if wants_adapter or self.model_mode == "fine_tuned":
            return self._plan_adapter(AnswerPlan(mode, self.advisor, False, reason))
        return AnswerPlan(mode, "", False, reason)

    def _plan_adapter(self, plan: AnswerPlan) -> AnswerPlan:
        snapshot = self.snapshot
        if snapshot is None or not snapshot.withdrawal_reason:
            return plan
        reason = f"the adapter answers no client ({snapshot.withdrawal_reason}): answered by the "
        reason += "previous version" if snapshot.control else "base"
        return plan.replace_adapter(snapshot.control, reason)

    def _assign_arm(self, mode: str, subject: str) -> AnswerPlan:
        snapshot = self.snapshot
        if snapshot is None:
            chosen = hash_to_unit_interval(self.experiment, subject) < self.split
            return AnswerPlan(mode, self.advisor if chosen else "", True)
        if snapshot.withdrawal_reason:
            return AnswerPlan(mode, snapshot.control, False)
        experiment = f"{self.experiment}/{snapshot.rollout}"
        chosen = hash_to_unit_interval(experiment, subject) < snapshot.share
        return self.plan_side(CANDIDATE if chosen else CONTROL, mode)

    def plan_side(self, side: str, mode: str) -> AnswerPlan:
        """Plan the answer of one side of the rollout."""
        snapshot = self.snapshot
        assert snapshot is not None
        plan = AnswerPlan(mode, self.advisor if side == CANDIDATE else snapshot.control, True)
        if not snapshot.is_evidence:
            return plan
        assignment = RolloutAssignment(snapshot.rollout, side, snapshot.share, snapshot.step)
        return replace(plan, rollout_assignment=assignment)


def normalize_mode(mode: str) -> str:
    """Return a client's mode in lower case, or the default for none. Raises UnknownModeError."""
    normalized = mode.strip().lower() or DEFAULT_MODE
    if normalized not in MODES:
        raise UnknownModeError(f"mode is {mode[:40]!r}; it must be one of {', '.join(MODES)}")
    return normalized


def hash_to_unit_interval(experiment: str, subject: str) -> float:
    """Return a subject's number in [0, 1), the same in every process."""
    digest = sha256(f"{experiment}\0{subject}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
