"""Train on some rows and judge by others, apart from the pipeline's own adapters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mondrian.core.adapter_folder import WEIGHTS
from mondrian.core.errors import DataError
from mondrian.core.files import file_hash, read_json, write_json
from mondrian.core.params import Params
from mondrian.critique.rows import ChatRow, photo_hashes
from mondrian.evaluation.answer_cache import delete_cache_file
from mondrian.evaluation.evaluate import EvalDataset, evaluate
from mondrian.model import lora
from mondrian.model.adapter import adapts_merger
from mondrian.model.provenance import (
    EVALUATION_CODE,
    TRAINING_CODE,
    build_recipe,
    code_hash,
    package_versions,
)
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import Vlm
from mondrian.training import distributed
from mondrian.training.run import RunPaths, TrainingData, TrainingRun


def train_and_evaluate(
    base: Vlm,
    params: Params,
    rows: Sequence[ChatRow],
    val: Sequence[ChatRow],
    folder: Path,
    cache: Path,
) -> dict[str, Any]:
    """The report of an adapter trained on `rows` and judged by `val`.

    All of it lies in `folder`; what was done there before with the same rows, photographs, settings
    and code is not done again, and what was begun goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    adapter, done = folder / "adapter", folder / "report.json"
    learned = _identity(base, [*rows, *val], params.train.model_dump())
    _train(base, params, rows, val, folder, cache, learned)
    evaluate_params = params.evaluate.model_dump(exclude={"gates", "index", "batch_size"})
    judged = _identity(base, rows, {"train": learned, "evaluate": evaluate_params})
    known = _read(done)
    if isinstance(known, dict) and known.get("identity") == judged and "report" in known:
        return dict(known["report"])
    limit = params.machine.feature_cache_gb
    features = FeatureCache(base, cache / "features", limit, adapts_merger(adapter))
    answers = folder / f"answers-{judged[:16]}.jsonl"
    report = evaluate(features, adapter, EvalDataset(val, rows), params.evaluate, answers)
    write_json(done, {"identity": judged, "report": report})
    delete_cache_file(answers)
    return report


def _train(
    base: Vlm,
    params: Params,
    rows: Sequence[ChatRow],
    val: Sequence[ChatRow],
    folder: Path,
    cache: Path,
    identity: str,
) -> None:
    """Train the adapter in the folder, unless it is the one that was trained there before."""
    adapter, data, mark = folder / "adapter", folder / "train.json", folder / "trained.json"
    if _read(mark) == [identity, *_weights(adapter)]:
        return
    write_json(data, [row.model_dump() for row in rows])
    recipe = build_recipe(base.base_id, list(rows), data, params.image, params.train)
    world = distributed.join_process_group(params.machine.collective_timeout_seconds)
    name = f"trial-{sha256(str(folder.resolve()).encode()).hexdigest()[:16]}"
    paths = RunPaths(adapter, folder / "train_metrics.json", cache, name)
    session = TrainingRun(base, params.train, params.machine, world, paths)
    session.run(TrainingData(list(rows), list(val), {"train data": data}), recipe)
    lora.detach(base.model)
    write_json(mark, [identity, *_weights(adapter)])


def _read(file: Path) -> Any:
    """What a file holds; nothing where it is missing or damaged, so that it is made again."""
    try:
        return read_json(file)
    except DataError:
        return None


def _weights(adapter: Path) -> list[str]:
    """The hash of a saved adapter's weights, or nothing."""
    file = adapter / WEIGHTS
    return [file_hash(file)] if file.is_file() else []


def _identity(base: Vlm, rows: Sequence[ChatRow], settings: dict[str, Any]) -> str:
    row_dumps = [row.model_dump() for row in rows]
    versions = package_versions() | {"llguidance": version("llguidance")}
    code = code_hash(sorted({*TRAINING_CODE, *EVALUATION_CODE}))
    inputs = [row_dumps, photo_hashes(rows), settings, base.hash, code, versions]
    return sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
