"""recipe.json: everything an adapter was made from, so that it is refused where it does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError, model_validator

from mondrian.core.adapter_folder import RECIPE
from mondrian.core.errors import AdapterError
from mondrian.core.files import file_hash, files_hash
from mondrian.core.params import Image, Train
from mondrian.core.validation import format_validation_error
from mondrian.critique.rows import ChatRow
from mondrian.critique.schema import DIMENSIONS, schema_hash

TRAINING_CODE = ("core", "critique", "model", "training")  # packages that decide an adapter
EVALUATION_CODE = ("core", "critique", "model", "evaluation")  # and those that decide an answer
PACKAGES = ("mlx", "mlx-vlm", "transformers", "numpy", "pillow")


class BaseId(BaseModel):
    source: str
    sha256: str


class Recipe(BaseModel):
    """What evaluate and the service need to know of an adapter; the file holds more."""

    advisor: str
    base: BaseId
    prompt_sha256: str
    train_photo_groups: list[str]
    train_score_means: dict[str, float]

    @model_validator(mode="after")
    def _check_score_means(self) -> Recipe:
        if set(self.train_score_means) != set(DIMENSIONS):
            raise ValueError("train_score_means are not of the seven dimensions")
        return self


def read_recipe(folder: Path) -> Recipe:
    """How an adapter was made.

    Raises AdapterError where the folder is no adapter of this project.
    """
    try:
        return Recipe.model_validate_json((folder / RECIPE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise AdapterError(f"{folder} has no {RECIPE}; train one first: dvc repro") from None
    except ValidationError as error:
        raise AdapterError(
            f"{folder / RECIPE} is damaged ({format_validation_error(error)}); train again"
        ) from None


def build_recipe(
    source: str, base_hash: str, rows: list[ChatRow], data: Path, image: Image, params: Train
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
        "train_photo_groups": sorted({row.photo_group for row in rows}),
        "train_score_means": score_means(rows),
        "train": params.model_dump(),
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Versions of what decides the bytes of an adapter."""
    return {name: version(name) for name in PACKAGES}


def code_hash(packages: Sequence[str]) -> str:
    """Return the sha256 of the code of packages: work begun by other code is not resumed."""
    folder = Path(__file__).parent.parent
    files = (file for package in packages for file in (folder / package).rglob("*.py"))
    return files_hash(folder, {file.relative_to(folder).as_posix() for file in files})


def score_means(rows: list[ChatRow]) -> dict[str, float]:
    """Mean train score of each dimension: what a predictor says that looks at nothing."""
    scores = np.array([row.reference_critique().scores() for row in rows])
    return dict(zip(DIMENSIONS, (round(float(m), 4) for m in scores.mean(axis=0)), strict=True))
