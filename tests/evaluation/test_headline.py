"""Which verdict counts: that of val, or the cross-validated one of few critiques."""

from pathlib import Path
from typing import Any

import pytest

from mondrian.core.errors import EvaluationError
from mondrian.core.files import write_json
from mondrian.core.params import Params
from mondrian.evaluation.gates import list_release_faults
from mondrian.evaluation.headline import (
    can_crossvalidate,
    choose_headline,
    headline_gates,
    headline_verdict,
    read_crossvalidation,
    write_not_requested,
)
from mondrian.evaluation.summary import describe_verdicts


def make_evaluation(verdict: str, photographs: int = 20, **gates: float) -> dict[str, Any]:
    """Return an evaluation with these values of gates whose threshold is 0."""
    values = {"compliance": 1.0, "judgement_points": 9.0, "index_low": 1.0} | gates
    return {
        "verdict": verdict,
        "photographs": photographs,
        "text_only_photographs": 0,
        "photograph_groups": photographs,
        "comparisons": {},
        "gates": {
            name: {"value": value, "threshold": 0.0, "holds": value >= 0}
            for name, value in values.items()
        },
    }


def with_crossvalidation(val: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    return val | {"crossvalidation": content | {"folds": 5}}


def test_the_cross_validated_verdict_counts_below_100_critiques() -> None:
    val = make_evaluation("INCONCLUSIVE", index_low=-1.0)
    few = with_crossvalidation(val, make_evaluation("BETTER", 99))
    many = with_crossvalidation(val, make_evaluation("BETTER", 100))
    assert choose_headline(few)[0] == "cross-validation"
    verdicts = [headline_verdict(content) for content in (val, few, many)]
    assert verdicts == ["INCONCLUSIVE", "BETTER", "INCONCLUSIVE"]
    assert headline_verdict(val | {"crossvalidation": None}) == "INCONCLUSIVE"


def test_a_release_needs_the_headline_and_an_adapter_that_complies(params: Params) -> None:
    thresholds = params.evaluate.gates
    val = make_evaluation("INCONCLUSIVE", index_low=-1.0)
    assert len(list_release_faults(val, thresholds)) == 2
    crossvalidated = with_crossvalidation(val, make_evaluation("BETTER", 90, compliance=0.0))
    assert list_release_faults(crossvalidated, thresholds) == []
    assert headline_gates(crossvalidated)["index_low"]["value"] == 1.0
    assert headline_gates(crossvalidated)["compliance"]["value"] == 1.0  # of the adapter itself
    broken = with_crossvalidation(
        make_evaluation("BETTER", compliance=0.5), make_evaluation("BETTER", 90)
    )
    assert list_release_faults(broken, thresholds) == ["compliance is 0.5, the threshold is 0.95"]
    worse = with_crossvalidation(
        make_evaluation("BETTER"), make_evaluation("WORSE", 90, judgement_points=2.0)
    )
    assert list_release_faults(worse, thresholds) == [
        "verdict is WORSE, not BETTER",
        "judgement_points is 2.0, the threshold is 5.0",
    ]


def test_both_verdicts_are_shown_with_their_names() -> None:
    val = make_evaluation("INCONCLUSIVE")
    headline, other = describe_verdicts(val)
    assert headline == "INCONCLUSIVE on 20 critiques of 20 photos not used in training (val)"
    assert other.startswith("cross-validation: none; ")
    few = with_crossvalidation(val, make_evaluation("BETTER", 90) | {"photograph_groups": 30})
    assert describe_verdicts(few) == [
        "BETTER on 90 critiques of 30 photo groups cross-validated by 5 adapters",
        "INCONCLUSIVE on 20 critiques of 20 photos not used in training (val)",
    ]
    many = with_crossvalidation(val, make_evaluation("BETTER", 200))
    assert describe_verdicts(many) == [
        "INCONCLUSIVE on 20 critiques of 20 photos not used in training (val)",
        "BETTER on 200 critiques of 200 photos cross-validated by 5 adapters",
    ]


@pytest.mark.parametrize(
    ("critiques", "method", "expected"),
    [(99, "sft", True), (100, "sft", False), (99, "orpo", False), (99, None, False)],
)
def test_folds_are_suggested_only_if_their_verdict_would_be_the_headline(
    critiques: int, method: str | None, expected: bool
) -> None:
    suggests_folds = can_crossvalidate(critiques, method)
    _, other = describe_verdicts(make_evaluation("INCONCLUSIVE"), suggests_folds)
    assert other.endswith("halves the interval" if expected else "cross-validation: none")


def test_what_was_not_requested_says_so(tmp_path: Path) -> None:
    file, page = tmp_path / "crossvalidation.json", tmp_path / "crossvalidation.html"
    write_not_requested("ansel", file, page)
    assert read_crossvalidation(file) is None
    assert read_crossvalidation(None) is None
    assert "prepare.folds" in page.read_text()
    content = make_evaluation("BETTER", 90) | {"folds": 5, "base": {"score_mae": 1.0}}
    write_json(file, content)
    stored = read_crossvalidation(file)
    assert stored is not None
    assert stored["verdict"] == "BETTER"
    assert "base" not in stored


@pytest.mark.parametrize("content", ["[]", "{}", '{"folds": 5, "verdict": "BETTER"}'])
def test_a_file_of_another_version_is_one_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "crossvalidation.json").write_text(content)
    with pytest.raises(EvaluationError, match="is no cross-validation of this version"):
        read_crossvalidation(tmp_path / "crossvalidation.json")
