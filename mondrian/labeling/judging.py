"""A blind comparison: which pair is next, on which side the adapter is, and the votes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from threading import RLock
from typing import Literal
from uuid import uuid4

from mondrian.critique.schema import Critique
from mondrian.evaluation.preference import Choice, Preference, Side, Vote, VoteLog
from mondrian.labeling.blind_pairs import CritiquePair, assign_sides

BlindChoice = Literal["left", "right", "equal"]


@dataclass(frozen=True)
class BlindPair:
    """A pair with its sides; the token, which is random, stands for it on the page."""

    pair: CritiquePair
    side: Side  # of the adapter
    token: str = field(default_factory=lambda: uuid4().hex)

    @property
    def critiques(self) -> tuple[Critique, Critique]:
        """Return the left and the right critique."""
        both = self.pair.fine_tuned, self.pair.base
        return both if self.side == "left" else both[::-1]

    def reveal(self, choice: BlindChoice) -> Choice:
        """Return whose critique a choice prefers."""
        if choice == "equal":
            return "equal"
        return "fine_tuned" if choice == self.side else "base"


class JudgingSession:
    """The pairs without a vote, in random order; skipped ones come last.

    adapter  version that wrote the critiques
    """

    def __init__(
        self, pairs: Sequence[CritiquePair], log: VoteLog, adapter: str, random: Random
    ) -> None:
        self.total, self.adapter = len(pairs), adapter
        self._log, self._lock = log, RLock()
        votes = log.current(adapter)
        digests = {group: vote.pair for group, vote in votes.items()}
        voted = [pair for pair in pairs if digests.get(pair.photo_group) == pair.digest]
        rest = [pair for pair in pairs if pair not in voted]
        sides = assign_sides(len(rest), [votes[pair.photo_group].side for pair in voted], random)
        shuffled = random.sample(rest, len(rest))
        self._open = [BlindPair(*item) for item in zip(shuffled, sides, strict=True)]
        self._voted = [BlindPair(pair, votes[pair.photo_group].side) for pair in voted]
        order = {group: i for i, group in enumerate(votes)}
        self._voted.sort(key=lambda blind: order[blind.pair.photo_group])

    @property
    def current(self) -> BlindPair | None:
        """Return the pair to compare; None if all have a vote."""
        return self._open[0] if self._open else None

    @property
    def num_votes(self) -> int:
        return len(self._voted)

    @property
    def can_undo(self) -> bool:
        """Return whether a vote can be taken back: not once the outcome can be seen."""
        return bool(self._voted and self._open)

    def vote(self, token: str, choice: BlindChoice) -> None:
        """Store a vote on the current pair; one on another pair, of an older page, is ignored."""
        with self._lock:
            blind = self.current
            if blind is not None and blind.token == token:
                self._store(blind, blind.reveal(choice))
                self._voted.append(self._open.pop(0))

    def skip(self, token: str) -> None:
        with self._lock:
            if self._open and self._open[0].token == token:
                self._open.append(self._open.pop(0))

    def undo(self) -> None:
        """Take back the last vote; its pair is shown again."""
        with self._lock:
            if self.can_undo:
                self._store(self._voted[-1], None)
                self._open.insert(0, self._voted.pop())

    def preference(self) -> Preference:
        votes = self._log.current(self.adapter)
        return Preference.count([votes[blind.pair.photo_group].choice for blind in self._voted])

    def _store(self, blind: BlindPair, choice: Choice | None) -> None:
        self._log.add(
            Vote(
                adapter=self.adapter,
                photo_group=blind.pair.photo_group,
                pair=blind.pair.digest,
                side=blind.side,
                choice=choice,
                at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )
