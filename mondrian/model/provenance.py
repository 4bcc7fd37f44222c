"""recipe.json: what an adapter was trained from, and what must be the same when it serves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ValidationError, model_validator

from mondrian.core.adapter_folder import RECIPE_FILE
from mondrian.core.errors import AdapterError, DataError, join_first
from mondrian.core.files import file_hash, files_hash, is_junk, read_json
from mondrian.core.params import ImageParams, Params, TrainParams
from mondrian.core.validation import format_validation_error
from mondrian.critique.prompt import prompt_hash
from mondrian.critique.rows import ChatRow
from mondrian.critique.schema import DIMENSIONS, schema_hash

TRAINING_CODE = ("core", "critique", "model", "training")  # packages that determine an adapter
EVALUATION_CODE = ("core", "critique", "model", "evaluation")  # packages that determine an answer
PACKAGES = ("mlx", "mlx-vlm", "transformers", "numpy", "pillow")


class BaseId(BaseModel):
    source: str
    sha256: str


class Recipe(BaseModel):
    """The part of a recipe that evaluation and service need; the file holds more."""

    advisor: str
    base: BaseId
    prompt_sha256: str
    train_photo_groups: list[str]
    train_score_medians: dict[str, float]

    @model_validator(mode="after")
    def _check_score_medians(self) -> Self:
        if set(self.train_score_medians) != set(DIMENSIONS):
            raise ValueError("train_score_medians are not of the seven dimensions")
        return self


def read_recipe(folder: Path) -> Recipe:
    """Read a recipe, or raise AdapterError if the folder is not an adapter of this project."""
    try:
        return Recipe.model_validate_json((folder / RECIPE_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        problem = f"has no {RECIPE_FILE}" if folder.is_dir() else "is not a folder"
        raise AdapterError(f"{folder} {problem}; train one first: dvc repro") from None
    except ValidationError as error:
        raise AdapterError(
            f"{folder / RECIPE_FILE} is damaged ({format_validation_error(error)}); train again"
        ) from None


def build_recipe(
    base: BaseId,
    rows: list[ChatRow],
    data: Path,
    image_params: ImageParams,
    params: TrainParams,
) -> dict[str, Any]:
    """Return the recipe of an adapter, without times, so that equal runs write equal bytes."""
    return {
        "advisor": rows[0].id.split("/")[0],
        "base": base.model_dump(),
        "image": {"min_pixels": image_params.min_pixels, "max_pixels": image_params.max_pixels},
        "prompt_sha256": rows[0].prompt_hash,
        "schema_sha256": schema_hash(),
        "data_sha256": file_hash(data),
        "train_rows": len(rows),
        "train_text_only_rows": sum(not row.scored for row in rows),
        "train_photo_groups": sorted({row.photo_group for row in rows}),
        "train_score_medians": score_medians(rows),
        "train": params.model_dump(),
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of the libraries that determine an adapter's bytes."""
    return {name: version(name) for name in PACKAGES}


def code_hash(packages: Sequence[str]) -> str:
    """Return the sha256 of the code of packages: work that other code began is not resumed."""
    folder = Path(__file__).parent.parent
    files = (file for package in packages for file in (folder / package).rglob("*.py"))
    names = (file.relative_to(folder).as_posix() for file in files if not is_junk(file.name))
    return files_hash(folder, names)


def hash_settings(settings: Mapping[str, Any]) -> str:
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def describe_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Return the settings that differ, each with its saved and its current value."""
    differences = [
        f"{name} ({_shorten(saved.get(name))}, now {_shorten(current.get(name))})"
        for name in sorted(current.keys() | saved.keys())
        if current.get(name) != saved.get(name)
    ]
    return join_first(differences, 6)


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:8]}…"


def score_medians(rows: list[ChatRow]) -> dict[str, float]:
    """Return the median score of each dimension, which the constant predictor predicts.

    No other constant has a smaller mean absolute error.

    Raises DataError if no row has scores.
    """
    scores = np.array([row.reference_critique().scores() for row in rows if row.scored])
    if not len(scores):
        raise DataError(
            f"none of the {len(rows)} train rows has scores (scored is false in all of them); "
            "link critiques with scores and prepare again: dvc repro"
        )
    medians = (round(float(median), 4) for median in np.median(scores, axis=0))
    return dict(zip(DIMENSIONS, medians, strict=True))


@dataclass(frozen=True)
class AdapterRequirements:
    """What must be the same in training and service."""

    advisor: str
    prompt_sha256: str
    schema_sha256: str
    image: dict[str, int]  # min_pixels and max_pixels


def local_requirements(advisor: str, params: Params) -> AdapterRequirements:
    """Return those of this checkout, or raise ParamsError if it has no persona of the advisor."""
    image = {"min_pixels": params.image.min_pixels, "max_pixels": params.image.max_pixels}
    return AdapterRequirements(advisor, prompt_hash(params.persona(advisor)), schema_hash(), image)


def read_requirements(folder: Path, local: AdapterRequirements) -> AdapterRequirements:
    """Return those of an adapter folder; what an older recipe lacks is taken from `local`."""
    recipe, raw_recipe = read_recipe(folder), read_json(folder / RECIPE_FILE)
    schema = raw_recipe.get("schema_sha256", local.schema_sha256)
    image = raw_recipe.get("image", local.image)
    return AdapterRequirements(recipe.advisor, recipe.prompt_sha256, schema, image)


def check_requirements(
    required: AdapterRequirements, local: AdapterRequirements, name: str
) -> None:
    """Raise AdapterError unless an adapter was trained with this prompt, schema and image size."""
    if required.advisor != local.advisor:
        raise AdapterError(f"{name} is {required.advisor}'s, not {local.advisor}'s")
    if required.prompt_sha256 != local.prompt_sha256:
        raise AdapterError(
            f"{name} was trained on another prompt (sha256 {required.prompt_sha256[:8]}…) "
            f"than personas.{local.advisor} of params.yaml gives ({local.prompt_sha256[:8]}…); "
            "restore the params.yaml of its training, or train again"
        )
    for field in ("image", "schema_sha256"):
        trained, current = getattr(required, field), getattr(local, field)
        if trained != current:
            raise AdapterError(
                f"{name} was trained with {field} {trained}, here {current}; "
                "restore the checkout of its training, or train again"
            )
