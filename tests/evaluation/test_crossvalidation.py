"""Cross-validation, and the training and evaluation of each fold, for real on a few rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mondrian.core.errors import DataError
from mondrian.core.params import Params
from mondrian.critique.rows import ChatRow
from mondrian.evaluation.crossvalidation import (
    CrossvalidationOutputs,
    crossvalidate,
    merge_reports,
    write_crossvalidation,
)
from mondrian.evaluation.headline import headline_verdict, read_crossvalidation
from mondrian.evaluation.verdict import build_evaluation
from mondrian.training.run import TrainingRun


def fast_params(params: Params) -> Params:
    """Return params with one epoch, one photo for consistency, and no few-shot arm."""
    train = params.train.model_copy(update={"epochs": 1})
    consistency = params.evaluate.consistency.model_copy(update={"photos": 1, "samples": 2})
    changes = {"consistency": consistency, "few_shot_examples": 0}
    evaluate = params.evaluate.model_copy(update=changes)
    return params.model_copy(update={"train": train, "evaluate": evaluate})


def test_rows_without_folds_are_refused(
    rows: list[ChatRow], params: Params, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="set prepare.folds to 5"):
        crossvalidate(None, params, rows, tmp_path, tmp_path)  # type: ignore[arg-type]


def test_preference_pairs_are_refused(rows: list[ChatRow], params: Params, tmp_path: Path) -> None:
    orpo = params.model_copy(update={"train": params.train.model_copy(update={"method": "orpo"})})
    with pytest.raises(DataError, match="train.method is orpo; cross-validation trains without"):
        crossvalidate(None, orpo, rows, tmp_path, tmp_path)  # type: ignore[arg-type]


def test_each_photo_keeps_the_constant_of_its_own_fold() -> None:
    reports: list[dict[str, Any]] = [
        {
            "advisor": "ansel",
            "train_score_medians": {"x": n},
            "photographs": [{"id": str(n)}],
            "cost": {"base": {"peak_memory_gb": n}},
        }
        for n in (1, 2)
    ]
    merged = merge_reports(reports)
    assert [photo["train_score_medians"]["x"] for photo in merged["photographs"]] == [1, 2]
    assert merged["cost"]["base"]["peak_memory_gb"] == 1.5


@pytest.mark.slow
def test_every_row_is_evaluated_by_an_adapter_that_was_not_trained_on_it(
    base_vlm: Any,
    rows: list[ChatRow],
    params: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folded = [row.model_copy(update={"fold": i % 2}) for i, row in enumerate(rows)]
    report = crossvalidate(base_vlm, fast_params(params), folded, tmp_path / "folds", tmp_path)
    assert sorted(p["id"] for p in report["photographs"]) == sorted(row.id for row in rows)
    for fold in (0, 1):
        recipe = json.loads((tmp_path / f"folds/{fold}/adapter/recipe.json").read_text())
        held_out = {row.photo_group for row in folded if row.fold == fold}
        assert not held_out & set(recipe["train_photo_groups"])
        assert recipe["train"]["save_weights"] == "last"
    metrics = build_evaluation(report, params.evaluate)
    assert metrics["photographs"] == 5
    assert metrics["verdict"] == "INCONCLUSIVE"
    assert metrics["fine_tuned"]["compliance"]["constrained"] == 1.0
    variants = {"cropped", "brightened", "reencoded", "sampled"}
    assert set(metrics["base"]["consistency"]) == variants
    speed = report["cost"]["base"]["decode_tokens_per_second"]
    assert speed > 1
    assert np.isfinite(speed)

    def fail(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(TrainingRun, "run", fail)
    repeated = crossvalidate(base_vlm, fast_params(params), folded, tmp_path / "folds", tmp_path)
    assert repeated == json.loads(json.dumps(report))
    names = ("crossvalidation.json", "crossvalidation.html", "folds")
    outputs = CrossvalidationOutputs(*(tmp_path / name for name in names))
    text = write_crossvalidation(base_vlm, fast_params(params), folded, outputs, tmp_path)
    verdict = "INCONCLUSIVE on 5 critiques of 5 photos cross-validated by 2 adapters"
    assert text.startswith(f"crossvalidate ansel: {verdict}")
    assert verdict in outputs.html.read_text()
    stored = read_crossvalidation(outputs.metrics)
    assert stored is not None
    assert headline_verdict({"verdict": "BETTER", "crossvalidation": stored}) == "INCONCLUSIVE"
    (tmp_path / "folds/1/report.json").unlink()  # interrupted between training and evaluation
    resumed = crossvalidate(base_vlm, fast_params(params), folded, tmp_path / "folds", tmp_path)
    assert [p["id"] for p in resumed["photographs"]] == [p["id"] for p in report["photographs"]]
