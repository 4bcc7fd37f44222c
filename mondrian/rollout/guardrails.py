"""Guardrails: shares of a candidate's clients against limits, and against the control's.

One client is one observation, with the mean of its jobs: many jobs of one client do not count as
many clients. A candidate violates a guardrail if its share is surely beyond the limit and surely
worse than the control's over the same time, so that an outage of both arms rolls nothing back.

A share over the whole step would be slow to notice a change after thousands of good jobs, so it is
also estimated from every RESTART_JOBS-th of the NEWEST_JOBS newest jobs of the candidate on. The
number of jobs until such restarted sequences raise a false alarm is on average at least
RESTART_JOBS / (1 - RESTART_LEVEL) (Shin, Ramdas & Rinaldo 2022, E-detectors, arXiv:2203.03532).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mondrian.core.fields import FloatArray
from mondrian.rollout.confidence_sequences import CONFIDENCE_LEVEL, Interval, share_interval
from mondrian.rollout.config import GuardrailLimits
from mondrian.rollout.metrics import METRICS, Metric, observation_time, slow_critiques_metric
from mondrian.rollout.observations import Observation

MIN_JOBS = 10  # of the candidate; with fewer, a guardrail holds it but does not roll it back
RESTART_JOBS, NEWEST_JOBS = 10, 500
RESTART_LEVEL = 1 - 1e-4
_MAX_SLOW_SHARE = 0.05  # share of critiques beyond a p95
_WHOLE_STEP = 0  # index of the sequence that never restarted
GuardrailVerdict = Literal["no data", "holds", "uncertain", "not surely worse", "violated"]


@dataclass(frozen=True)
class GuardrailResult:
    """A guardrail: shares of the candidate's and the control's clients against a limit.

    newest_jobs  of the candidate, if the estimates are from these only; None: from the whole step
    verdict      violated: surely beyond the limit and surely worse than the control; not surely
                 worse: surely beyond the limit, but not surely worse than the control; uncertain:
                 the share is beyond the limit, but not its whole interval
    """

    name: str
    description: str
    estimate: Interval
    control: Interval
    limit: float
    is_minimum: bool
    newest_jobs: int | None
    verdict: GuardrailVerdict


def check_guardrails(
    observations: Sequence[Observation], limits: GuardrailLimits, step: int
) -> tuple[GuardrailResult, ...]:
    """Check each guardrail on the jobs of a step, without shadows."""
    rules = [
        (METRICS["compliance"], limits.compliance, True),
        (METRICS["failures"], limits.failures, False),
        (METRICS["fallbacks"], limits.fallbacks, False),
        (slow_critiques_metric(limits.latency_p95_seconds), _MAX_SLOW_SHARE, False),
        (METRICS["thumbs_down"], limits.thumbs_down, False),
    ]
    jobs = [obs for obs in observations if obs.step == step and not obs.is_shadow]
    return tuple(_check_guardrail(jobs, *rule) for rule in rules)


def _check_guardrail(
    jobs: Sequence[Observation], metric: Metric, limit: float, is_minimum: bool
) -> GuardrailResult:
    candidate, control = (_ArmJobs(jobs, metric, is_candidate) for is_candidate in (True, False))
    starts = candidate.list_starts()
    own, other = candidate.estimate(starts), control.estimate(starts)
    verdicts = [
        _judge(own[i], other[i], candidate.count_since(start), limit, is_minimum)
        for i, start in enumerate(starts)
    ]
    # The whole step comes first; of the newest jobs, the fewest that show it describe it best.
    index = max(range(len(starts)), key=lambda i: (_SEVERITY.get(verdicts[i], 0), not i, i))
    newest_jobs = None if index == _WHOLE_STEP else candidate.count_since(starts[index])
    verdict = verdicts[index] if verdicts[index] in _SEVERITY else verdicts[_WHOLE_STEP]
    estimates = (metric.name, metric.description, own[index], other[index])
    return GuardrailResult(*estimates, limit, is_minimum, newest_jobs, verdict)


# What a restarted sequence can say; the others are about the whole step.
_SEVERITY: dict[GuardrailVerdict, int] = {"not surely worse": 1, "violated": 2}


def _judge(
    candidate: Interval, control: Interval, num_jobs: int, limit: float, is_minimum: bool
) -> GuardrailVerdict:
    if not candidate.count:
        return "no data"
    if is_minimum:
        is_beyond, is_worse = candidate.high < limit, candidate.high < control.low
        is_mean_beyond = candidate.mean < limit
    else:
        is_beyond, is_worse = candidate.low > limit, candidate.low > control.high
        is_mean_beyond = candidate.mean > limit
    if num_jobs >= MIN_JOBS and is_beyond:
        return "violated" if is_worse or not control.count else "not surely worse"
    return "uncertain" if is_mean_beyond else "holds"


class _ArmJobs:
    """The values of a metric in the jobs of one arm, in the order of time."""

    def __init__(self, jobs: Sequence[Observation], metric: Metric, is_candidate: bool) -> None:
        timed = [
            (observation_time(obs, metric), obs.client, float(value))
            for obs in jobs
            if obs.is_candidate == is_candidate and (value := metric.value(obs)) is not None
        ]
        timed.sort(key=lambda item: item[0])
        self.times = np.array([time for time, _, _ in timed], float)
        self.values = np.array([value for _, _, value in timed], float)
        names = np.array([client for _, client, _ in timed], str)
        self.clients: NDArray[np.intp] = np.unique(names, return_inverse=True)[1]

    def list_starts(self) -> list[float]:
        """Return the start of the step, and of each restarted sequence, in seconds since 1970."""
        indices = np.arange(RESTART_JOBS, len(self.times), RESTART_JOBS)
        indices = indices[indices >= len(self.times) - NEWEST_JOBS]
        return [-np.inf, *self.times[indices].tolist()]

    def count_since(self, start: float) -> int:
        return len(self.times) - int(np.searchsorted(self.times, start))

    def estimate(self, starts: Sequence[float]) -> list[Interval]:
        """Return the share among the clients from each start on; the first is of the whole step."""
        total, count = np.array([self._sum_clients(start) for start in starts], float).T
        levels = np.full(len(starts), RESTART_LEVEL)
        levels[_WHOLE_STEP] = CONFIDENCE_LEVEL
        mean, low, high = share_interval(total, np.maximum(count, 1), levels)
        return [
            Interval(float(mean[i]), float(low[i]), float(high[i]), int(count[i]))
            if count[i]
            else Interval(np.nan, -np.inf, np.inf, 0)
            for i in range(len(starts))
        ]

    def _sum_clients(self, start: float) -> tuple[float, int]:
        """Return the sum of the clients' means from a start on, and the number of clients."""
        first = int(np.searchsorted(self.times, start))
        clients, values = self.clients[first:], self.values[first:]
        jobs = np.bincount(clients)
        means: FloatArray = np.bincount(clients, weights=values)[jobs > 0] / jobs[jobs > 0]
        return min(float(means.sum()), len(means)), len(means)
