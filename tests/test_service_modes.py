"""Who answers: what clients ask for, what the service is set to, and the draw of an A/B test."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.service.modes import MODES, Plan, UnknownMode, draw, plan

SUBJECTS = st.text(max_size=40)


@pytest.mark.parametrize(("mode", "setting", "model_used"), [
    ("baseline", "base", "base"), ("baseline", "fine_tuned", "fine_tuned"),
    ("base", "fine_tuned", "base"), ("base", "ab_test", "base"),
    ("lora", "base", "fine_tuned"), ("LORA ", "ab_test", "fine_tuned"),
    ("fine_tuned", "base", "fine_tuned"), ("rag", "base", "base"),
    ("rag+lora", "base", "fine_tuned"), ("lora_rag", "base", "fine_tuned"),
    ("ab_test", "base", "ab_test_fine_tuned"),
    ("baseline", "ab_test", "ab_test_fine_tuned"), ("rag", "ab_test", "ab_test_fine_tuned"),
])  # fmt: skip
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
    drawn = draw(experiment, subject)
    assert 0 <= drawn < 1
    assert drawn == draw(experiment, subject)
    assert plan("ab_test", "base", experiment, subject, 0.0).arm == "base"
    assert plan("ab_test", "base", experiment, subject, 1.0).arm == "fine_tuned"


@given(SUBJECTS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_takes_nobody_away(subject: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    arms = [plan("ab_test", "base", "1", subject, split).arm for split in (low, high)]
    assert arms != ["fine_tuned", "base"]


def test_the_share_is_met_and_another_experiment_deals_anew() -> None:
    subjects = [f"client-{i}" for i in range(4000)]
    sides = [[draw(name, subject) < 0.3 for subject in subjects] for name in ("1", "2")]
    for side in sides:
        assert abs(sum(side) / 4000 - 0.3) < 0.03
    both = sum(a and b for a, b in zip(*sides, strict=True)) / 4000
    assert abs(both - 0.09) < 0.02  # independent of each other


def test_the_base_that_stands_in_is_told_with_its_reason() -> None:
    asked = plan("rag+lora", "base", "1", "x", 0.5)
    answered = asked.fallen_back("no adapter of ansel serves")
    assert (answered.arm, answered.model_used, answered.mode_used) == ("base", "base", "baseline")
    assert answered.fell_back
    assert "no retrieval" in answered.reason
    assert "no adapter of ansel" in answered.reason
    assert Plan("ab_test", "fine_tuned", True).fallen_back("x").model_used == "ab_test_base"
