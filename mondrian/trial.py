"""Train on some rows and judge by others, apart from the pipeline's own adapters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from mondrian import lora, ranks
from mondrian.adapter import wants_raw
from mondrian.evaluate import Data, evaluate
from mondrian.features import FeatureCache
from mondrian.files import read_json, write_json
from mondrian.params import Params
from mondrian.recipe import code_hash, packages, recipe
from mondrian.rows import Row
from mondrian.session import Session
from mondrian.vlm import Vlm


def trial(
    base: Vlm, params: Params, rows: Sequence[Row], val: Sequence[Row], folder: Path, cache: Path
) -> dict[str, Any]:
    """The report of an adapter trained on `rows` and judged by `val`.

    All of it lies in `folder`; what was done there before with the same rows, settings and code is
    not done again, and what was begun goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, done, adapter = folder / "train.json", folder / "report.json", folder / "adapter"
    told = {"train": [r.model_dump() for r in rows], "val": [r.model_dump() for r in val]}
    settings = {"train": params.train.model_dump(), "evaluate": params.evaluate.model_dump()}
    everything = [told, settings, base.hash, code_hash(), packages()]
    identity = sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
    if done.is_file() and (found := read_json(done)).get("identity") == identity:
        return dict(found["report"])
    write_json(train, told["train"])
    made = recipe(base.source, base.hash, list(rows), train, params.image, params.train)
    world = ranks.join(params.machine.collective_seconds)
    session = Session(base, params.train, params.machine, world, folder, "trial")
    session.run(
        list(rows), list(val), {"train data": train}, made, adapter, folder / "train_metrics.json"
    )
    lora.detach(base.model)
    limit = params.machine.feature_cache_gb
    features = FeatureCache(base, cache / "features", limit, wants_raw(adapter))
    answers = folder / f"answers-{identity[:16]}.jsonl"
    report = evaluate(features, adapter, Data(val, rows), params.evaluate, answers)
    write_json(done, {"identity": identity, "report": report})
    answers.unlink(missing_ok=True)
    return report
