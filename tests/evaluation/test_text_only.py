"""Photos whose reference has no scores are judged by format and text alone."""

import json
from typing import Any

import numpy as np
import pytest

from mondrian.core.params import Params
from mondrian.critique.schema import Critique
from mondrian.evaluation.key_metrics import build_key_metrics
from mondrian.evaluation.metrics import compute_indexes
from mondrian.evaluation.prompts import pick_stratified_examples
from mondrian.evaluation.report import render_report
from mondrian.evaluation.summary import (
    describe_verdict,
    format_metrics_summary,
    list_score_errors,
)
from mondrian.evaluation.timing import compute_timing
from mondrian.evaluation.verdict import build_evaluation, compute_comparisons
from tests.evaluation.answers import answer_record, critique_text, make_report, make_row

SCORES = [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]


def remove_scores(report: dict[str, Any], *indices: int) -> dict[str, Any]:
    for i in indices:
        photo = report["photographs"][i]
        report["photographs"][i] = photo | {"reference_scores": None}
    return report


def test_the_index_of_a_photo_without_scores_is_that_of_its_words(
    critique: Critique, params: Params
) -> None:
    report = remove_scores(make_report(critique, base=3, tuned=0.7, count=6), 0, 1)
    own, other = report["photographs"][0], report["photographs"][2]
    own["reference_text"] = own["reference_text"].replace("e", "i").replace("scori", "score")
    index = compute_indexes(report, params.evaluate.index)["base"]
    for i in (0, 1):
        assert np.isnan([index.parts[name][i, i] for name in ("scores", "grounding")]).all()
        assert index.index[i, i] == 100 * index.parts["text"][i, i]
    weights = params.evaluate.index
    parts = {name: part[2, 2] for name, part in index.parts.items()}
    total = sum(getattr(weights, name) * part for name, part in parts.items())
    assert index.index[2, 2] == pytest.approx(100 * total / sum(weights.model_dump().values()))
    error = np.abs(np.subtract(other["base_constrained"]["scores"], other["reference_scores"]))
    constant = [np.abs(np.subtract(p["reference_scores"], 5)) for p in report["photographs"][2:]]
    assert parts["scores"] == pytest.approx(1 - error.mean() / np.mean(constant))


def test_no_score_of_an_answer_counts_for_a_text_only_photo(
    critique: Critique, params: Params
) -> None:
    values = []
    for scores in (SCORES, [5.0] * 7, [0.1] * 7):
        report = remove_scores(make_report(critique, base=3, tuned=0.7, count=3), 0)
        answer = answer_record(critique_text(critique, scores))
        report["photographs"][0]["base_constrained"] = answer
        values.append(compute_indexes(report, params.evaluate.index)["base"].index[0, 0])
    assert values[0] == values[1] == values[2]


def test_all_that_is_about_scores_is_of_the_photos_with_scores(
    critique: Critique, params: Params
) -> None:
    """Fields that only depend on scores are those of a report without the text-only photos."""
    report = make_report(critique, base=3, tuned=0.7, count=9)
    mixed = remove_scores(json.loads(json.dumps(report)), *range(6, 9))
    scored = report | {"photographs": report["photographs"][:6]}
    metrics, expected = (build_evaluation(r, params.evaluate) for r in (mixed, scored))
    for name in ("score_error", "constant", "vs_shuffled"):
        assert metrics["comparisons"][name] == expected["comparisons"][name]
    assert metrics["comparisons"]["constant"]["groups"] == 6
    for arm in ("base", "fine_tuned", "constant"):
        for name in ("scored", "score_mae", "score_kappa", "by_dimension", "score_collapse"):
            assert metrics[arm][name] == expected[arm][name], (arm, name)
    assert metrics["shuffled"]["score_mae"] == expected["shuffled"]["score_mae"]
    for part in ("scores", "grounding"):
        shares = [m["fine_tuned"]["index_parts"][part] for m in (metrics, expected)]
        assert shares[0] == shares[1], part
    assert metrics["dimensions"] == expected["dimensions"]
    assert list_score_errors(metrics) == list_score_errors(expected)
    assert metrics["fine_tuned"]["compliance"]["repaired"] == 1  # of all answers
    assert (metrics["photographs"], metrics["text_only_photographs"]) == (9, 3)
    assert metrics["comparisons"]["index"]["groups"] == metrics["photograph_groups"] == 9
    keys = build_key_metrics(mixed, metrics, params.evaluate.gates)
    assert set(keys) == set(build_key_metrics(scored, expected, params.evaluate.gates))
    assert keys["mae"] == expected["fine_tuned"]["score_mae"]


def test_the_index_difference_is_the_mean_over_both_kinds_of_photos(
    critique: Critique, params: Params
) -> None:
    report = make_report(critique, base=3, tuned=0.7, count=10)
    for photo in report["photographs"][5:]:  # the adapter writes the advisor's text, the base not
        text = photo["base"]["text"].replace("e", "i").replace("scori", "score")
        photo["base_constrained"] = answer_record(text)
    mixed = remove_scores(report, *range(5, 10))
    indexes = compute_indexes(mixed, params.evaluate.index)
    gains = np.diag(indexes["fine_tuned"].index - indexes["base"].index)
    assert compute_comparisons(mixed, indexes)["index"].mean == pytest.approx(gains.mean())
    assert gains[5:].min() > 0
    same = {"base": indexes["base"], "fine_tuned": indexes["base"]}
    assert compute_comparisons(mixed, same)["index"].mean == 0


def test_text_alone_is_never_better_than_a_constant(critique: Critique, params: Params) -> None:
    report = remove_scores(make_report(critique, base=3, tuned=0.7, count=8), *range(8))
    for photo in report["photographs"]:
        photo["base_constrained"] = answer_record("I like it.")
    metrics = build_evaluation(report, params.evaluate)
    assert metrics["comparisons"]["index"]["low"] > 0
    assert metrics["verdict"] == "BETTER_MANNER"
    assert metrics["constant"] == {
        "scored": 0,
        "score_mae": None,
        "score_bias": None,
        "score_mae_by_dimension": None,
    }
    assert not metrics["gates"]["constant_low"]["holds"]
    assert (
        "score error below constant (of 10) has 0 photos, a verdict needs at least 8"
        in describe_verdict(metrics)
    )
    assert build_key_metrics(report, metrics, params.evaluate.gates)["mae"] is None
    assert "Judged by its text alone" in render_report(report, metrics, compute_timing(report, 0.3))
    assert format_metrics_summary("ansel", metrics)


def test_an_index_of_scores_alone_leaves_text_only_photos_out(
    critique: Critique, params: Params
) -> None:
    changes = {"scores": 1.0, "text": 0.0, "grounding": 0.0}
    settings = params.evaluate.model_copy(
        update={"index": params.evaluate.index.model_copy(update=changes)}
    )
    report = remove_scores(make_report(critique, base=3, tuned=0.7, count=8), 6, 7)
    metrics = build_evaluation(report, settings)
    assert metrics["comparisons"]["index"]["groups"] == 6
    assert metrics["fine_tuned"]["quality_index"] > metrics["base"]["quality_index"]
    none = build_evaluation(remove_scores(report, *range(8)), settings)
    assert none["fine_tuned"]["quality_index"] is None
    assert none["verdict"] == "INCONCLUSIVE"
    assert format_metrics_summary("ansel", none)
    build_key_metrics(report, none, settings.gates)


def test_the_page_says_how_many_are_judged_by_text_alone(
    critique: Critique, params: Params
) -> None:
    report = remove_scores(make_report(critique, base=3, tuned=0.7, count=6), 0, 1)
    metrics = build_evaluation(report, params.evaluate)
    page = render_report(report, metrics, compute_timing(report, 0.3))
    assert "2 of the critiques without scores and judged by their text alone" in page
    assert page.count("Judged by its text alone") == 2
    assert page.index(">ansel/0<") > page.index(">ansel/5<")  # after the photos with an error
    assert page.count('<polygon class="') == 6 * 3 - 2  # two photos have no scores of the advisor


def test_examples_in_the_prompt_are_critiques_with_scores(critique: Critique) -> None:
    train = [make_row(str(i), str(i), critique, i) for i in (9, 1, 5)]
    fives = [row.model_copy(update={"scored": False}) for row in train[:2]]
    assert [row.id for row in pick_stratified_examples([*fives, train[2]], 2)] == ["5"]
    assert pick_stratified_examples(fives, 2) == []


@pytest.mark.parametrize("stored", ["null", '"N/A"'])
def test_an_answer_without_scores_is_not_given_any(critique: Critique, stored: str) -> None:
    text = critique_text(critique, SCORES).replace('"score": 3', f'"score": {stored}', 1)
    record = answer_record(text)
    assert record["scores"] is None
    assert record["fault"].startswith("unscored")
