"""Out-of-fold evaluation, and the trial that it is made of, for real on a few rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mondrian.core.errors import DataError
from mondrian.core.params import Params
from mondrian.critique.rows import ChatRow
from mondrian.evaluation.crossvalidation import crossvalidate, merge_reports
from mondrian.evaluation.verdict import build_metrics
from mondrian.training.run import TrainingRun


def quick(params: Params) -> Params:
    """One epoch, and no second looks."""
    train = params.train.model_copy(update={"epochs": 1})
    once = params.evaluate.consistency.model_copy(update={"photos": 1, "samples": 2})
    evaluate = params.evaluate.model_copy(update={"consistency": once, "few_shot_examples": 0})
    return params.model_copy(update={"train": train, "evaluate": evaluate})


def test_rows_without_folds_are_refused(
    rows: list[ChatRow], params: Params, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="set prepare.folds to 5"):
        crossvalidate(None, params, rows, tmp_path, tmp_path)  # type: ignore[arg-type]


def test_each_photograph_keeps_the_constant_of_its_own_fold() -> None:
    reports: list[dict[str, Any]] = [
        {
            "advisor": "ansel",
            "train_score_means": {"x": n},
            "photographs": [{"id": str(n)}],
            "cost": {"base": {"peak_memory_gb": n}},
        }
        for n in (1, 2)
    ]
    found = merge_reports(reports)
    assert [row["train_score_means"]["x"] for row in found["photographs"]] == [1, 2]
    assert found["cost"]["base"]["peak_memory_gb"] == 1.5


@pytest.mark.long
def test_every_row_is_judged_by_an_adapter_that_did_not_see_it(
    base_vlm: Any,
    rows: list[ChatRow],
    params: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dealt = [row.model_copy(update={"fold": i % 2}) for i, row in enumerate(rows)]
    report = crossvalidate(base_vlm, quick(params), dealt, tmp_path / "folds", tmp_path)
    assert sorted(row["id"] for row in report["photographs"]) == sorted(row.id for row in rows)
    for fold in (0, 1):
        recipe = json.loads((tmp_path / f"folds/{fold}/adapter/recipe.json").read_text())
        held = {row.photo_group for row in dealt if row.fold == fold}
        assert not held & set(recipe["train_photo_groups"])
        assert recipe["train"]["save_weights"] == "last"
    found = build_metrics(report, params.evaluate)
    assert found["photographs"] == 5
    assert found["verdict"] == "INCONCLUSIVE"
    assert found["fine_tuned"]["compliance"]["constrained"] == 1.0
    assert set(found["base"]["consistency"]) == {"cropped", "lighter", "encoded_again", "drawn"}
    speed = found["base"]["cost"]["decode_tokens_per_second"]
    assert speed > 1
    assert np.isfinite(speed)

    def never(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(TrainingRun, "run", never)
    again = crossvalidate(base_vlm, quick(params), dealt, tmp_path / "folds", tmp_path)
    assert again == json.loads(json.dumps(report))
    (tmp_path / "folds/1/report.json").unlink()  # stopped between training and judging
    again = crossvalidate(base_vlm, quick(params), dealt, tmp_path / "folds", tmp_path)
    assert [row["id"] for row in again["photographs"]] == [r["id"] for r in report["photographs"]]
