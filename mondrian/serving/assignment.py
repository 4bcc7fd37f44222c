"""Who answers: what a client asked for, what the service is set to, and the draw of an A/B test.

A draw depends on the experiment, the version that is tried and the client alone: it is the same in
every process and after every start, and a client that the candidate answers keeps it when its share
rises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256

from mondrian.core.errors import MondrianError
from mondrian.storage.tables import CANDIDATE, CONTROL

DEFAULT_MODE = (
    "baseline"  # today's clients send it unless they mean something else: as the service is set
)
_ADAPTER_MODES = {"lora", "fine_tuned", "rag+lora", "lora+rag", "rag_lora", "lora_rag"}
MODES = ("baseline", "base", "rag", *sorted(_ADAPTER_MODES), "ab_test")
NO_RAG = "there is no retrieval here: answered without"


class UnknownMode(MondrianError):
    """A mode that no client of today sends."""


@dataclass(frozen=True)
class RolloutSnapshot:
    """How the roll-out of an advisor's adapter stands.

    rollout    its id
    version    of the adapter that is tried: the candidate
    share      of clients that it answers
    control    name in the engine of the adapter that answers the others; empty for the base
    withdrawal_reason  why the candidate answers nobody; empty where it does
    is_evidence    whether what is dealt is evidence: not where the control cannot serve
    """

    rollout: str
    version: str
    step: int
    share: float
    control: str = ""
    withdrawal_reason: str = ""
    is_evidence: bool = True


@dataclass(frozen=True)
class RolloutAssignment:
    """Where a job stands in a roll-out, as its columns of these names keep it."""

    rollout: str
    side: str
    share: float
    step: int

    @property
    def opposite_side(self) -> str:
        """The other side."""
        return CONTROL if self.side == CANDIDATE else CANDIDATE


@dataclass(frozen=True)
class AnswerPlan:
    """How a request is to be answered.

    adapter    name in the engine of the adapter that answers; empty for the base
    is_ab_test     whether an A/B test drew it
    reason     why it is not quite what was asked for; empty where it is
    fell_back  the base stands in for an adapter
    rollout_assignment      in a roll-out, where one drew it
    """

    requested: str
    adapter: str
    is_ab_test: bool
    reason: str = ""
    fell_back: bool = False
    rollout_assignment: RolloutAssignment | None = None

    @property
    def arm(self) -> str:
        """base or fine_tuned."""
        return "fine_tuned" if self.adapter else "base"

    @property
    def model_used(self) -> str:
        """As jobs.model_used says it: base, fine_tuned, ab_test_base or ab_test_fine_tuned."""
        return f"ab_test_{self.arm}" if self.is_ab_test else self.arm

    @property
    def mode_used(self) -> str:
        """As clients say it."""
        return "lora" if self.arm == "fine_tuned" else DEFAULT_MODE

    @property
    def shadow_arm(self) -> str:
        """The arm that a shadow takes."""
        return "base" if self.arm == "fine_tuned" else "fine_tuned"

    def fall_back_to_base(self, reason: str) -> AnswerPlan:
        """The same answered by the base."""
        reasons = "; ".join(filter(None, (self.reason, reason)))
        return replace(self, adapter="", reason=reasons, fell_back=True)


@dataclass(frozen=True)
class ArmAssigner:
    """How a service is set to answer for one advisor.

    split  share of clients that the adapter answers in an A/B test without a roll-out
    snapshot  of the advisor's roll-out; None where there is none
    """

    advisor: str
    model_mode: str
    experiment: str
    split: float
    snapshot: RolloutSnapshot | None = None

    def plan(self, mode: str, subject: str) -> AnswerPlan:
        """How to answer a client's request of this mode. Raises UnknownMode."""
        requested_mode = normalize_mode(mode)
        reason = NO_RAG if "rag" in requested_mode else ""
        if requested_mode == "base":
            return AnswerPlan(requested_mode, "", False)
        if requested_mode == "ab_test" or (
            requested_mode not in _ADAPTER_MODES and self.model_mode == "ab_test"
        ):
            return replace(self._assign_arm(requested_mode, subject), reason=reason)
        if requested_mode in _ADAPTER_MODES or self.model_mode == "fine_tuned":
            return self._replace_withdrawn_adapter(
                AnswerPlan(requested_mode, self.advisor, False, reason)
            )
        return AnswerPlan(requested_mode, "", False, reason)

    def _replace_withdrawn_adapter(self, plan: AnswerPlan) -> AnswerPlan:
        """What answers where the adapter is asked for: not one that was rolled back."""
        stand = self.snapshot
        if stand is None or not stand.withdrawal_reason:
            return plan
        message = f"the adapter answers nobody ({stand.withdrawal_reason}): answered by "
        if stand.control:
            reason = "; ".join(filter(None, (plan.reason, f"{message}the one before")))
            return replace(plan, adapter=stand.control, reason=reason)
        return plan.fall_back_to_base(f"{message}the base")

    def _assign_arm(self, requested_mode: str, subject: str) -> AnswerPlan:
        stand = self.snapshot
        if stand is None:
            chosen = hash_to_unit_interval(self.experiment, subject) < self.split
            return AnswerPlan(requested_mode, self.advisor if chosen else "", True)
        if stand.withdrawal_reason:
            return AnswerPlan(requested_mode, stand.control, False)
        chosen = hash_to_unit_interval(f"{self.experiment}/{stand.rollout}", subject) < stand.share
        return self.plan_side(CANDIDATE if chosen else CONTROL, requested_mode)

    def plan_side(self, side: str, requested_mode: str) -> AnswerPlan:
        """The plan of one side of the roll-out."""
        stand = self.snapshot
        assert stand is not None
        place = RolloutAssignment(stand.rollout, side, stand.share, stand.step)
        name = self.advisor if side == CANDIDATE else stand.control
        return AnswerPlan(
            requested_mode, name, True, rollout_assignment=place if stand.is_evidence else None
        )


def normalize_mode(mode: str) -> str:
    """A client's mode as we write it. Raises UnknownMode."""
    requested_mode = mode.strip().lower() or DEFAULT_MODE
    if requested_mode not in MODES:
        raise UnknownMode(f"mode is {mode[:40]!r}; it must be one of {', '.join(MODES)}")
    return requested_mode


def hash_to_unit_interval(experiment: str, subject: str) -> float:
    """From 0 to just below 1, the same each time: which side of the split a subject is on."""
    digest = sha256(f"{experiment}\0{subject}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
