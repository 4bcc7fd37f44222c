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

OWN = "baseline"  # today's clients send it unless they mean something else: as the service is set
_ADAPTER = {"lora", "fine_tuned", "rag+lora", "lora+rag", "rag_lora", "lora_rag"}
MODES = ("baseline", "base", "rag", *sorted(_ADAPTER), "ab_test")
NO_RAG = "there is no retrieval here: answered without"


class UnknownMode(MondrianError):
    """A mode that no client of today sends."""


@dataclass(frozen=True)
class Stand:
    """How the roll-out of an advisor's adapter stands.

    rollout    its id
    version    of the adapter that is tried: the candidate
    share      of clients that it answers
    control    name in the engine of the adapter that answers the others; empty for the base
    withdrawn  why the candidate answers nobody; empty where it does
    counted    whether what is dealt is evidence: not where the control cannot serve
    """

    rollout: str
    version: str
    step: int
    share: float
    control: str = ""
    withdrawn: str = ""
    counted: bool = True


@dataclass(frozen=True)
class Place:
    """Where a job stands in a roll-out, as its columns of these names keep it."""

    rollout: str
    side: str
    share: float
    step: int

    @property
    def other(self) -> str:
        """The other side."""
        return CONTROL if self.side == CANDIDATE else CANDIDATE


@dataclass(frozen=True)
class Plan:
    """How a request is to be answered.

    adapter    name in the engine of the adapter that answers; empty for the base
    tested     whether an A/B test drew it
    reason     why it is not quite what was asked for; empty where it is
    fell_back  the base stands in for an adapter
    place      in a roll-out, where one drew it
    """

    requested: str
    adapter: str
    tested: bool
    reason: str = ""
    fell_back: bool = False
    place: Place | None = None

    @property
    def arm(self) -> str:
        """base or fine_tuned."""
        return "fine_tuned" if self.adapter else "base"

    @property
    def model_used(self) -> str:
        """As jobs.model_used says it: base, fine_tuned, ab_test_base or ab_test_fine_tuned."""
        return f"ab_test_{self.arm}" if self.tested else self.arm

    @property
    def mode_used(self) -> str:
        """As clients say it."""
        return "lora" if self.arm == "fine_tuned" else OWN

    @property
    def other(self) -> str:
        """The arm that a shadow takes."""
        return "base" if self.arm == "fine_tuned" else "fine_tuned"

    def fallen_back(self, reason: str) -> Plan:
        """The same answered by the base."""
        told = "; ".join(filter(None, (self.reason, reason)))
        return replace(self, adapter="", reason=told, fell_back=True)


@dataclass(frozen=True)
class Dealer:
    """How a service is set to answer for one advisor.

    split  share of clients that the adapter answers in an A/B test without a roll-out
    stand  of the advisor's roll-out; None where there is none
    """

    advisor: str
    model_mode: str
    experiment: str
    split: float
    stand: Stand | None = None

    def plan(self, mode: str, subject: str) -> Plan:
        """How to answer a client's request of this mode. Raises UnknownMode."""
        asked = checked(mode)
        reason = NO_RAG if "rag" in asked else ""
        if asked == "base":
            return Plan(asked, "", False)
        if asked == "ab_test" or (asked not in _ADAPTER and self.model_mode == "ab_test"):
            return replace(self._drawn(asked, subject), reason=reason)
        if asked in _ADAPTER or self.model_mode == "fine_tuned":
            return self._adapter(Plan(asked, self.advisor, False, reason))
        return Plan(asked, "", False, reason)

    def _adapter(self, plan: Plan) -> Plan:
        """What answers where the adapter is asked for: not one that was rolled back."""
        stand = self.stand
        if stand is None or not stand.withdrawn:
            return plan
        told = f"the adapter answers nobody ({stand.withdrawn}): answered by "
        if stand.control:
            reason = "; ".join(filter(None, (plan.reason, f"{told}the one before")))
            return replace(plan, adapter=stand.control, reason=reason)
        return plan.fallen_back(f"{told}the base")

    def _drawn(self, asked: str, subject: str) -> Plan:
        stand = self.stand
        if stand is None:
            chosen = draw(self.experiment, subject) < self.split
            return Plan(asked, self.advisor if chosen else "", True)
        if stand.withdrawn:
            return Plan(asked, stand.control, False)
        chosen = draw(f"{self.experiment}/{stand.rollout}", subject) < stand.share
        return self.on(CANDIDATE if chosen else CONTROL, asked)

    def on(self, side: str, asked: str) -> Plan:
        """The plan of one side of the roll-out."""
        stand = self.stand
        assert stand is not None
        place = Place(stand.rollout, side, stand.share, stand.step)
        name = self.advisor if side == CANDIDATE else stand.control
        return Plan(asked, name, True, place=place if stand.counted else None)


def checked(mode: str) -> str:
    """A client's mode as we write it. Raises UnknownMode."""
    asked = mode.strip().lower() or OWN
    if asked not in MODES:
        raise UnknownMode(f"mode is {mode[:40]!r}; it must be one of {', '.join(MODES)}")
    return asked


def draw(experiment: str, subject: str) -> float:
    """From 0 to just below 1, the same each time: which side of the split a subject is on."""
    digest = sha256(f"{experiment}\0{subject}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
