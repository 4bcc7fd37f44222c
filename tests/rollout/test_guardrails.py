"""Guardrails count clients, compare with the control, and notice a late change."""

from collections.abc import Iterator

import numpy as np
import pytest

from mondrian.rollout.assessment import assess
from mondrian.rollout.config import RolloutConfig, load_rollout_config
from mondrian.rollout.decision import decide
from mondrian.rollout.guardrails import MIN_JOBS, GuardrailResult, check_guardrails
from mondrian.rollout.observations import Observation
from tests.conftest import ROOT
from tests.rollout.observed_jobs import FAILED, RECORD, observe

TRIALS = 100


@pytest.fixture(scope="module")
def config() -> RolloutConfig:
    return load_rollout_config(ROOT / "rollout.yaml")


def failures(observations: list[Observation], config: RolloutConfig) -> GuardrailResult:
    results = check_guardrails(observations, config.guardrails, 0)
    return next(result for result in results if result.name == "failures")


def simulate(
    rng: np.random.Generator, count: int, share: float, failing: tuple[float, float], first: int = 0
) -> Iterator[Observation]:
    """Yield jobs of different clients; `failing` are the shares of candidate and control."""
    for i in range(first, first + count):
        is_candidate = rng.random() < share
        has_failed = rng.random() < failing[not is_candidate]
        fault = {"outcome": "failed", **FAILED} if has_failed else {}
        yield observe(i, is_candidate, share=share, **fault)


def jobs_until_rollback(
    observations: list[Observation], config: RolloutConfig, checked_from: int = 0
) -> int | None:
    """Return the candidate's jobs, from an observation on, until a check rolls back."""
    for end in range(checked_from + 1, len(observations) + 1):
        newest = observations[end - 1]
        if newest.is_candidate and failures(observations[:end], config).verdict == "violated":
            return sum(obs.is_candidate for obs in observations[checked_from:end])
    return None


def test_many_failures_of_one_client_are_one_observation(config: RolloutConfig) -> None:
    fault = {"outcome": "failed", "client": "one", **FAILED}
    one_client = [observe(i, True, **fault) for i in range(60)]
    others = [observe(i, True) for i in range(60, 120)]
    result = failures(others + one_client, config)
    assert result.estimate.count == 61
    assert result.estimate.mean == pytest.approx(1 / 61)
    assert result.verdict == "holds"


def test_two_clients_whose_every_job_fails_are_enough(config: RolloutConfig) -> None:
    """A service at home has few clients."""
    jobs = [
        observe(i, True, outcome="failed", client=f"client-{i % 2}", **FAILED)
        for i in range(MIN_JOBS)
    ]
    assert failures(jobs, config).verdict == "violated"
    assert failures(jobs[:-1], config).verdict == "uncertain"


def test_an_outage_of_both_arms_holds_and_says_so(config: RolloutConfig) -> None:
    jobs = [observe(i, i % 2 == 0, outcome="failed" if i % 3 else "completed") for i in range(120)]
    assert failures(jobs, config).verdict == "not surely worse"
    verdict = decide(assess(jobs, config, 0), RECORD, config, 0.0)
    assert verdict.action == ""
    assert "limit at most 5 %, control 67 % of 60 clients" in verdict.reason
    assert "beyond the limit, but not surely worse than the control" in verdict.reason


def test_jobs_of_earlier_steps_do_not_count(config: RolloutConfig) -> None:
    jobs = [observe(i, True, outcome="failed", step=0, **FAILED) for i in range(30)]
    later = [observe(i, True, step=1) for i in range(30, 60)]
    results = check_guardrails(jobs + later, config.guardrails, 1)
    assert {result.verdict for result in results if result.estimate.count} == {"holds"}


def test_the_reason_names_the_newest_critiques(config: RolloutConfig) -> None:
    good = [observe(i, True) for i in range(2000)]
    bad = [observe(i, True, outcome="failed", **FAILED) for i in range(2000, 2020)]
    result = failures(good + bad, config)
    assert result.verdict == "violated"
    assert result.newest_jobs == MIN_JOBS
    reason = decide(assess(good + bad, config, 0), RECORD, config, 0.0).reason
    assert "100 % of 10 clients" in reason
    assert "in the newest 10 critiques" in reason


@pytest.mark.slow
@pytest.mark.parametrize(("share", "in_nearly_all"), [(0.05, 35), (0.5, 60)])
def test_failures_of_40_percent_are_found_within_35_jobs(
    config: RolloutConfig, share: float, in_nearly_all: int
) -> None:
    """At an even share the control has no more jobs than the candidate, so its share is wider."""
    jobs_needed = []
    for trial in range(TRIALS // 2):
        rng = np.random.default_rng(trial)
        jobs = list(simulate(rng, int(80 / share), share, (0.4, 0.01)))
        jobs_needed.append(jobs_until_rollback(jobs, config) or 999)
    assert np.median(jobs_needed) <= 35
    assert np.quantile(jobs_needed, 0.95) <= in_nearly_all


@pytest.mark.slow
@pytest.mark.parametrize(("failing", "within"), [(0.4, 35), (0.3, 100)])
def test_a_change_after_10000_good_jobs_is_found_as_soon(
    config: RolloutConfig, failing: float, within: int
) -> None:
    jobs_needed = []
    for trial in range(10):
        rng = np.random.default_rng(trial)
        good = list(simulate(rng, 10_000 + trial, 1.0, (0.01, 0.01)))
        bad = list(simulate(rng, 120, 1.0, (failing, 0.01), first=len(good)))
        jobs_needed.append(jobs_until_rollback(good + bad, config, len(good)) or 999)
    assert np.median(jobs_needed) <= within
    assert max(jobs_needed) <= 100


@pytest.mark.slow
def test_clients_with_many_jobs_within_the_limit_are_not_rolled_back(
    config: RolloutConfig,
) -> None:
    """Each of 60 clients makes ten jobs; three percent fail on average, by client 0 or 60 %."""
    false_rollbacks = 0
    for trial in range(TRIALS):
        rng = np.random.default_rng(100 + trial)
        failing = np.where(rng.random(60) < 0.05, 0.6, 0.0)
        jobs = []
        for i in range(600):
            client = int(rng.integers(60))
            fault = {"outcome": "failed", **FAILED} if rng.random() < failing[client] else {}
            jobs.append(observe(i, client % 2 == 0, client=f"client-{client}", **fault))
        checks = (failures(jobs[:end], config).verdict for end in range(50, 601, 50))
        false_rollbacks += "violated" in checks
    assert false_rollbacks <= 0.02 * TRIALS


@pytest.mark.slow
def test_an_outage_of_both_arms_rolls_nothing_back(config: RolloutConfig) -> None:
    """In the middle of 400 jobs, half of 80 fail in either arm."""
    false_rollbacks = 0
    for trial in range(TRIALS):
        rng = np.random.default_rng(200 + trial)
        jobs = list(simulate(rng, 160, 0.5, (0.01, 0.01)))
        jobs += simulate(rng, 80, 0.5, (0.5, 0.5), first=160)
        jobs += simulate(rng, 160, 0.5, (0.01, 0.01), first=240)
        checks = (failures(jobs[:end], config).verdict for end in range(160, 401, 10))
        false_rollbacks += "violated" in checks
    assert false_rollbacks <= 0.02 * TRIALS
