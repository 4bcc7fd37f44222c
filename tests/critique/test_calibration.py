"""Calibrated scores: between the score and the median, as the advisor writes scores, reversible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mondrian.critique.calibration import Calibration, calibrate_score, find_step
from mondrian.critique.schema import Critique, serialize_critique, validate_critique
from tests.critique.calibrations import make_calibration

SCORES = st.integers(0, 100).map(lambda tenths: tenths / 10)


@given(SCORES, SCORES, st.floats(0, 1), st.sampled_from([1.0, 0.5, 0.1]))
def test_a_score_moves_towards_the_median_to_a_multiple_of_the_step(
    score: float, median: float, weight: float, step: float
) -> None:
    calibrated = calibrate_score(score, median, weight, step)
    assert min(score, median) - step / 2 <= calibrated + 1e-9
    assert calibrated - 1e-9 <= max(score, median) + step / 2
    assert find_step([calibrated]) >= step
    assert round(calibrated, 1) == calibrated


@given(SCORES, SCORES)
def test_weight_1_keeps_a_score_and_weight_0_replaces_it(score: float, median: float) -> None:
    assert calibrate_score(score, median, 1.0, 0.1) == score
    assert calibrate_score(score, median, 0.0, 0.1) == median


def test_the_step_is_that_of_all_scores() -> None:
    assert find_step([7.0, 3.0]) == 1
    assert find_step([7.0, 3.5]) == 0.5
    assert find_step([7.0, 3.5, 6.2]) == 0.1


def test_a_calibrated_critique_is_schema_valid_and_can_be_restored(critique: Critique) -> None:
    scored = critique.with_scores((9.0, 2.0, 6.0, 8.0, 4.0, 10.0, 0.0), 5.6)
    calibrated, record = make_calibration(0.5, Lighting=0).apply(scored)
    assert calibrated.scores() == (8.0, 6.0, 6.0, 7.0, 5.0, 8.0, 3.0)
    assert calibrated.overall_score == 6.1  # their mean
    assert validate_critique(serialize_critique(calibrated)) == calibrated
    assert record.calibration.unjudged == ("Lighting",)
    stored = type(record).model_validate_json(record.model_dump_json())
    assert stored.restore(calibrated) == scored


def test_a_calibration_of_other_dimensions_is_refused() -> None:
    content = make_calibration(1).model_dump()
    del content["weights"]["Lighting"]
    with pytest.raises(ValidationError, match="not of the seven dimensions"):
        Calibration.model_validate(content)


def test_a_step_by_which_a_score_could_be_above_ten_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"step is 0\.6"):
        Calibration.model_validate(make_calibration(1).model_dump() | {"step": 0.6})
