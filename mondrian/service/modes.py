"""Who answers: what a client asked for, what the service is set to, and the draw of an A/B test."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from mondrian.errors import MondrianError

OWN = "baseline"  # today's clients send it unless they mean something else: as the service is set
_ADAPTER = {"lora", "fine_tuned", "rag+lora", "lora+rag", "rag_lora", "lora_rag"}
MODES = ("baseline", "base", "rag", *sorted(_ADAPTER), "ab_test")
NO_RAG = "there is no retrieval here: answered without"


class UnknownMode(MondrianError):
    """A mode that no client of today sends."""


@dataclass(frozen=True)
class Plan:
    """How a request is to be answered.

    arm     base or fine_tuned
    tested  whether an A/B test drew it
    reason  why it is not quite what was asked for; empty where it is
    fell_back  the base stands in for an adapter
    """

    requested: str
    arm: str
    tested: bool
    reason: str = ""
    fell_back: bool = False

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
        return Plan(self.requested, "base", self.tested, told, True)


def plan(mode: str, model_mode: str, experiment: str, subject: str, split: float) -> Plan:
    """How to answer a request of this mode, by a service that is set to model_mode.

    Raises UnknownMode.
    """
    asked = mode.strip().lower() or OWN
    if asked not in MODES:
        raise UnknownMode(f"mode is {mode[:40]!r}; it must be one of {', '.join(MODES)}")
    reason = NO_RAG if "rag" in asked else ""
    if asked == "base":
        return Plan(asked, "base", False)
    if asked in _ADAPTER:
        return Plan(asked, "fine_tuned", False, reason)
    if asked == "ab_test" or model_mode == "ab_test":
        drawn = "fine_tuned" if draw(experiment, subject) < split else "base"
        return Plan(asked, drawn, True, reason)
    return Plan(asked, model_mode, False, reason)


def draw(experiment: str, subject: str) -> float:
    """From 0 to just below 1, the same each time: which side of the split a subject is on."""
    digest = sha256(f"{experiment}\0{subject}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
