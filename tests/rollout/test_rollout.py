"""Roll-outs: what the numbers lead to, and what the database keeps of it."""

from __future__ import annotations

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
from mondrian.rollout.actions import InvalidTransition, apply_action
from mondrian.rollout.assessment import Assessment, assess
from mondrian.rollout.config import RolloutConfig, RolloutStep, load_rollout
from mondrian.rollout.decision import RolloutStatus, Verdict, decide
from mondrian.rollout.observations import Observation, mean_score_change
from mondrian.rollout.store import BACK, HELD, RUNNING, RolloutRecord, RolloutStore
from mondrian.serving.assignment import hash_to_unit_interval
from mondrian.storage.engine import open_engine
from mondrian.storage.tables import migrate
from tests.conftest import ROOT

HOUR = 3600.0
ENTRY = RolloutRecord(
    "ansel/v2",
    "ansel",
    "v2",
    "ansel@v2.0.0",
    "models",
    "base",
    "",
    "",
    RUNNING,
    "",
    0,
    0,
    0.0,
    0.0,
    0.0,
    None,
)


@pytest.fixture(scope="module")
def plan() -> RolloutConfig:
    return load_rollout(ROOT / "rollout.yaml")


def job(i: int, candidate: bool, **more: object) -> Observation:
    """A job that went well, a minute after the one before."""
    told = Observation(
        id=f"job-{i}",
        shadow=False,
        subject=f"client-{i}",
        pair_of="",
        candidate=candidate,
        share=0.5,
        step=0,
        outcome="completed",
        queued_at=60.0 * i,
        ended=60.0 * i + 5,
        judged=60.0 * i + 30,
        fell_back=False,
        compliant=True,
        seconds=5.0,
        tokens=300,
        thumbs=None,
        accepted=None,
        moved=None,
    )
    return replace(told, **more)  # type: ignore[arg-type]


def dealt(
    count: int, share: float, salt: object, make: Callable[[int, bool], Observation]
) -> list[Observation]:
    """Jobs as the service deals them."""
    sides = [hash_to_unit_interval(str(salt), f"client-{i}") < share for i in range(count)]
    return [replace(make(i, side), share=share) for i, side in enumerate(sides)]


def looked(
    seen: list[Observation], plan: RolloutConfig, entry: RolloutRecord = ENTRY, now: float = 0.0
) -> Verdict:
    return decide(assess(seen, plan, entry.step), entry, plan, now)


def test_a_harmful_adapter_is_rolled_back_within_60_jobs(plan: RolloutConfig) -> None:
    """Of compliance 60 %, looked at after each of its answers, at every step's share."""
    needed = []
    for trial in range(200):
        rng = np.random.default_rng(trial)
        own: list[Observation] = []
        while len(own) < 61:
            own.append(job(len(own), True, compliant=bool(rng.random() < 0.6)))
            if looked(own, plan).action == "roll back":
                break
        needed.append(len(own))
    assert max(needed) <= 60
    assert np.median(needed) <= 20


def test_an_adapter_that_keeps_its_promises_is_not_rolled_back(plan: RolloutConfig) -> None:
    wrong = 0
    for trial in range(100):
        rng = np.random.default_rng(1000 + trial)

        def make(i: int, side: bool, rng: np.random.Generator = rng) -> Observation:
            return job(
                i, side, compliant=bool(rng.random() < 0.97), thumbs=1 if rng.random() < 0.8 else -1
            )

        seen = dealt(300, 0.5, trial, make)
        actions = (looked(seen[:n], plan).action for n in range(20, 301, 20))
        wrong += "roll back" in actions
    assert wrong <= 5


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        ({"outcome": "failed", "compliant": None, "seconds": None}, "failures"),
        ({"fell_back": True}, "fallbacks"),
        ({"seconds": 500.0}, "latency"),
        ({"thumbs": -1}, "thumbs_down"),
        ({"compliant": False}, "compliance"),
    ],
)
def test_each_guardrail_rolls_back_what_surely_breaks_it(
    plan: RolloutConfig, spoil: dict[str, object], named: str
) -> None:
    bad = [job(i, True, **spoil) for i in range(40)]
    told = looked(bad, plan)
    assert (told.status, told.action) == (RolloutStatus.FAILING, "roll back")
    assert named in told.why
    few = [job(i, True, thumbs=1) for i in range(30)] + [job(31, True, **spoil)]
    assert looked(few, plan).action == ""
    assert looked([replace(one, candidate=False) for one in bad], plan).action == ""


def test_a_step_is_left_once_its_time_and_jobs_are_reached(plan: RolloutConfig) -> None:
    seen = dealt(400, 0.05, "x", job)
    enough = seen[: next(i for i in range(400) if sum(s.candidate for s in seen[:i]) == 20)]
    assert looked([], plan).status == RolloutStatus.NO_DATA
    assert looked(enough[:-1], plan, now=25 * HOUR).status == RolloutStatus.HEALTHY
    assert "19 of 20" in looked(enough[:-1], plan, now=25 * HOUR).why
    assert looked(enough, plan, now=23 * HOUR).status == RolloutStatus.HEALTHY
    ready = looked(enough, plan, now=24 * HOUR)
    assert (ready.status, ready.action) == (RolloutStatus.READY, "advance")
    assert "5 % → 25 %" in ready.why
    assert looked(enough, plan, now=-9 * HOUR).status == RolloutStatus.HEALTHY  # a clock set back


def judged(count: int, good: float, bad: float, seed: int, step: int = 2) -> list[Observation]:
    """Every critique rated: up with a chance of `good` by the candidate, `bad` by the control."""
    rng = np.random.default_rng(seed)
    return dealt(
        count,
        0.5,
        seed,
        lambda i, side: job(
            i, side, step=step, thumbs=1 if rng.random() < (good if side else bad) else -1
        ),
    )


def test_success_that_is_inconclusive_holds_and_a_sure_drop_rolls_back(plan: RolloutConfig) -> None:
    third, later = replace(ENTRY, step=2), 60 * HOUR
    half = [
        one if i % 2 else replace(one, thumbs=None)
        for i, one in enumerate(judged(240, 0.8, 0.85, 1))
    ]
    few = looked(half, plan, third, later)
    assert few.status == RolloutStatus.HOLDING
    assert "inconclusive: approval is not surely no lower than by 0.15" in few.why
    many = looked(judged(6000, 0.8, 0.8, 1), plan, third, later)
    assert (many.status, many.action) == (RolloutStatus.READY, "advance")
    worse = looked(judged(3000, 0.65, 0.95, 1), plan, third, later)
    assert (worse.status, worse.action) == (RolloutStatus.FAILING, "roll back")
    assert "approval is surely lower" in worse.why
    unknown = [replace(one, thumbs=None) for one in judged(300, 0.8, 0.8, 1)]
    assert "nobody has judged" in looked(unknown, plan, third, later).why
    half_way = RolloutStep(share=0.5, hours=48, jobs=100, requires="better")
    wants = plan.model_copy(update={"steps": [*plan.steps[:2], half_way, plan.steps[3]]})
    assert looked(judged(6000, 0.8, 0.8, 1), wants, third, later).status == RolloutStatus.HOLDING
    assert looked(judged(1000, 0.9, 0.6, 1), wants, third, later).action == "advance"


def test_the_last_step_goes_on_being_watched(plan: RolloutConfig) -> None:
    last = replace(ENTRY, step=3)
    good = [job(i, True, share=1.0, step=3) for i in range(200)]
    assert looked(good, plan, last, 999 * HOUR).status == RolloutStatus.HEALTHY
    bad = [*good, *(job(200 + i, True, share=1.0, step=3, compliant=False) for i in range(60))]
    assert looked(bad, plan, last, 999 * HOUR).action == "roll back"


def test_a_deal_that_is_not_the_one_meant_stops_a_decision(plan: RolloutConfig) -> None:
    def status(seen: list[Observation]) -> Verdict:
        return looked(seen, plan, now=30 * HOUR)

    fair = dealt(600, 0.5, "a", job)
    assert status(fair).status == RolloutStatus.READY
    lost = [one for i, one in enumerate(fair) if not (one.candidate and i % 4 == 0)]
    told = status(lost)
    assert told.status == RolloutStatus.HOLDING
    assert "sample ratio mismatch" in told.why
    both = fair + [replace(one, id=f"{one.id}-b", candidate=not one.candidate) for one in fair[:20]]
    assert "answered by both arms" in status(both).why
    again = fair + [replace(one, id=f"{one.id}-b", step=1, candidate=True) for one in fair[:200]]
    assert assess(again, plan, 1).double_exposed == 0  # at another step it may have risen


def test_a_client_who_comes_often_counts_once_and_one_of_both_arms_never(
    plan: RolloutConfig,
) -> None:
    one = judged(400, 0.9, 0.6, 3)
    often = one + [replace(one[0], id=f"again-{i}", thumbs=-1) for i in range(300)]
    found, same = assess(often, plan, 2), assess(one, plan, 2)
    assert found.success.difference.count == same.success.difference.count
    assert abs(found.success.difference.mean - same.success.difference.mean) < 0.02
    assert found.clients == same.clients == 400


def test_pairs_of_a_shadow_run_are_compared_as_pairs(plan: RolloutConfig) -> None:
    rng = np.random.default_rng(1)
    seen: list[Observation] = []
    for i in range(60):
        moved_by = rng.normal(1.5, 1.0)
        first = job(i, i % 2 == 0, accepted=False, moved=moved_by + (0 if i % 2 == 0 else 0.5))
        other = 0.5 if i % 2 == 0 else 0.0
        shadow = replace(
            first,
            id=f"s{i}",
            shadow=True,
            pair_of=first.id,
            candidate=i % 2 == 1,
            moved=moved_by + other + rng.normal(0, 0.05),
        )
        seen += [first, shadow]
    asked = plan.model_copy(
        update={"success": plan.success.model_copy(update={"metric": "correction"})}
    )
    success = assess(seen, asked, 0).success
    assert success.verdict == "better"
    assert success.paired.low > 0 > success.difference.low
    assert assess(seen, asked, 0).candidate.jobs == 30


def test_who_goes_away_is_no_failure(plan: RolloutConfig) -> None:
    gone = [job(i, True, outcome="gone", compliant=None, seconds=None) for i in range(50)]
    found: Assessment = assess(gone, plan, 0)
    assert found.candidate.gone == 50
    assert looked(gone, plan).action == ""
    assert next(one for one in found.guards if one.name == "failures").verdict == "no data"


def test_by_how_much_a_person_moved_the_scores() -> None:
    served = '{"dimensions": [{"score": 5}, {"score": 6}]}'
    assert mean_score_change(served, None) == 0
    assert mean_score_change(served, '{"dimensions": [{"score": 7}, {"score": 6}]}') == 1
    assert mean_score_change("no JSON", served) is None


@pytest.fixture
def rollouts(tmp_path: Path) -> RolloutStore:
    engine = open_engine(str(tmp_path / "jobs.db"))
    migrate(engine)
    return RolloutStore(engine)


def begun(rollouts: RolloutStore, version: str, control: str = "previous") -> RolloutRecord:
    return rollouts.begin("ansel", version, f"ansel@{version}", f"versions/{version}", control)


def test_a_version_begins_once_and_is_found_again(rollouts: RolloutStore) -> None:
    first = begun(rollouts, "v1")
    assert begun(rollouts, "v1") == first == rollouts.get("ansel/v1") == rollouts.list_rollouts()[0]
    assert (first.control, first.control_version, first.state) == ("base", "", RUNNING)
    assert [one.action for one in rollouts.list_decisions("ansel/v1")] == ["begin"]
    assert rollouts.get("ansel/v9") is None


def test_the_control_is_the_last_version_that_answered_everybody(
    rollouts: RolloutStore, plan: RolloutConfig
) -> None:
    for _ in range(3):
        one = begun(rollouts, "v1")
        assert apply_action(rollouts, plan, one, "advance", "somebody", "looks good")
    second = begun(rollouts, "v2")
    assert (second.control, second.control_version) == ("ansel@v1", "v1")
    assert begun(rollouts, "v3").control == "ansel@v1"  # v2 never did
    assert begun(rollouts, "v4", control="base").control == "base"
    full = begun(rollouts, "v1")
    assert full.full_since
    assert apply_action(rollouts, plan, full, "rollback", "somebody", "it was a mistake")
    assert begun(rollouts, "v5").control == "base"


def test_of_several_services_with_one_decision_one_makes_it(
    rollouts: RolloutStore, plan: RolloutConfig
) -> None:
    entry, made = begun(rollouts, "v1"), []
    threads = [
        Thread(
            target=lambda: made.append(
                apply_action(rollouts, plan, entry, "advance", "service", "ready")
            )
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(made) == [False] * 5 + [True]
    assert begun(rollouts, "v1").step == 1
    assert [one.action for one in rollouts.list_decisions(entry.id)] == ["advance", "begin"]


def test_rollout_yaml_is_checked_as_params_are(tmp_path: Path) -> None:
    text = (ROOT / "rollout.yaml").read_text()
    for old, new, told in (
        ("share: 0.25", "share: 0.01", "the shares of steps must rise"),
        ("automatic: true", "automatik: true", "did you mean automatic?"),
        ("compliance: 0.95", "compliance: 95", "guardrails.compliance is 95"),
        ("jobs: 0, requires: guardrails", "jobs: 0, requires: better", "asks for guardrails alone"),
    ):
        assert old in text
        (tmp_path / "rollout.yaml").write_text(text.replace(old, new, 1))
        with pytest.raises(ParamsError, match=told.replace("?", r"\?")):
            load_rollout(tmp_path / "rollout.yaml")


class Life(RuleBasedStateMachine):
    """Whatever is done in whatever order: the state is one of three, the log says how it came."""

    @initialize()
    def start(self) -> None:
        self.folder = TemporaryDirectory()
        engine = open_engine(f"{self.folder.name}/jobs.db")
        migrate(engine)
        self.rollouts = RolloutStore(engine)
        self.plan = load_rollout(ROOT / "rollout.yaml")
        self.done = 1
        self.rollouts.begin("ansel", "v1", "ansel@v1", "folder", "base")

    def teardown(self) -> None:
        self.rollouts.engine.dispose()
        self.folder.cleanup()

    @property
    def entry(self) -> RolloutRecord:
        found = self.rollouts.get("ansel/v1")
        assert found
        return found

    @rule(action=st.sampled_from(["advance", "hold", "resume", "rollback", "dance"]))
    def do(self, action: str) -> None:
        before = self.entry
        try:
            assert apply_action(self.rollouts, self.plan, before, action, "somebody", "why")
        except InvalidTransition:
            assert self.entry == before
            return
        self.done += 1
        assert not act_quietly(self.rollouts, self.plan, before, action)  # it is not the newest

    @invariant()
    def is_sound(self) -> None:
        entry = self.entry
        assert entry.state in (RUNNING, HELD, BACK)
        assert 0 <= entry.step < len(self.plan.steps)
        log = self.rollouts.list_decisions(entry.id)
        assert len(log) == self.done
        assert (log[0].state, log[0].step) == (entry.state, entry.step)
        assert (entry.full_since is not None) >= (self.plan.steps[entry.step].share == 1)


def act_quietly(
    rollouts: RolloutStore, plan: RolloutConfig, entry: RolloutRecord, action: str
) -> bool:
    try:
        return apply_action(rollouts, plan, entry, action, "another", "too late")
    except InvalidTransition:
        return False


Life.TestCase.settings = hypothesis_settings(max_examples=30, stateful_step_count=12, deadline=None)
test_life = Life.TestCase
