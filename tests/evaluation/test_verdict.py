"""The verdict on synthetic answers of known quality."""

import json
from typing import Any

import numpy as np
import pytest

from mondrian.core.errors import EvaluationError
from mondrian.core.params import Params
from mondrian.critique.schema import DIMENSIONS, Critique, serialize_critique, validate_critique
from mondrian.evaluation.gates import check_gates, list_failed_gates
from mondrian.evaluation.key_metrics import build_key_metrics
from mondrian.evaluation.metrics import compute_indexes
from mondrian.evaluation.quality_index import align_scores
from mondrian.evaluation.report import render_report
from mondrian.evaluation.score_metrics import kappa, most_common_fraction, spearman
from mondrian.evaluation.summary import describe_verdict, format_metrics_summary
from mondrian.evaluation.timing import compute_timing, format_overhead_warning
from mondrian.evaluation.verdict import build_evaluation
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.evaluation.answers import answer_record, critique_text, make_report


def change_words(text: str) -> str:
    """Return a critique with the same scores in words that the advisor does not use."""
    critique = validate_critique(text)
    words = {"comment": "Nothing of the kind.", "recommendation": "Do as you like."}
    dimensions = tuple(d.model_copy(update=words) for d in critique.dimensions)
    return serialize_critique(critique.model_copy(update={"dimensions": dimensions}))


def test_a_better_adapter_is_better_with_an_interval(critique: Critique, params: Params) -> None:
    metrics = build_evaluation(make_report(critique, base=3, tuned=0.7), params.evaluate)
    assert metrics["verdict"] == "BETTER"
    assert metrics["comparisons"]["index"]["low"] > 0
    assert all(d["p_holm"] < 0.05 for d in metrics["dimensions"].values())
    assert list_failed_gates(metrics, params.evaluate.gates) == []
    strict = params.evaluate.gates.model_copy(update={"copied_above_reference": -0.5})
    assert list_failed_gates(metrics, strict) == [
        "copied_above_reference is 0.0, the threshold is -0.5"
    ]
    text = format_metrics_summary("ansel", metrics)
    assert text.startswith("evaluate ansel: BETTER on 20 critiques of 20 photos")


def test_a_slow_adapter_is_a_warning_and_no_failed_gate(critique: Critique, params: Params) -> None:
    report = make_report(critique, base=3, tuned=0.7)
    assert format_overhead_warning(compute_timing(report, 0.3)) is None
    report["cost"]["fine_tuned"]["decode_tokens_per_second"] = 50.0
    timing = compute_timing(report, 0.3)
    assert timing["overhead"] == 1.0
    assert "100% more time per token" in str(format_overhead_warning(timing))
    evaluation = build_evaluation(report, params.evaluate)
    assert list_failed_gates(evaluation, params.evaluate.gates) == []
    assert "cost" not in json.dumps(evaluation)


def test_key_metrics_are_few_flat_and_without_times(critique: Critique, params: Params) -> None:
    report = make_report(critique, base=4, tuned=0.7)
    evaluation = build_evaluation(report, params.evaluate)
    key_metrics = build_key_metrics(report, evaluation, params.evaluate.gates)
    for photo in report["photographs"]:
        photo["base"]["seconds"] += 1
    again = build_evaluation(report, params.evaluate)
    assert build_key_metrics(report, again, params.evaluate.gates) == key_metrics
    assert len(key_metrics) <= 13
    assert not any(isinstance(value, (dict, list)) for value in key_metrics.values())
    assert key_metrics["mae"] < key_metrics["mae_constant"] < key_metrics["mae_base"]
    assert key_metrics["failed_gates"] == 0


def test_a_worse_adapter_is_worse(critique: Critique, params: Params) -> None:
    metrics = build_evaluation(make_report(critique, base=0.5, tuned=3), params.evaluate)
    assert metrics["verdict"] == "WORSE"
    failed = list_failed_gates(metrics, params.evaluate.gates)
    assert any("judgement_points" in line for line in failed)


def test_the_same_arm_twice_is_inconclusive(critique: Critique, params: Params) -> None:
    same = make_report(critique, base=1, tuned=1)
    for photo in same["photographs"]:
        photo["fine_tuned_constrained"] = photo["base_constrained"]
    metrics = build_evaluation(same, params.evaluate)
    assert metrics["verdict"] == "INCONCLUSIVE"
    assert metrics["comparisons"]["index"]["mean"] == 0


def test_better_than_base_but_not_than_a_constant_is_inconclusive(
    critique: Critique, params: Params
) -> None:
    weak = make_report(critique, base=6, tuned=3.5)
    metrics = build_evaluation(weak, params.evaluate)
    assert metrics["comparisons"]["index"]["low"] > 0 > metrics["comparisons"]["constant"]["low"]
    assert metrics["verdict"] == "INCONCLUSIVE"
    text = describe_verdict(metrics)
    assert "score error below constant (of 10) may be 0 on 20 photos" in text
    assert "quality index" not in text


def test_an_adapter_that_ignores_the_photo_is_not_better(
    critique: Critique, params: Params
) -> None:
    blind = build_evaluation(make_report(critique, base=6, tuned=0.7, blind=True), params.evaluate)
    assert blind["verdict"] in ("BETTER_MANNER", "INCONCLUSIVE")
    assert blind["shuffled"]["score_mae"] < blind["fine_tuned"]["score_mae"] + 0.5
    assert not blind["gates"]["vs_shuffled_low"]["holds"]


def test_copies_count_once_and_few_photos_conclude_nothing(
    critique: Critique, params: Params
) -> None:
    few = build_evaluation(
        make_report(critique, base=3, tuned=0.7, count=4, copies=10), params.evaluate
    )
    assert few["photographs"] == 40
    assert few["photograph_groups"] == 4
    assert "above base (points) has 4 photo groups, a verdict needs at least 8" in describe_verdict(
        few
    )
    assert few["verdict"] == "INCONCLUSIVE"
    assert few["comparisons"]["index"]["low"] is None  # four photos give no interval


def test_answers_that_are_not_critiques_count_as_bad(critique: Critique, params: Params) -> None:
    broken = make_report(critique, base=1, tuned=1)
    for photo in broken["photographs"]:
        photo["fine_tuned"] = photo["fine_tuned_constrained"] = answer_record("I like it.")
    metrics = build_evaluation(broken, params.evaluate)
    assert metrics["verdict"] == "WORSE"
    assert metrics["fine_tuned"]["score_mae"] is None
    assert metrics["comparisons"]["constant"]["low"] is None
    assert "too few photos" in format_metrics_summary("ansel", metrics)
    assert "I like it." in render_report(broken, metrics, compute_timing(broken, 0.3))


def test_the_index_is_100_for_the_advisors_critique_and_0_for_the_words_of_another_photo(
    params: Params,
) -> None:
    """The constant's scores in the advisor's words for other photos have no judgement."""
    critiques = [write_critique("ansel", draw_scene(5, i)) for i in range(9)]
    medians = np.median([critique.scores() for critique in critiques], axis=0)
    photos = []
    for i, critique in enumerate(critiques):
        own, other = critique_text(critique, critique.scores()), critiques[i - 1]
        arms = {"base": critique_text(other, medians), "fine_tuned": own}
        records = {f"{arm}_constrained": answer_record(text) for arm, text in arms.items()}
        scores = list(critique.scores())
        references = {"reference_text": own, "reference_scores": scores, "photo_group": str(i)}
        photos.append(references | records)
    report = {
        "photographs": photos,
        "train_score_medians": dict(zip(DIMENSIONS, medians, strict=True)),
    }
    indexes = compute_indexes(report, params.evaluate.index)
    assert indexes["fine_tuned"].summarize()["quality_index"] == pytest.approx(100)
    base = indexes["base"].summarize()
    assert base["index_parts"]["scores"] == pytest.approx(0, abs=0.05)
    assert base["index_parts"]["text"] == pytest.approx(0, abs=0.15)
    assert abs(base["quality_index"]) < 10


def test_manner_and_judgement_sum_to_the_gain(critique: Critique, params: Params) -> None:
    report = make_report(critique, base=3, tuned=0.7)
    comparisons = build_evaluation(report, params.evaluate)["comparisons"]
    parts = comparisons["manner"]["mean"] + comparisons["judgement"]["mean"]
    assert parts == pytest.approx(comparisons["index"]["mean"], abs=1e-3)
    assert comparisons["judgement"]["low"] > 0


def test_the_base_scores_in_another_voice_are_manner_alone(
    critique: Critique, params: Params
) -> None:
    report = make_report(critique, base=0.7, tuned=0.7)
    for photo in report["photographs"]:
        text = photo["base_constrained"]["text"]
        photo["fine_tuned_constrained"] = answer_record(text)
        photo["base_constrained"] = answer_record(change_words(text))
    metrics = build_evaluation(report, params.evaluate)
    assert metrics["comparisons"]["judgement"]["mean"] == 0
    assert metrics["comparisons"]["vs_shuffled"]["low"] > 0
    assert metrics["verdict"] != "BETTER"
    assert "gain by judgement of the photo (points) may be 0" in describe_verdict(metrics)


def test_the_base_scores_at_another_level_are_manner_alone(
    critique: Critique, params: Params
) -> None:
    """The adapter orders the photos as the base does, and has a much smaller score error."""
    report = make_report(critique, base=0.7, tuned=0.7)
    for photo in report["photographs"]:
        photo["fine_tuned_constrained"] = photo["base_constrained"]
        low_scores = [score / 3 for score in photo["base_constrained"]["scores"]]
        text = critique_text(critique, low_scores)
        photo["base_constrained"] = answer_record(text) | {"scores": low_scores}
    comparisons = build_evaluation(report, params.evaluate)["comparisons"]
    assert comparisons["score_error"]["low"] > 0
    assert comparisons["judgement"]["mean"] == pytest.approx(0, abs=1e-9)
    assert comparisons["manner"]["low"] > 0


def test_aligned_scores_have_the_distribution_of_the_references() -> None:
    references = [[float(k)] * 7 for k in (2, 4, 8, 9)]
    photos = [{"reference_scores": scores} for scores in [*references, None]]
    scores = [[5.0] * 7, [1.0] * 7, [5.0] * 7, [3.0] * 7, [7.0] * 7]
    aligned = align_scores(scores, photos)
    assert np.array(aligned, float)[:, 0].tolist() == [8.5, 2, 8.5, 4, 7]
    assert align_scores([None, *scores[1:]], photos)[0] is None
    alone = align_scores([None, None, scores[2], None, None], photos)
    assert np.array(alone[2]).tolist() == [6.0] * 7  # the middle, not its own reference


def test_gates_are_named_and_a_file_without_them_is_refused(
    critique: Critique, params: Params, tmp_path: Any
) -> None:
    lines: list[str] = []
    file = tmp_path / "evaluate.json"
    file.write_text(json.dumps(build_evaluation(make_report(critique, 3, 0.7), params.evaluate)))
    check_gates(file, params, lines.append)
    assert lines == [f"{file}: BETTER"]
    file.write_text(json.dumps(build_evaluation(make_report(critique, 0.5, 3), params.evaluate)))
    with pytest.raises(
        EvaluationError,
        match=r"gates do not hold\n  .*verdict is WORSE(.|\n)*judgement_points is -",
    ):
        check_gates(file, params, lines.append)
    file.write_text("{}")
    with pytest.raises(EvaluationError, match="has no gates"):
        check_gates(file, params, lines.append)


def test_kappa_rank_correlation_and_collapse_of_known_values() -> None:
    a, b = np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 4])
    assert kappa(a, b) == 1
    assert kappa(a, b[::-1]) == -1
    assert kappa(np.full(4, 2.5), a) == 0
    assert spearman(a, a**3) == 1
    assert spearman(a, np.full(4, 2.0)) is None
    assert most_common_fraction(np.array([5.0, 5, 5, 7])) == 0.75
