"""Input of the servers that are measured: params.yaml, adapters with recipes, photos."""

import json
import multiprocessing
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from benchmarks.measurement import ROOT
from mondrian.core.params import Params, load_params
from mondrian.critique.prompt import build_system_prompt, prompt_hash
from mondrian.critique.schema import DIMENSIONS, schema_hash
from mondrian.sample.scene import draw_scene, render

MIN_PROMPT_TOKENS = 1_200  # of a long prompt, before its photo
ADVISOR = "ansel"
SEED = 77  # of the scenes
VERBS = ("love", "want", "look for", "ask for", "value", "care for")
SUBJECTS = (
    "deep shadows, fine detail, open space, bold color, simple forms, soft edges, a high horizon, "
    "a low horizon, bright light, a full range of tones, sharp focus, balance, mist, snow, water, "
    "a clear sky, depth, quiet color"
).split(", ")


@dataclass(frozen=True)
class Deployment:
    """A folder with params.yaml and adapters/, for one base."""

    folder: Path

    @property
    def params_file(self) -> Path:
        return self.folder / "params.yaml"

    @property
    def adapters(self) -> Path:
        return self.folder / "adapters"

    @property
    def adapter(self) -> Path:
        return self.adapters / ADVISOR

    @property
    def params(self) -> Params:
        return load_params(self.params_file)


def write_deployment(
    folder: Path,
    base: Path,
    max_pixels: int,
    personas: Mapping[str, str] | None = None,
    **serve: Any,
) -> Deployment:
    """Write the project's params.yaml with another base, image size, advisors, serve section."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["base"] = {"name": base.name, "source": str(base)}
    params["image"]["max_pixels"] = max_pixels
    if personas:
        params |= {"advisors": list(personas), "personas": dict(personas), "profiles": {}}
    params["serve"] |= {"requests_per_minute": 0, **serve}
    folder.mkdir(parents=True)
    deployment = Deployment(folder)
    deployment.params_file.write_text(yaml.safe_dump(params, allow_unicode=True))
    return deployment


def write_adapter(deployment: Deployment, folder: Path, scale: float = 1.0) -> None:
    """Write a random adapter of ADVISOR whose recipe fits the deployment's prompt and images.

    scale  factor on lora_B
    """
    from benchmarks.random_adapter import write_random_adapter

    params = deployment.params
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_random_adapter(folder, params.base.source)
    recipe = json.loads((folder / "recipe.json").read_text()) | {
        "advisor": ADVISOR,
        "prompt_sha256": prompt_hash(params.persona(ADVISOR)),
        "schema_sha256": schema_hash(),
        "image": {"min_pixels": params.image.min_pixels, "max_pixels": params.image.max_pixels},
        "train_photo_groups": [],
        "train_score_medians": dict.fromkeys(DIMENSIONS, 5.0),
    }
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    if scale != 1.0:
        file = folder / "adapter_model.safetensors"
        scaled = {
            name: np.float32(scale) * value if "lora_B" in name else value
            for name, value in load_file(file).items()
        }
        save_file(scaled, file, metadata={"format": "pt"})


def write_float32(base: Path, folder: Path) -> None:
    """Copy a base in float32, which is fast on a CPU and is what this project computes in."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for file in base.glob("*.safetensors"):
        weights = {name: value.astype(np.float32) for name, value in load_file(file).items()}
        save_file(weights, folder / file.name, metadata={"format": "pt"})


def long_personas(base: Path, count: int) -> dict[str, str]:
    """Return personas by advisor, so long that each prompt has MIN_PROMPT_TOKENS tokens."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    personas = {}
    for number in range(count):
        rng, text = np.random.default_rng((SEED, number)), f"You are advisor {number}."
        while len(tokenizer.encode(build_system_prompt(text)).ids) < MIN_PROMPT_TOKENS:
            preferred, other = rng.choice(SUBJECTS, 2, replace=False)
            text += f" You {rng.choice(VERBS)} {preferred} more than {other}."
        personas[f"advisor{number}"] = text
    return personas


def render_photos(count: int) -> list[bytes]:
    """Return JPEG files of different scenes."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        return list(pool.map(_render_photo, range(count), chunksize=16))


def _render_photo(number: int) -> bytes:
    file = BytesIO()
    render(draw_scene(SEED, number)).save(file, "JPEG", quality=90)
    return file.getvalue()
