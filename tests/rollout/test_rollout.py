"""Verdicts on a rollout, and its state in the database."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mondrian.core.errors import ParamsError
from mondrian.rollout.actions import InvalidTransitionError, apply_action
from mondrian.rollout.assessment import assess
from mondrian.rollout.confidence_sequences import paired_band
from mondrian.rollout.config import RolloutConfig, RolloutStep, load_rollout_config
from mondrian.rollout.decision import RolloutStatus, RolloutVerdict, decide
from mondrian.rollout.metrics import METRICS, paired_values
from mondrian.rollout.observations import Observation, mean_score_change
from mondrian.rollout.store import (
    HELD,
    ROLLED_BACK,
    RUNNING,
    Actor,
    Candidate,
    RolloutRecord,
    RolloutStore,
)
from mondrian.serving.assignment import hash_to_unit_interval
from mondrian.storage.engine import open_engine
from mondrian.storage.tables import migrate
from tests.conftest import ROOT
from tests.rollout.observed_jobs import FAILED, RECORD, observe
from tests.waiting import PATIENCE

HOUR = 3600.0


@pytest.fixture(scope="module")
def config() -> RolloutConfig:
    return load_rollout_config(ROOT / "rollout.yaml")


def assign(
    count: int, share: float, salt: object, make: Callable[[int, bool], Observation]
) -> list[Observation]:
    """Return jobs assigned as the service assigns them."""
    sides = [hash_to_unit_interval(str(salt), f"client-{i}") < share for i in range(count)]
    return [replace(make(i, side), share=share) for i, side in enumerate(sides)]


def get_verdict(
    observations: list[Observation],
    config: RolloutConfig,
    record: RolloutRecord = RECORD,
    now: float = 0.0,
) -> RolloutVerdict:
    return decide(assess(observations, config, record.step), record, config, now)


def test_a_file_of_an_earlier_version_is_told_what_to_write(tmp_path: Path) -> None:
    lines = (ROOT / "rollout.yaml").read_text().splitlines(keepends=True)
    path = tmp_path / "rollout.yaml"
    path.write_text("".join(line for line in lines if "max_hours" not in line))
    with pytest.raises(ParamsError, match="max_hours is missing; write max_hours: 168"):
        load_rollout_config(path)


def test_a_harmful_adapter_is_rolled_back_within_60_jobs(config: RolloutConfig) -> None:
    """With a compliance of 60 %, checked after each of its answers, at any share."""
    jobs_needed = []
    for trial in range(100):
        rng = np.random.default_rng(trial)
        answers: list[Observation] = []
        while len(answers) < 61:
            answers.append(observe(len(answers), True, compliant=bool(rng.random() < 0.6)))
            if get_verdict(answers, config).action == "roll back":
                break
        jobs_needed.append(len(answers))
    assert max(jobs_needed) <= 60
    assert np.median(jobs_needed) <= 20


@pytest.mark.slow
def test_an_adapter_within_its_limits_is_not_rolled_back(config: RolloutConfig) -> None:
    false_rollbacks = 0
    for trial in range(100):
        rng = np.random.default_rng(1000 + trial)

        def make(i: int, is_candidate: bool, rng: np.random.Generator = rng) -> Observation:
            compliant = bool(rng.random() < 0.97)
            thumbs = 1 if rng.random() < 0.8 else -1
            return observe(i, is_candidate, compliant=compliant, thumbs=thumbs)

        observations = assign(300, 0.5, trial, make)
        actions = (get_verdict(observations[:n], config).action for n in range(20, 301, 20))
        false_rollbacks += "roll back" in actions
    assert false_rollbacks <= 5


@pytest.mark.parametrize(
    ("fault", "guardrail"),
    [
        ({"outcome": "failed"} | FAILED, "failures"),
        ({"used_fallback": True}, "fallbacks"),
        ({"latency": 500.0}, "latency"),
        ({"thumbs": -1}, "thumbs_down"),
        ({"compliant": False}, "compliance"),
    ],
)
def test_each_guardrail_rolls_back_a_candidate_that_violates_it(
    config: RolloutConfig, fault: dict[str, object], guardrail: str
) -> None:
    bad = [observe(i, True, **fault) for i in range(40)]
    verdict = get_verdict(bad, config)
    assert (verdict.status, verdict.action) == (RolloutStatus.FAILING, "roll back")
    assert guardrail in verdict.reason
    good = [observe(i, True, thumbs=1) for i in range(30)]
    others = ([*good, observe(31, True, **fault)], [replace(o, is_candidate=False) for o in bad])
    for observations in others:
        assert get_verdict(observations, config).action != "roll back"


def test_a_step_ends_after_its_hours_and_jobs(config: RolloutConfig) -> None:
    observations = assign(400, 0.05, "x", observe)
    counts = np.cumsum([obs.is_candidate for obs in observations])
    enough = observations[: int(np.argmax(counts == 20)) + 1]
    assert get_verdict([], config).status == RolloutStatus.NO_DATA
    held = get_verdict([], config, replace(RECORD, state=HELD, reason="guests"))
    assert held.status == RolloutStatus.HOLDING
    assert held.reason == "held until a person resumes it: guests"
    assert get_verdict(enough[:-1], config, now=25 * HOUR).status == RolloutStatus.HEALTHY
    assert "19 of 20" in get_verdict(enough[:-1], config, now=25 * HOUR).reason
    assert get_verdict(enough, config, now=23 * HOUR).status == RolloutStatus.HEALTHY
    ready = get_verdict(enough, config, now=24 * HOUR)
    assert (ready.status, ready.action) == (RolloutStatus.READY, "advance")
    assert "5 % → 25 %" in ready.reason
    # a clock that was set back
    assert get_verdict(enough, config, now=-9 * HOUR).status == RolloutStatus.HEALTHY


def rate(
    count: int, candidate_up: float, control_up: float, seed: int, step: int = 2
) -> list[Observation]:
    """Return rated jobs; thumbs are up with the given probability of each arm."""
    rng = np.random.default_rng(seed)

    def make(i: int, is_candidate: bool) -> Observation:
        is_up = rng.random() < (candidate_up if is_candidate else control_up)
        return observe(i, is_candidate, step=step, thumbs=1 if is_up else -1)

    return assign(count, 0.5, seed, make)


def test_inconclusive_success_holds_and_a_clear_drop_rolls_back(config: RolloutConfig) -> None:
    third, later = replace(RECORD, step=2), 60 * HOUR
    half_rated = [
        obs if i % 2 else replace(obs, thumbs=None) for i, obs in enumerate(rate(240, 0.8, 0.85, 1))
    ]
    few = get_verdict(half_rated, config, third, later)
    assert few.status == RolloutStatus.HOLDING
    assert "inconclusive: approval is not shown to be non-inferior within 0.15" in few.reason
    many = get_verdict(rate(6000, 0.8, 0.8, 1), config, third, later)
    assert (many.status, many.action) == (RolloutStatus.READY, "advance")
    worse = get_verdict(rate(3000, 0.65, 0.95, 1), config, third, later)
    assert (worse.status, worse.action) == (RolloutStatus.FAILING, "roll back")
    assert "approval is lower by more than 0.15" in worse.reason
    unrated = [replace(obs, thumbs=None) for obs in rate(300, 0.8, 0.8, 1)]
    assert "both arms need ratings" in get_verdict(unrated, config, third, later).reason
    step = RolloutStep(share=0.5, hours=48, jobs=100, requires="better")
    strict = config.model_copy(update={"steps": [*config.steps[:2], step, config.steps[3]]})
    equal, better = rate(6000, 0.8, 0.8, 1), rate(1000, 0.9, 0.6, 1)
    assert get_verdict(equal, strict, third, later).status == RolloutStatus.HOLDING
    assert get_verdict(better, strict, third, later).action == "advance"


def test_the_reason_to_advance_has_the_interval_of_success(config: RolloutConfig) -> None:
    reason = get_verdict(rate(1000, 0.9, 0.6, 1), config, replace(RECORD, step=2), 60 * HOUR).reason
    assert "approval better: +0." in reason
    assert "1000 observations" in reason


def test_guardrails_still_apply_at_the_last_step(config: RolloutConfig) -> None:
    last = replace(RECORD, step=3)
    good = [observe(i, True, share=1.0, step=3) for i in range(200)]
    assert get_verdict(good, config, last, 999 * HOUR).status == RolloutStatus.HEALTHY
    bad = [observe(200 + i, True, share=1.0, step=3, compliant=False) for i in range(60)]
    assert get_verdict(good + bad, config, last, 999 * HOUR).action == "roll back"


def test_a_wrong_assignment_stops_every_decision(config: RolloutConfig) -> None:
    fair = assign(600, 0.5, "a", observe)
    assert get_verdict(fair, config, now=30 * HOUR).status == RolloutStatus.READY
    lost = [obs for i, obs in enumerate(fair) if not (obs.is_candidate and i % 4 == 0)]
    verdict = get_verdict(lost, config, now=30 * HOUR)
    assert (verdict.status, verdict.action) == (RolloutStatus.HOLDING, "hold")
    assert "sample-ratio mismatch" in verdict.reason
    both_arms = [
        replace(obs, id=f"{obs.id}-b", is_candidate=not obs.is_candidate) for obs in fair[:20]
    ]
    assert "answered by both arms" in get_verdict(fair + both_arms, config, now=30 * HOUR).reason
    # at another step the share may have risen
    next_step = [replace(obs, id=f"{obs.id}-b", step=1, is_candidate=True) for obs in fair[:200]]
    assert assess(fair + next_step, config, 1).assignment.double_exposed == 0


def test_clients_that_rate_one_arm_more_often_hold_until_a_person_decides(
    config: RolloutConfig,
) -> None:
    ratings = rate(3000, 0.9, 0.6, 4)
    fewer = [
        replace(obs, thumbs=None) if obs.is_candidate and i % 2 else obs
        for i, obs in enumerate(ratings)
    ]
    third = replace(RECORD, step=2)
    assert get_verdict(ratings, config, third, 60 * HOUR).action == "advance"
    verdict = get_verdict(fewer, config, third, 60 * HOUR)
    assert verdict.status == RolloutStatus.HOLDING
    assert "do not rate equally often" in verdict.reason
    assert "please decide" not in verdict.reason
    later = get_verdict(fewer, config, third, (config.max_hours + 1) * HOUR)
    assert "169 h at this step, please decide: mondrian rollout ansel --advance" in later.reason
    held = get_verdict(fewer, config, replace(third, state=HELD), 1000 * HOUR)
    assert held.reason == "held until a person resumes it"


def test_a_client_with_many_pairs_counts_once(config: RolloutConfig) -> None:
    """Twenty pairs of each of 24 clients are 24 observations."""
    excluded = 0
    for trial in range(100):
        rng = np.random.default_rng(trial)
        observations = []
        for client in range(24):
            liking = rng.normal(0, 1)  # of the client, for the candidate
            for i in range(20):
                index = 20 * client + i
                change = abs(rng.normal(2, 0.3)) + 5
                job = observe(
                    index, True, client=f"client-{client}", accepted=False, score_change=change
                )
                shadow = replace(
                    job,
                    id=f"s{index}",
                    is_shadow=True,
                    pair_of=job.id,
                    is_candidate=False,
                    score_change=change + liking + rng.normal(0, 0.3),
                )
                observations += [job, shadow]
        candidate, control = paired_values(observations, METRICS["correction"])
        assert len(candidate) == 24
        interval = paired_band(candidate, control).last
        excluded += not interval.low <= 0 <= interval.high
    assert excluded <= 5


def test_a_frequent_client_counts_once_and_one_of_both_arms_not_at_all(
    config: RolloutConfig,
) -> None:
    ratings = rate(400, 0.9, 0.6, 3)
    repeated = [replace(ratings[0], id=f"again-{i}", thumbs=-1) for i in range(300)]
    single, frequent = assess(ratings, config, 2), assess(ratings + repeated, config, 2)
    assert frequent.success.difference.count == single.success.difference.count
    assert abs(frequent.success.difference.mean - single.success.difference.mean) < 0.02
    assert frequent.assignment.clients == single.assignment.clients == 400


def test_shadow_jobs_are_compared_in_pairs(config: RolloutConfig) -> None:
    rng = np.random.default_rng(1)
    observations: list[Observation] = []
    for i in range(60):
        is_candidate, change = i % 2 == 0, rng.normal(1.5, 1.0)
        job = observe(
            i, is_candidate, accepted=False, score_change=change + (0 if is_candidate else 0.5)
        )
        shadow = replace(
            job,
            id=f"s{i}",
            is_shadow=True,
            pair_of=job.id,
            is_candidate=not is_candidate,
            score_change=change + (0.5 if is_candidate else 0.0) + rng.normal(0, 0.05),
        )
        observations += [job, shadow]
    criterion = config.success.model_copy(update={"metric": "correction"})
    by_correction = config.model_copy(update={"success": criterion})
    assessment = assess(observations, by_correction, 0)
    success = assessment.success
    assert success.verdict == "better"
    assert success.paired.low > 0 > success.difference.low
    assert assessment.candidate.jobs == 30


def test_a_disconnected_client_is_no_failure(config: RolloutConfig) -> None:
    observations = [observe(i, True, outcome="disconnected", **FAILED) for i in range(50)]
    assessment = assess(observations, config, 0)
    assert assessment.candidate.disconnected == 50
    assert get_verdict(observations, config).action != "roll back"
    failures = next(result for result in assessment.guardrails if result.name == "failures")
    assert failures.verdict == "no data"


def test_the_mean_score_change_of_a_correction() -> None:
    original = '{"dimensions": [{"score": 5}, {"score": 6}]}'
    assert mean_score_change(original, None) == 0
    assert mean_score_change(original, '{"dimensions": [{"score": 7}, {"score": 6}]}') == 1
    assert mean_score_change("no JSON", original) is None


@pytest.fixture
def store(tmp_path: Path) -> RolloutStore:
    engine = open_engine(str(tmp_path / "jobs.db"))
    migrate(engine)
    return RolloutStore(engine)


def begin(store: RolloutStore, version: str, baseline: str = "previous") -> RolloutRecord:
    candidate = Candidate("ansel", version, f"ansel@{version}", f"versions/{version}")
    return store.get_or_start(candidate, baseline)


def test_a_version_starts_one_rollout(store: RolloutStore) -> None:
    first = begin(store, "v1")
    assert begin(store, "v1") == first == store.get("ansel/v1") == store.list_rollouts()[0]
    assert (first.control, first.control_version, first.state) == ("base", "", RUNNING)
    assert [decision.action for decision in store.list_decisions("ansel/v1")] == ["begin"]
    assert store.get("ansel/v9") is None


def test_the_control_is_the_last_version_that_answered_all_clients(
    store: RolloutStore, config: RolloutConfig
) -> None:
    for _ in range(3):
        assert apply_action(store, config, begin(store, "v1"), "advance", Actor("Ana", "good"))
    second = begin(store, "v2")
    assert (second.control, second.control_version) == ("ansel@v1", "v1")
    assert begin(store, "v3").control == "ansel@v1"  # v2 never answered all clients
    assert begin(store, "v4", baseline="base").control == "base"
    full = begin(store, "v1")
    assert full.full_since
    assert apply_action(store, config, full, "rollback", Actor("Ana", "it was a mistake"))
    assert begin(store, "v5").control == "base"


def test_one_of_several_services_makes_a_decision(
    store: RolloutStore, config: RolloutConfig
) -> None:
    record = begin(store, "v1")
    results: list[bool] = []

    def advance() -> None:
        results.append(apply_action(store, config, record, "advance", Actor("service", "ready")))

    threads = [Thread(target=advance) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(results) == [False] * 5 + [True]
    assert begin(store, "v1").step == 1
    actions = [decision.action for decision in store.list_decisions(record.id)]
    assert actions == ["advance", "begin"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("share: 0.25", "share: 0.01", "the shares of the steps must increase"),
        ("automatic: true", "automatik: true", r"did you mean automatic\?"),
        ("compliance: 0.95", "compliance: 95", "guardrails.compliance is 95"),
        ("jobs: 0, requires: guardrails", "jobs: 0, requires: better", "must require guardrails"),
        ("share: 1.00", "share: 0.90", "the share of the last step is 0.9; it must be 1.0"),
    ],
)
def test_rollout_yaml_is_checked_like_params(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = (ROOT / "rollout.yaml").read_text()
    assert old in text
    (tmp_path / "rollout.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ParamsError, match=message):
        load_rollout_config(tmp_path / "rollout.yaml")


class RolloutMachine(RuleBasedStateMachine):
    """Actions in any order keep the state valid and equal to the newest log entry."""

    @initialize()
    def start(self) -> None:
        self.folder = TemporaryDirectory()
        engine = open_engine(f"{self.folder.name}/jobs.db")
        migrate(engine)
        self.store = RolloutStore(engine)
        self.config = load_rollout_config(ROOT / "rollout.yaml")
        self.num_decisions = 1
        begin(self.store, "v1", baseline="base")

    def teardown(self) -> None:
        self.store.engine.dispose()
        self.folder.cleanup()

    @property
    def record(self) -> RolloutRecord:
        record = self.store.get("ansel/v1")
        assert record
        return record

    @rule(action=st.sampled_from(["advance", "hold", "resume", "rollback", "dance"]))
    def apply(self, action: str) -> None:
        before = self.record
        try:
            assert apply_action(self.store, self.config, before, action, Actor("Ana", "why not"))
        except InvalidTransitionError:
            assert self.record == before
            return
        self.num_decisions += 1
        assert not self.apply_outdated(before, action)

    def apply_outdated(self, record: RolloutRecord, action: str) -> bool:
        try:
            return apply_action(self.store, self.config, record, action, Actor("Ben", "too late"))
        except InvalidTransitionError:
            return False

    @invariant()
    def is_consistent(self) -> None:
        record = self.record
        assert record.state in (RUNNING, HELD, ROLLED_BACK)
        assert 0 <= record.step < len(self.config.steps)
        log = self.store.list_decisions(record.id)
        assert len(log) == self.num_decisions
        assert (log[0].state, log[0].step) == (record.state, record.step)
        assert (record.full_since is not None) >= (self.config.steps[record.step].share == 1)


RolloutMachine.TestCase.settings = hypothesis_settings(max_examples=30, stateful_step_count=12)
test_actions_in_any_order_keep_the_state_valid = RolloutMachine.TestCase
