"""Blind votes of a person between the critiques of base and adapter; no verdict uses them.

votes.jsonl is next to the metrics. No stage writes or removes it. A vote belongs to one adapter:
those on other adapters stay in the file and are not counted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from mondrian.core.files import append_line
from mondrian.core.record_log import read_log

VOTES_FILE = "votes.jsonl"
Choice = Literal["fine_tuned", "base", "equal"]
Side = Literal["left", "right"]


class Vote(BaseModel):
    """A choice on one photo; the latest line of a photo group counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    adapter: str  # version, as `adapter_version` returns it
    photo_group: str
    pair: str  # hash of photo and both critiques
    side: Side  # that the adapter's critique was on
    choice: Choice | None  # None: taken back
    at: str  # UTC


@dataclass(frozen=True)
class Preference:
    """On how many photos which critique was preferred."""

    fine_tuned: int
    base: int
    equal: int

    @classmethod
    def count(cls, choices: list[Choice | None]) -> Self:
        return cls(*(choices.count(name) for name in ("fine_tuned", "base", "equal")))

    @property
    def num_votes(self) -> int:
        return self.fine_tuned + self.base + self.equal

    def estimate_share(self) -> tuple[float, float, float]:
        """Return the adapter's share of the votes that are not equal, with its exact interval."""
        from mondrian.evaluation.statistics import estimate_proportion  # loads scipy

        return estimate_proportion(self.fine_tuned, self.fine_tuned + self.base)

    def describe(self) -> str:
        """Return votes, share and interval on one line."""
        text = f"blind votes: adapter {self.fine_tuned}, base {self.base}, equal {self.equal}"
        if not self.fine_tuned + self.base:
            return text
        share, low, high = self.estimate_share()
        interval = f"95 % interval {low:.0%} to {high:.0%}"
        return f"{text}; the adapter is preferred in {share:.0%} ({interval})"


class VoteLog:
    """The votes of a file, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        explanation = "has no votes of mondrian judge; move it away"
        self.votes = read_log(path, Vote, explanation).records

    def add(self, vote: Vote) -> None:
        """Store a vote; it is on disk when this returns."""
        append_line(self.path, vote.model_dump_json())
        self.votes.append(vote)

    def current(self, adapter: str) -> dict[str, Vote]:
        """Return the votes on an adapter by photo group, without those taken back."""
        latest = {vote.photo_group: vote for vote in self.votes if vote.adapter == adapter}
        return {group: vote for group, vote in latest.items() if vote.choice is not None}


def read_preference(folder: Path, adapter: str) -> Preference | None:
    """Return the votes on an adapter; None if there are none.

    folder   of the advisor's metrics
    adapter  version, as `adapter_version` returns it
    """
    votes = VoteLog(folder / VOTES_FILE).current(adapter).values()
    return Preference.count([vote.choice for vote in votes]) if votes else None
