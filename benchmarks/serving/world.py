"""What servers are measured in: params.yaml, adapters with their recipes, and photographs."""

from __future__ import annotations

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

from mondrian.core.params import Params, load_params
from mondrian.critique.prompt import prompt_hash, system_text
from mondrian.critique.schema import DIMENSIONS, schema_hash
from mondrian.sample.scene import draw_scene, render

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models/base/mondrian-tiny"
PORTS = range(5141, 5160)
LONG = 1_200  # tokens of a prompt before its photograph, at least
ADVISOR = "ansel"
SEED = 77  # of the scenes


@dataclass(frozen=True)
class World:
    """A folder with params.yaml and adapters/, for one base."""

    folder: Path

    @property
    def params_file(self) -> Path:
        return self.folder / "params.yaml"

    @property
    def adapters(self) -> Path:
        return self.folder / "adapters"

    @property
    def params(self) -> Params:
        return load_params(self.params_file)


def write_world(
    folder: Path, base: Path, pixels: int, personas: Mapping[str, str] | None = None, **serve: Any
) -> World:
    """params.yaml of the project with another base, size of picture, advisors and `serve`."""
    told = yaml.safe_load((ROOT / "params.yaml").read_text())
    told["base"] = {"name": base.name, "source": str(base)}
    told["image"]["max_pixels"] = pixels
    if personas:
        told |= {"advisors": list(personas), "personas": dict(personas), "profiles": {}}
    told["serve"] |= {"requests_per_minute": 0, **serve}
    folder.mkdir(parents=True)
    world = World(folder)
    world.params_file.write_text(yaml.safe_dump(told, allow_unicode=True))
    return world


def write_adapter(world: World, folder: Path, scale: float = 1.0) -> None:
    """An adapter of ADVISOR with random weights, made for this world's prompt and pictures."""
    from benchmarks.first_adapter import write_adapter as write_random

    params = world.params
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_random(folder, params.base.source)
    recipe = json.loads((folder / "recipe.json").read_text()) | {
        "advisor": ADVISOR,
        "prompt_sha256": prompt_hash(params.persona(ADVISOR)),
        "schema_sha256": schema_hash(),
        "image": {"min_pixels": params.image.min_pixels, "max_pixels": params.image.max_pixels},
        "train_photo_groups": [],
        "train_score_means": dict.fromkeys(DIMENSIONS, 5.0),
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
    """The same base in float32: what is quick on a CPU, and what this project computes in."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for file in base.glob("*.safetensors"):
        wide = {name: value.astype(np.float32) for name, value in load_file(file).items()}
        save_file(wide, folder / file.name, metadata={"format": "pt"})


def long_personas(base: Path, count: int) -> dict[str, str]:
    """Advisors by id, each with so much to say that its prompt has LONG tokens."""
    tokens = Tokenizer.from_file(str(base / "tokenizer.json"))
    out = {}
    for number in range(count):
        draw, text = np.random.default_rng((SEED, number)), f"You are advisor {number}."
        while len(tokens.encode(system_text(text)).ids) < LONG:
            love, than = draw.choice(_LIKES, 2, replace=False)
            text += f" You {draw.choice(_VERBS)} {love} more than {than}."
        out[f"advisor{number}"] = text
    return out


_VERBS = ("love", "want", "look for", "ask for", "value", "care for")
_LIKES = (
    "deep shadows",
    "fine detail",
    "open space",
    "bold color",
    "simple forms",
    "soft edges",
    "a high horizon",
    "a low horizon",
    "bright light",
    "a full range of tones",
    "sharp focus",
    "balance",
    "mist",
    "snow",
    "water",
    "a clear sky",
    "depth",
    "quiet color",
)


def photographs(count: int) -> list[bytes]:
    """JPEG files of different rendered scenes."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        return list(pool.map(_photograph, range(count), chunksize=16))


def _photograph(number: int) -> bytes:
    file = BytesIO()
    render(draw_scene(SEED, number)).save(file, "JPEG", quality=90)
    return file.getvalue()
