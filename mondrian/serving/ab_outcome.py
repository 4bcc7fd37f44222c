"""The outcome of the service's own A/B test, without a rollout: ratings by arm, and blind votes.

Only critiques with an arm chosen at random count, in the arm that answered; those that the base
answered because the adapter could not are counted apart. The intervals are those of rollouts, valid
at all times together (mondrian.rollout.confidence_sequences), so a person may look at any time.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite, isnan
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, and_, case, func, inspect, select

from mondrian.rollout.confidence_sequences import (
    MIN_PER_ARM,
    Interval,
    difference_band,
    share_band,
)
from mondrian.rollout.formatting import SHARE_FORMAT, UNKNOWN, format_value, percent, plural
from mondrian.serving.assignment import NO_RAG
from mondrian.storage.history import HISTORY_KINDS
from mondrian.storage.job_reader import read_rows
from mondrian.storage.jobs import COMPLETED_STATUSES
from mondrian.storage.tables import jobs, preferences

TUNED, BASE, EQUAL = "fine_tuned", "base", "equal"
ARM_LABELS = {TUNED: "fine-tuned", BASE: "base"}
_AB_PREFIX = "ab_test_"
_UNKNOWN_DIFFERENCE = Interval(float("nan"), -1.0, 1.0, 0)


@dataclass(frozen=True)
class ArmRatings:
    critiques: int
    ratings: int
    thumbs_up: int

    @property
    def approval(self) -> Interval:
        """The share of thumbs up."""
        return share_interval(self.thumbs_up, self.ratings)


@dataclass
class AbOutcome:
    """Ratings and votes of one advisor in one experiment."""

    experiment: str
    advisor: str
    critiques: Counter[str] = field(default_factory=Counter)  # by arm, rated or not
    ratings: list[tuple[str, bool]] = field(default_factory=list)  # arm and thumbs up, oldest first
    fallbacks: int = 0  # critiques left out: the base answered for the adapter
    votes: Counter[str] = field(default_factory=Counter)  # by preferred arm, or EQUAL

    @property
    def arms(self) -> dict[str, ArmRatings]:
        counts = Counter(self.ratings)
        return {
            arm: ArmRatings(
                self.critiques[arm], counts[arm, True] + counts[arm, False], counts[arm, True]
            )
            for arm in ARM_LABELS
        }

    @property
    def difference(self) -> Interval:
        """The share of thumbs up of fine-tuned minus base.

        The share of clients in each arm is taken from the critiques; unlike that of a rollout, it
        is not stored with them.
        """
        if min(arm.ratings for arm in self.arms.values()) < MIN_PER_ARM:
            return _UNKNOWN_DIFFERENCE
        is_tuned = np.array([arm == TUNED for arm, _ in self.ratings])
        values = np.array([float(up) for _, up in self.ratings])
        share = np.full(len(values), self.critiques[TUNED] / self.critiques.total())
        interval = difference_band(values, is_tuned, share, span=1.0).last
        tuned, base = (self.arms[arm].approval.mean for arm in (TUNED, BASE))
        low, high = max(-1.0, interval.low), min(1.0, interval.high)
        return replace(interval, mean=tuned - base, low=low, high=high)

    @property
    def preference(self) -> Interval:
        """The share of votes for fine-tuned, among those for one of the two."""
        return share_interval(self.votes[TUNED], self.votes[TUNED] + self.votes[BASE])

    @property
    def conclusion(self) -> str:
        """The ratings in a sentence."""
        tuned, base = self.arms[TUNED], self.arms[BASE]
        if isnan(self.difference.mean):
            counts = f"fine-tuned has {tuned.ratings}, base {base.ratings}"
            return f"Too few ratings to compare: each arm needs {MIN_PER_ARM}; {counts}."
        shares = f"{percent(tuned.approval.mean)} thumbs up against {percent(base.approval.mean)}"
        if self.difference.low > 0:
            return f"The fine-tuned adapter is rated better than the base: {shares}."
        if self.difference.high < 0:
            return f"The fine-tuned adapter is rated worse than the base: {shares}."
        return f"No certain difference yet: fine-tuned has {shares} for the base."

    @property
    def vote_conclusion(self) -> str:
        """The votes in a sentence; empty if there are none."""
        if not self.votes.total():
            return ""
        counts = f"{self.votes[TUNED]} for fine-tuned, {self.votes[BASE]} for the base"
        result = "no certain preference yet"
        if self.preference.low > 0.5:
            result = "fine-tuned is preferred"
        elif self.preference.high < 0.5:
            result = "the base is preferred"
        votes = plural(self.votes.total(), "blind vote")
        return f"{votes} side by side: {counts}, {self.votes[EQUAL]} about equal; {result}."


def share_interval(successes: int, count: int) -> Interval:
    """Return a share and its interval; the mean is NaN if count is 0."""
    if not count:
        return Interval(float("nan"), 0.0, 1.0, 0)
    return share_band(np.arange(count) < successes).last


def format_share(interval: Interval, signed: bool = False) -> str:
    if isnan(interval.mean):
        return UNKNOWN
    return format_value(interval.mean, SHARE_FORMAT, signed)


def format_percentages(interval: Interval, signed: bool = False) -> str:
    """Format the ends of the interval of a share."""
    if isnan(interval.mean) or not isfinite(interval.low):
        return UNKNOWN
    low, high = (format_value(x, SHARE_FORMAT, signed) for x in (interval.low, interval.high))
    return f"{low.removesuffix(' %')} to {high}"


def load_ab_outcomes(engine: Engine, advisor: str = "") -> list[AbOutcome]:
    """Return the outcome of each experiment and advisor that has critiques or votes, by name."""
    outcomes: dict[tuple[str, str], AbOutcome] = {}

    def outcome(row: Mapping[Any, Any]) -> AbOutcome:
        key = (row["experiment"] or "", row["advisor"] or "")
        return outcomes.setdefault(key, AbOutcome(*key))

    with engine.execution_options(reads=True).begin() as connection:
        for group in connection.execute(_critique_counts()).mappings():
            if group["is_fallback"]:
                outcome(group).fallbacks += group["critiques"]
            else:
                arm = group["model_used"].removeprefix(_AB_PREFIX)
                outcome(group).critiques[arm] += group["critiques"]
        for row in read_rows(connection.execute(_ratings())):
            if row["thumbs"] and not row["is_fallback"]:
                rating = (row["model_used"].removeprefix(_AB_PREFIX), row["thumbs"] > 0)
                outcome(row).ratings.append(rating)
        for vote, preferred in _load_votes(connection):
            outcome(vote).votes[preferred] += 1
    return [outcomes[key] for key in sorted(outcomes) if advisor in ("", key[1])]


_is_fallback = case(
    (
        and_(
            jobs.c.model_used == f"{_AB_PREFIX}{BASE}",
            jobs.c.fallback_reason.is_not(None),
            jobs.c.fallback_reason != NO_RAG,
        ),
        1,
    ),
    else_=0,
).label("is_fallback")
_groups = (jobs.c.experiment, jobs.c.advisor, jobs.c.model_used)
_is_counted = and_(
    jobs.c.kind.in_(HISTORY_KINDS),
    jobs.c.status.in_(COMPLETED_STATUSES),
    jobs.c.rollout.is_(None),
    jobs.c.model_used.in_([f"{_AB_PREFIX}{arm}" for arm in ARM_LABELS]),
)


def _critique_counts() -> Any:
    query = select(*_groups, _is_fallback, func.count().label("critiques")).where(_is_counted)
    return query.group_by(*_groups, "is_fallback")


def _ratings() -> Any:
    query = select(jobs.c.id, *_groups, _is_fallback, jobs.c.thumbs).where(
        _is_counted, jobs.c.thumbs != 0
    )
    return query.order_by(func.coalesce(jobs.c.queued_at, 0), jobs.c.id)


def _load_votes(connection: Connection) -> Iterator[tuple[Mapping[Any, Any], str]]:
    """Yield the newest vote of each advisor on each pair, with the preferred arm or EQUAL."""
    if not inspect(connection).has_table(preferences.name):
        return
    left, right = jobs.alias(), jobs.alias()
    models = left.c.model_used.label("left_model"), right.c.model_used.label("right_model")
    query = (
        select(preferences, left.c.experiment, *models)
        .join(left, left.c.id == preferences.c.left_job)
        .join(right, right.c.id == preferences.c.right_job)
        .where(left.c.rollout.is_(None), right.c.rollout.is_(None))
        .order_by(preferences.c.number)
    )
    rows = connection.execute(query).all()
    for row in {(row.advisor, row.left_job, row.right_job): row for row in rows}.values():
        arms = [(m or "").removeprefix(_AB_PREFIX) for m in (row.left_model, row.right_model)]
        preferred = {"left": arms[0], "right": arms[1], "equal": EQUAL}.get(row.choice or "")
        if preferred and set(arms) == set(ARM_LABELS):  # else the base answered for the adapter
            yield row._mapping, preferred
