"""recipe.json: everything an adapter was made from, so that it is refused where it does not fit."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mondrian.critique import DIMENSIONS, schema_hash
from mondrian.files import file_hash
from mondrian.params import Image, Train
from mondrian.rows import Row

PACKAGES = ("mlx", "mlx-vlm", "transformers", "numpy", "pillow")


def recipe(
    source: str, base_hash: str, rows: list[Row], data: Path, image: Image, params: Train
) -> dict[str, Any]:
    """The recipe of an adapter; it holds no time, so that equal runs are equal bytes."""
    return {
        "advisor": rows[0].id.split("/")[0],
        "base": {"source": source, "sha256": base_hash},
        "image": {"min_pixels": image.min_pixels, "max_pixels": image.max_pixels},
        "prompt_sha256": rows[0].prompt_hash,
        "schema_sha256": schema_hash(),
        "data_sha256": file_hash(data),
        "train_rows": len(rows),
        "train_score_means": score_means(rows),
        "train": params.model_dump(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def score_means(rows: list[Row]) -> dict[str, float]:
    """Mean train score of each dimension: what a predictor says that looks at nothing."""
    scores = np.array([row.answer().scores() for row in rows])
    return dict(zip(DIMENSIONS, (round(float(m), 4) for m in scores.mean(axis=0)), strict=True))
