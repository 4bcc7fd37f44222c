"""Cross-validation: every photo but those of test is evaluated by an adapter not trained on it.

An adapter is trained for each fold of `prepare.folds` on the other folds, so the verdict is based
on all photos, not on val alone. It takes as many times as long as the pipeline.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from mondrian.core.adapter_folder import WEIGHTS_FILE
from mondrian.core.errors import DataError
from mondrian.core.files import file_hash, read_json, write_json, write_text
from mondrian.core.params import Params
from mondrian.critique.rows import ChatRow, image_hashes
from mondrian.evaluation.calibration import calibrate_report
from mondrian.evaluation.evaluate import EvalData, evaluate
from mondrian.evaluation.report import render_report
from mondrian.evaluation.summary import format_metrics_summary
from mondrian.evaluation.timing import compute_timing
from mondrian.evaluation.verdict import build_evaluation
from mondrian.model import lora, provenance
from mondrian.model.adapter import adapts_merger
from mondrian.model.provenance import build_recipe, package_versions
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import Vlm
from mondrian.training import distributed
from mondrian.training.run import RunPaths, TrainingData, TrainingRun


@dataclass(frozen=True)
class CrossvalidationOutputs:
    """Files for one advisor, and the folder of the folds, from which a killed run resumes."""

    metrics: Path
    html: Path
    folds: Path


def write_crossvalidation(
    base: Vlm,
    params: Params,
    rows: Sequence[ChatRow],
    outputs: CrossvalidationOutputs,
    cache_dir: Path,
) -> str:
    """Cross-validate, write metrics and page, and return the summary."""
    report = crossvalidate(base, params, rows, outputs.folds, cache_dir)
    report = calibrate_report(report, params.evaluate.calibrate)
    evaluation = {"folds": report["folds"], **build_evaluation(report, params.evaluate)}
    timing = compute_timing(report, params.evaluate.gates.overhead)
    page = render_report(report, evaluation, timing)
    write_json(outputs.metrics, evaluation)
    write_text(outputs.html, page)
    return format_metrics_summary(report["advisor"], evaluation)


def crossvalidate(
    base: Vlm, params: Params, rows: Sequence[ChatRow], folder: Path, cache_dir: Path
) -> dict[str, Any]:
    """Return one report of all rows, each answered by the adapter of its fold.

    The last weights are kept, not the best: the held-out rows must not select anything.

    Raises DataError if the rows have no folds, or the method needs preference pairs.
    """
    if params.train.method != "sft":
        raise DataError(
            f"train.method is {params.train.method}; cross-validation trains without preference "
            "pairs: set it to sft in params.yaml"
        )
    folds = sorted({row.fold for row in rows if row.fold is not None})
    if len(folds) < 2 or any(row.fold is None for row in rows):
        raise DataError(
            "the rows have no folds; set prepare.folds to 5 in params.yaml and prepare again: "
            "dvc repro prepare"
        )
    train = params.train.model_copy(update={"save_weights": "last", "early_stopping_patience": 0})
    params = params.model_copy(update={"train": train})
    reports = []
    for fold in folds:
        print(f"fold {fold + 1} of {len(folds)}", flush=True)
        val = [row for row in rows if row.fold == fold]
        data = EvalData(val, train=[row for row in rows if row.fold != fold])
        reports.append(train_and_evaluate(base, params, data, folder / str(fold), cache_dir))
    return merge_reports(reports)


def merge_reports(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge fold reports: median costs, the first adapter, each photo with its fold's constant."""
    photos = [
        photo | {"train_score_medians": report["train_score_medians"]}
        for report in reports
        for photo in report["photographs"]
    ]
    cost = {
        arm: {name: median(report["cost"][arm][name] for report in reports) for name in arm_cost}
        for arm, arm_cost in reports[0]["cost"].items()
    }
    return reports[0] | {"photographs": photos, "cost": cost, "folds": len(reports)}


def train_and_evaluate(
    base: Vlm, params: Params, data: EvalData, folder: Path, cache_dir: Path
) -> dict[str, Any]:
    """Train an adapter on `data.train` and return its report on `data.val`.

    All files are in `folder`. Results of the same rows, photos, settings and code are reused, and
    interrupted work resumes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    training_id = _train(base, params, data, folder, cache_dir)
    eval_params = params.evaluate.model_dump(exclude={"gates", "index", "batch_size", "calibrate"})
    identity = _identity(base, data.train, {"train": training_id, "evaluate": eval_params})
    finished = _read_json_or_none(folder / "report.json")
    if isinstance(finished, dict) and finished.get("identity") == identity and "report" in finished:
        return dict(finished["report"])
    adapter, answers = folder / "adapter", folder / "answers.jsonl"
    max_gb = params.machine.feature_cache_gb
    features = FeatureCache(base, cache_dir / "features", max_gb, adapts_merger(adapter))
    report = evaluate(features, adapter, data, params.evaluate, answers)
    write_json(folder / "report.json", {"identity": identity, "report": report})
    answers.unlink(missing_ok=True)
    return report


def _train(base: Vlm, params: Params, data: EvalData, folder: Path, cache_dir: Path) -> str:
    """Train the adapter of the folder, unless it is up to date; return the training's identity."""
    rows, val = list(data.train), list(data.val)
    identity = _identity(base, [*rows, *val], params.train.model_dump())
    adapter, train_data, marker = folder / "adapter", folder / "train.json", folder / "trained.json"
    if _read_json_or_none(marker) == [identity, *_weights_hash(adapter)]:
        return identity
    write_json(train_data, [row.model_dump() for row in rows])
    recipe = build_recipe(base.base_id, rows, train_data, params.image, params.train)
    world = distributed.join_process_group(params.machine.collective_timeout_seconds)
    name = f"trial-{sha256(str(folder.resolve()).encode()).hexdigest()[:16]}"
    paths = RunPaths(adapter, folder / "train_metrics.json", cache_dir, name)
    run = TrainingRun(base, params.train, params.machine, world, paths)
    run.run(TrainingData(rows, val, {"train data": train_data}), recipe)
    lora.detach(base.model)
    write_json(marker, [identity, *_weights_hash(adapter)])
    return identity


def _read_json_or_none(file: Path) -> Any:
    try:
        return read_json(file)
    except DataError:
        return None


def _weights_hash(adapter: Path) -> list[str]:
    file = adapter / WEIGHTS_FILE
    return [file_hash(file)] if file.is_file() else []


def _identity(base: Vlm, rows: Sequence[ChatRow], params: dict[str, Any]) -> str:
    row_dumps = [row.model_dump() for row in rows]
    versions = package_versions() | {"llguidance": version("llguidance")}
    code = provenance.code_hash(sorted({*provenance.TRAINING_CODE, *provenance.EVALUATION_CODE}))
    inputs = [row_dumps, image_hashes(rows), params, base.hash, code, versions]
    return sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
