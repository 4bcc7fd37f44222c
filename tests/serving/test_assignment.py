"""Who answers: what clients ask for, what the service is set to, and the draw of an A/B test."""

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
    UnknownMode,
    hash_to_unit_interval,
)
from tests.conftest import ROOT

SUBJECTS = st.text(max_size=40)


def plan(mode: str, setting: str, experiment: str, subject: str, split: float) -> AnswerPlan:
    return ArmAssigner("ansel", setting, experiment, split).plan(mode, subject)


@pytest.mark.parametrize(
    ("mode", "setting", "model_used"),
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
def test_each_mode_of_today_s_clients_finds_its_arm(
    mode: str, setting: str, model_used: str
) -> None:
    assert plan(mode, setting, "1", "somebody", split=1.0).model_used == model_used


@pytest.mark.parametrize("mode", [mode for mode in MODES if "rag" in mode])
def test_a_mode_with_retrieval_says_that_there_is_none(mode: str) -> None:
    assert "no retrieval" in plan(mode, "base", "1", "x", 0.5).reason


@given(st.text(max_size=20))
def test_an_unknown_mode_is_refused_with_those_that_are_known(mode: str) -> None:
    if mode.strip().lower() in ("", *MODES):
        return
    with pytest.raises(UnknownMode, match="must be one of baseline, base"):
        plan(mode, "base", "1", "x", 0.5)


@given(SUBJECTS, SUBJECTS)
def test_a_subject_stays_on_its_side(experiment: str, subject: str) -> None:
    drawn = hash_to_unit_interval(experiment, subject)
    assert 0 <= drawn < 1
    assert drawn == hash_to_unit_interval(experiment, subject)
    assert plan("ab_test", "base", experiment, subject, 0.0).arm == "base"
    assert plan("ab_test", "base", experiment, subject, 1.0).arm == "fine_tuned"


@given(SUBJECTS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_takes_nobody_away(subject: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    arms = [plan("ab_test", "base", "1", subject, split).arm for split in (low, high)]
    assert arms != ["fine_tuned", "base"]


def test_the_share_is_met_and_another_experiment_deals_anew() -> None:
    subjects = [f"client-{i}" for i in range(4000)]
    sides = [
        [hash_to_unit_interval(name, subject) < 0.3 for subject in subjects] for name in ("1", "2")
    ]
    for side in sides:
        assert abs(sum(side) / 4000 - 0.3) < 0.03
    both = sum(a and b for a, b in zip(*sides, strict=True)) / 4000
    assert abs(both - 0.09) < 0.02  # independent of each other


def test_the_base_that_stands_in_is_told_with_its_reason() -> None:
    asked = plan("rag+lora", "base", "1", "x", 0.5)
    answered = asked.fall_back_to_base("no adapter of ansel serves")
    assert (answered.arm, answered.model_used, answered.mode_used) == ("base", "base", "baseline")
    assert answered.fell_back
    assert "no retrieval" in answered.reason
    assert "no adapter of ansel" in answered.reason
    assert (
        AnswerPlan("ab_test", "fine_tuned", True).fall_back_to_base("x").model_used
        == "ab_test_base"
    )


STAND = RolloutSnapshot("ansel/v2", "v2", step=1, share=0.25, control="ansel~control")


def rolled(stand: RolloutSnapshot, subject: str, mode: str = "ab_test") -> AnswerPlan:
    return ArmAssigner("ansel", "ab_test", "1", 0.5, stand).plan(mode, subject)


@given(SUBJECTS, st.floats(0.01, 1), st.floats(0.01, 1))
def test_raising_the_share_of_a_rollout_never_moves_a_candidate_s_client_back(
    subject: str, a: float, b: float
) -> None:
    low, high = (rolled(replace(STAND, share=share), subject) for share in sorted((a, b)))
    assert low.rollout_assignment
    assert high.rollout_assignment
    assert (low.rollout_assignment.side, high.rollout_assignment.side) != ("candidate", "control")
    assert low.adapter == (
        "ansel" if low.rollout_assignment.side == "candidate" else "ansel~control"
    )


def test_the_shares_of_a_rollout_are_met_over_100_000_clients() -> None:
    for share in (0.05, 0.25, 0.5):
        stand = replace(STAND, share=share)
        taken = sum(rolled(stand, f"client-{i}").adapter == "ansel" for i in range(100_000))
        error = 4 * sqrt(share * (1 - share) / 100_000)
        assert abs(taken / 100_000 - share) < error
    sides = [
        rolled(replace(STAND, rollout=id), f"client-{i}").adapter == "ansel"
        for i in range(4000)
        for id in ("ansel/v2", "ansel/v3")
    ]
    both = sum(a and b for a, b in zip(sides[::2], sides[1::2], strict=True)) / 4000
    assert abs(both - 0.0625) < 0.02  # another version deals anew


def test_another_process_deals_the_same_way() -> None:
    told = (
        "from tests.serving.test_assignment import STAND, rolled; "
        "print([rolled(STAND, str(i)).adapter for i in range(50)])"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    run = subprocess.run(
        [sys.executable, "-c", told],
        capture_output=True,
        text=True,
        env=env,
        timeout=60,
        check=True,
    )
    assert run.stdout.strip() == str([rolled(STAND, str(i)).adapter for i in range(50)])


def test_an_adapter_that_was_rolled_back_answers_nobody() -> None:
    gone = replace(STAND, share=0.0, withdrawal_reason="compliance is surely below 0.95")
    for mode in ("ab_test", "baseline"):
        assert rolled(gone, "x", mode) == AnswerPlan(mode, "ansel~control", False)
    asked = rolled(gone, "x", "lora")
    assert (asked.adapter, asked.fell_back) == ("ansel~control", False)
    assert "compliance" in asked.reason
    alone = rolled(replace(gone, control=""), "x", "lora")
    assert (alone.arm, alone.fell_back) == ("base", True)
    assert rolled(replace(gone, control=""), "x").model_used == "base"


def test_who_asks_for_a_side_by_name_is_in_no_rollout() -> None:
    assert rolled(STAND, "x", "lora") == AnswerPlan("lora", "ansel", False)
    assert rolled(STAND, "x", "base") == AnswerPlan("base", "", False)
