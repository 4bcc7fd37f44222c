"""Score calibration: fitted on other photos, close to what is right, and shown in the report."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from lxml import html

from mondrian.core.params import Params
from mondrian.critique.schema import DIMENSIONS, Critique
from mondrian.evaluation.calibration import apply_calibration, calibrate_report
from mondrian.evaluation.report import render_report
from mondrian.evaluation.summary import format_metrics_summary
from mondrian.evaluation.timing import compute_timing
from mondrian.evaluation.verdict import build_evaluation
from tests.evaluation.answers import make_report
from tests.evaluation.simulated_scores import MEDIAN, draw_scores, look, to_scores

JUDGED = ("base_constrained", "fine_tuned_constrained")


def make_scores(correlations: list[float], count: int = 40) -> dict[str, Any]:
    """Return a report of scores alone; the adapter has a correlation with each dimension."""
    rng = np.random.default_rng(0)
    truth = draw_scores(rng, count)
    columns = [look(rng, truth, r)[:, i] for i, r in enumerate(correlations)]
    tuned, reference = to_scores(np.stack(columns, axis=1)), to_scores(truth)
    base = to_scores(draw_scores(rng, count))
    photos = [
        {
            "photo_group": str(i),
            "reference_scores": reference[i].tolist(),
            "base_constrained": {"scores": base[i].tolist()},
            "fine_tuned_constrained": {"scores": tuned[i].tolist()},
        }
        for i in range(count)
    ]
    medians = dict.fromkeys(DIMENSIONS, MEDIAN)
    return {"photographs": photos, "train_score_medians": medians, "adapter": {"version": "v"}}


def list_scores(report: dict[str, Any], arm: str, key: str = "scores") -> Any:
    return np.array([photo[f"{arm}_constrained"][key] for photo in report["photographs"]])


def score_error(report: dict[str, Any], key: str) -> float:
    references = np.array([photo["reference_scores"] for photo in report["photographs"]])
    return float(np.abs(list_scores(report, "fine_tuned", key) - references).mean())


def test_weights_follow_what_the_model_can_judge() -> None:
    report = calibrate_report(make_scores([0.9, 0.9, 0.9, 0.9, 0, 0, 0.9], 200), True)
    weights = report["calibration"]["weights"]
    tuned = list(weights["fine_tuned"].values())
    assert max(tuned[4:6]) < 0.15
    assert min(tuned[:4] + tuned[6:]) > 0.7
    assert max(weights["base"].values()) < 0.2
    assert score_error(report, "scores") < 0.9 * score_error(report, "raw_scores")


def test_dimensions_of_few_photos_share_a_weight() -> None:
    report = calibrate_report(make_scores([0.5] * 7, 12), True)
    judged = [w for w in report["calibration"]["weights"]["fine_tuned"].values() if w]
    assert len(judged) >= 4
    assert np.ptp(judged) < 0.25


def test_perfect_scores_stay_and_constant_scores_are_allowed() -> None:
    report = make_scores([1.0] * 7)
    for photo in report["photographs"]:
        photo["base_constrained"]["scores"] = [MEDIAN] * 7
    calibrated = calibrate_report(report, True)
    tuned = list_scores(calibrated, "fine_tuned")
    assert (tuned == list_scores(calibrated, "fine_tuned", "raw_scores")).all()
    assert (list_scores(calibrated, "base") == MEDIAN).all()


def test_no_photo_judges_with_weights_that_it_chose() -> None:
    """Copies of a photo are one group: none of them chooses the weights of another."""
    report = make_scores([0.5] * 7, 12)
    copy = deepcopy(report["photographs"][0])
    report["photographs"].append(copy)
    changed = deepcopy(report)
    for i in (0, 12):
        changed["photographs"][i]["reference_scores"] = [0.0] * 7
    before, after = (
        list_scores(calibrate_report(r, True), "fine_tuned") for r in (report, changed)
    )
    assert (before[[0, 12]] == after[[0, 12]]).all()
    assert (before[1:12] != after[1:12]).any()


def test_a_calibrated_report_can_be_calibrated_again_or_restored() -> None:
    report = make_scores([0.5] * 7)
    calibrated = calibrate_report(report, True)
    assert calibrate_report(calibrated, True) == calibrated
    restored = calibrate_report(calibrated, False)
    assert restored["calibration"] is None
    assert (list_scores(restored, "fine_tuned") == list_scores(report, "fine_tuned")).all()


def test_few_groups_and_answers_without_scores_are_left_as_generated() -> None:
    assert calibrate_report(make_scores([0.5] * 7, 7), True)["calibration"] is None
    report = make_scores([0.5] * 7, 12)
    report["photographs"][3]["fine_tuned_constrained"]["scores"] = None
    report["photographs"][4]["reference_scores"] = None  # judged by its text alone
    calibrated = calibrate_report(report, True)["photographs"]
    assert calibrated[3]["fine_tuned_constrained"]["scores"] is None
    assert calibrated[4]["fine_tuned_constrained"]["raw_scores"]


@pytest.fixture
def inverse_report(critique: Critique, params: Params) -> dict[str, Any]:
    report = make_report(critique, base=6, tuned=0.7)
    for photo in report["photographs"]:  # one dimension is the opposite of the advisor's score
        first, *others = photo["reference_scores"]
        photo["fine_tuned_constrained"]["scores"] = [10 - first, *others]
    return calibrate_report(report, params.evaluate.calibrate)


def test_the_report_says_what_the_adapter_cannot_judge(
    inverse_report: dict[str, Any], params: Params
) -> None:
    evaluation = build_evaluation(inverse_report, params.evaluate)
    line = "cannot judge Composition yet: the calibrated score there is always the advisor's median"
    assert line in format_metrics_summary("ansel", evaluation)
    page = html.document_fromstring(
        render_report(inverse_report, evaluation, compute_timing(inverse_report, 0.3))
    )
    assert f"The adapter {line}." in page.text_content()
    section = page.xpath("//section[h3='Score calibration']")[0]
    first = section.xpath(".//tbody/tr[1]/td/text()")
    raw, calibrated = (
        evaluation["fine_tuned"][key]["Composition"]
        for key in ("raw_score_mae_by_dimension", "score_mae_by_dimension")
    )
    assert first[-2:] == [f"{raw:.2f}", f"{calibrated:.2f}"]
    assert calibrated < raw
    assert evaluation["fine_tuned"]["raw_score_mae"] > evaluation["fine_tuned"]["score_mae"]


def test_other_photos_are_calibrated_with_the_weights_of_a_report() -> None:
    fitted = calibrate_report(make_scores([0.5] * 7), True)["calibration"]
    report = apply_calibration(make_scores([0.9] * 7), fitted)
    weights = list(fitted["weights"]["fine_tuned"].values())
    raw = list_scores(report, "fine_tuned", "raw_scores")
    expected = MEDIAN + np.array(weights) * (raw - MEDIAN)
    assert np.abs(list_scores(report, "fine_tuned") - expected).max() <= fitted["step"] / 2 + 1e-9
    assert report["calibration"] == fitted
    assert (list_scores(apply_calibration(report, None), "fine_tuned") == raw).all()


def test_weights_of_an_arm_without_answers_are_not_used() -> None:
    """The final test has no few-shot answers, and its weights come from an evaluation with them."""
    report = make_scores([0.5] * 7)
    for photo in report["photographs"]:
        photo["few_shot"] = deepcopy(photo["base_constrained"])
    fitted = calibrate_report(report, True)["calibration"]
    assert set(fitted["weights"]) == {"base", "few_shot", "fine_tuned"}
    calibrated = apply_calibration(make_scores([0.9] * 7), fitted)
    assert "raw_scores" in calibrated["photographs"][0]["fine_tuned_constrained"]
