"""The headline: the verdict that counts, of val or of the cross-validation.

The cross-validation judges all photos but those of test, so its interval has about half the width.
With many critiques val alone is large enough, and it judges the adapter that is released.
"""

from pathlib import Path
from typing import Any

from mondrian.core.errors import EvaluationError
from mondrian.core.files import read_json, write_json, write_text
from mondrian.core.html import render_template

VAL, CROSSVALIDATION = "val", "cross-validation"
MAX_CRITIQUES = 100  # without those of test; from as many on val is the headline
_KEYS = (
    "folds verdict photographs text_only_photographs photograph_groups comparisons gates"
).split()
_COMPARISON_GATES = ("judgement_points", "_low")  # ends of the names of gates on comparisons


def choose_headline(evaluation: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of the verdict that counts, VAL or CROSSVALIDATION, and its content.

    evaluation  content of evaluate.json
    """
    crossvalidation = evaluation.get("crossvalidation")
    if crossvalidation and crossvalidation["photographs"] < MAX_CRITIQUES:
        return CROSSVALIDATION, crossvalidation
    return VAL, evaluation


def can_crossvalidate(critiques: int, method: str | None) -> bool:
    """Return whether prepare.folds can be set, and its verdict would be the headline.

    critiques  without those of test
    method     train.method; None for an imported adapter
    """
    return critiques < MAX_CRITIQUES and method not in ("orpo", None)


def can_crossvalidate_report(report: dict[str, Any]) -> bool:
    """Return `can_crossvalidate` of the adapter and the critiques of an evaluation's report."""
    recipe = report["adapter"]["recipe"]
    critiques = recipe.get("train_rows", 0) + len(report["photographs"])
    return can_crossvalidate(critiques, recipe.get("train", {}).get("method"))


def headline_verdict(evaluation: dict[str, Any]) -> str:
    return str(choose_headline(evaluation)[1]["verdict"])


def headline_gates(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return the gates: on comparisons those of the headline, the others of the adapter on val."""
    _, content = choose_headline(evaluation)
    compared = {n: g for n, g in content["gates"].items() if n.endswith(_COMPARISON_GATES)}
    return {**evaluation["gates"], **compared}


def read_crossvalidation(path: Path | None) -> dict[str, Any] | None:
    """Return what evaluate.json has of a crossvalidation.json; None if it was not requested."""
    content = read_json(path) if path else {"folds": 0}
    try:
        return {key: content[key] for key in _KEYS} if content["folds"] else None
    except (KeyError, TypeError):
        raise EvaluationError(f"{path} is no cross-validation of this version; dvc repro") from None


def write_not_requested(advisor: str, output: Path, html: Path) -> None:
    """Write the outputs of a cross-validation that prepare.folds does not ask for."""
    write_json(output, {"folds": 0})
    write_text(html, render_template("evaluation/not_requested.html", advisor=advisor))
