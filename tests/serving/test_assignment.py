"""Which arm answers: by the client's mode, the service's mode, and the A/B assignment."""

import os
import subprocess
import sys
from dataclasses import replace
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.serving.assignment import (
    MODES,
    AnswerPlan,
    ArmAssigner,
    RolloutSnapshot,
    UnknownModeError,
    hash_to_unit_interval,
)
from tests.conftest import ROOT
from tests.waiting import PATIENCE

SUBJECTS = st.text(max_size=40)


def plan(mode: str, model_mode: str, experiment: str, subject: str, split: float) -> AnswerPlan:
    return ArmAssigner("ansel", model_mode, experiment, split).plan(mode, subject)


@pytest.mark.parametrize(
    ("mode", "model_mode", "model_used"),
    [
        ("baseline", "base", "base"),
        ("baseline", "fine_tuned", "fine_tuned"),
        ("base", "fine_tuned", "base"),
        ("base", "ab_test", "base"),
        ("lora", "base", "fine_tuned"),
        ("LORA ", "ab_test", "fine_tuned"),
        ("fine_tuned", "base", "fine_tuned"),
        ("rag", "base", "base"),
        ("rag+lora", "base", "fine_tuned"),
        ("lora_rag", "base", "fine_tuned"),
        ("ab_test", "base", "ab_test_fine_tuned"),
        ("baseline", "ab_test", "ab_test_fine_tuned"),
        ("rag", "ab_test", "ab_test_fine_tuned"),
    ],
)
def test_every_mode_of_today_s_clients_has_its_arm(
    mode: str, model_mode: str, model_used: str
) -> None:
    assert plan(mode, model_mode, "1", "client", split=1.0).model_used == model_used


@pytest.mark.parametrize("mode", [mode for mode in MODES if "rag" in mode])
def test_a_mode_with_retrieval_says_that_there_is_none(mode: str) -> None:
    assert "no retrieval" in plan(mode, "base", "1", "x", 0.5).reason


@given(st.text(max_size=20))
def test_an_unknown_mode_is_rejected_with_the_known_ones(mode: str) -> None:
    if mode.strip().lower() in ("", *MODES):
        return
    with pytest.raises(UnknownModeError, match="must be one of baseline, base"):
        plan(mode, "base", "1", "x", 0.5)


@given(SUBJECTS, SUBJECTS)
def test_a_client_keeps_its_arm(experiment: str, subject: str) -> None:
    number = hash_to_unit_interval(experiment, subject)
    assert 0 <= number < 1
    assert number == hash_to_unit_interval(experiment, subject)
    assert plan("ab_test", "base", experiment, subject, 0.0).arm == "base"
    assert plan("ab_test", "base", experiment, subject, 1.0).arm == "fine_tuned"


@given(SUBJECTS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_takes_no_client_from_the_adapter(subject: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    arms = [plan("ab_test", "base", "1", subject, split).arm for split in (low, high)]
    assert arms != ["fine_tuned", "base"]


def test_the_share_is_met_and_another_experiment_is_independent() -> None:
    subjects = [f"client-{i}" for i in range(4000)]
    sides = [
        [hash_to_unit_interval(name, subject) < 0.3 for subject in subjects] for name in ("1", "2")
    ]
    for side in sides:
        assert abs(sum(side) / 4000 - 0.3) < 0.03
    both = sum(a and b for a, b in zip(*sides, strict=True)) / 4000
    assert abs(both - 0.09) < 0.02


def test_a_fallback_to_the_base_keeps_all_reasons() -> None:
    requested = plan("rag+lora", "base", "1", "x", 0.5)
    fallback = requested.replace_adapter("", "no adapter of ansel serves")
    assert (fallback.arm, fallback.model_used, fallback.mode_used) == ("base", "base", "baseline")
    assert fallback.fell_back
    assert "no retrieval" in fallback.reason
    assert "no adapter of ansel" in fallback.reason
    ab_test = AnswerPlan("ab_test", "fine_tuned", True)
    assert ab_test.replace_adapter("", "x").model_used == "ab_test_base"


SNAPSHOT = RolloutSnapshot("ansel/v2", "v2", step=1, share=0.25, control="ansel~control")


def plan_rollout(snapshot: RolloutSnapshot, subject: str, mode: str = "ab_test") -> AnswerPlan:
    return ArmAssigner("ansel", "ab_test", "1", 0.5, snapshot).plan(mode, subject)


@given(SUBJECTS, st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_larger_share_of_a_rollout_takes_no_client_from_the_candidate(
    subject: str, a: float, b: float
) -> None:
    low, high = (plan_rollout(replace(SNAPSHOT, share=share), subject) for share in sorted((a, b)))
    assert low.rollout_assignment
    assert high.rollout_assignment
    assert (low.rollout_assignment.side, high.rollout_assignment.side) != ("candidate", "control")
    assert low.adapter == (
        "ansel" if low.rollout_assignment.side == "candidate" else "ansel~control"
    )


def test_the_shares_of_a_rollout_are_met_over_100_000_clients() -> None:
    for share in (0.05, 0.25, 0.5):
        snapshot = replace(SNAPSHOT, share=share)
        n_candidate = sum(
            plan_rollout(snapshot, f"client-{i}").adapter == "ansel" for i in range(100_000)
        )
        error = 4 * sqrt(share * (1 - share) / 100_000)
        assert abs(n_candidate / 100_000 - share) < error
    sides = [
        plan_rollout(replace(SNAPSHOT, rollout=id), f"client-{i}").adapter == "ansel"
        for i in range(4000)
        for id in ("ansel/v2", "ansel/v3")
    ]
    both = sum(a and b for a, b in zip(sides[::2], sides[1::2], strict=True)) / 4000
    assert abs(both - 0.0625) < 0.02  # the assignments of two versions are independent


def test_another_process_assigns_the_same_arms() -> None:
    script = (
        "from tests.serving.test_assignment import SNAPSHOT, plan_rollout; "
        "print([plan_rollout(SNAPSHOT, str(i)).adapter for i in range(50)])"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=env,
        timeout=PATIENCE,
        check=True,
    )
    assert run.stdout.strip() == str([plan_rollout(SNAPSHOT, str(i)).adapter for i in range(50)])


def test_an_adapter_that_was_rolled_back_answers_no_client() -> None:
    withdrawn = replace(SNAPSHOT, share=0.0, withdrawal_reason="compliance is surely below 0.95")
    for mode in ("ab_test", "baseline"):
        assert plan_rollout(withdrawn, "x", mode) == AnswerPlan(mode, "ansel~control", False)
    control = plan_rollout(withdrawn, "x", "lora")
    assert (control.adapter, control.fell_back) == ("ansel~control", False)
    assert "compliance" in control.reason
    fallback = plan_rollout(replace(withdrawn, control=""), "x", "lora")
    assert (fallback.arm, fallback.fell_back) == ("base", True)
    assert plan_rollout(replace(withdrawn, control=""), "x").model_used == "base"


def test_a_client_that_requests_an_arm_is_in_no_rollout() -> None:
    assert plan_rollout(SNAPSHOT, "x", "lora") == AnswerPlan("lora", "ansel", False)
    assert plan_rollout(SNAPSHOT, "x", "base") == AnswerPlan("base", "", False)
