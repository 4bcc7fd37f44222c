"""Rows and parameters of benchmarks/full_size.py: critiques of real length, and short ones."""

import json
import re
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measurement import ROOT
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.sample.chat_row import build_chat_row
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique

REAL_LENGTH = 4448  # characters: the median of 81 critiques of a real application
REAL_SIZE = (1024, 768)  # pixels: 768 image tokens, the most with image.max_pixels 786432
SHORT_SIZE = (256, 256)  # 64 image tokens, the fewest with image.min_pixels 65536
SEED = 21
PRESET = "qwen3-vl-4b-4bit"


def sample_critiques(count: int) -> list[Critique]:
    """Return critiques by the sample's first advisor."""
    return [write_critique("ansel", draw_scene(SEED, i)) for i in range(count)]


def real_length_critiques(count: int) -> list[Critique]:
    """Return critiques of 4,448 characters, filled up with sentences of other critiques."""
    critiques = sample_critiques(10 * count)
    sentences = cycle(_iter_sentences(critiques))
    return [_lengthen(critique, sentences) for critique in critiques[:count]]


def _iter_sentences(critiques: list[Critique]) -> Iterator[str]:
    for critique in critiques:
        for dimension in critique.dimensions:
            yield dimension.comment
            yield dimension.recommendation
        yield from re.findall(r"[^.]+\.", critique.image_description)


def _lengthen(critique: Critique, sentences: Iterator[str]) -> Critique:
    """Add a sentence to each comment and recommendation in turn, up to REAL_LENGTH characters."""
    fields = critique.model_dump()
    texts = cycle((d, key) for d in fields["dimensions"] for key in ("comment", "recommendation"))
    missing = REAL_LENGTH - len(serialize_critique(critique))
    for dimension, key in texts:
        added = f" {next(sentences).strip()}"[:missing]
        dimension[key] += added
        missing -= len(added)
        if missing <= 0:
            return Critique.model_validate(fields)
    raise AssertionError("texts never end")


def short_critiques(count: int) -> list[Critique]:
    """Return critiques with a few words in each text."""
    return [_shorten(critique) for critique in sample_critiques(count)]


def _shorten(critique: Critique) -> Critique:
    dimensions = tuple(
        d.model_copy(update={"comment": "Good tones.", "recommendation": "Wait for light."})
        for d in critique.dimensions
    )
    short = ("Light",)
    return critique.model_copy(
        update={
            "image_description": "Hills under a wide sky.",
            "dimensions": dimensions,
            "key_strengths": short,
            "priority_improvements": short,
            "technical_notes": "Sharp, exposed for the sky.",
        }
    )


def persona() -> str:
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    return str(params["personas"]["ansel"])


def write_rows(folder: Path, critiques: list[Critique], size: tuple[int, int]) -> None:
    """Write prepared rows: the last one into val.json, the others into train.json."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for i, critique in enumerate(critiques):
        image = folder / f"images/{i}.png"
        render(draw_scene(SEED, i), *size).save(image)
        rows.append(build_chat_row(critique, image, persona()).model_dump())
    (folder / "train.json").write_text(json.dumps(rows[:-1]))
    (folder / "val.json").write_text(json.dumps(rows[-1:]))


def write_params(file: Path, source: Path, batch_size: int = 1) -> None:
    """Write params.yaml with the preset of the 4-bit 4B, for one epoch of one row a step."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    preset = yaml.safe_load((ROOT / "mondrian/cli/presets.yaml").read_text())[PRESET]
    for section, values in preset.items():
        for name, value in values.items():
            old = params[section].get(name)
            params[section][name] = old | value if isinstance(old, dict) else value
    params["base"]["source"] = str(source)
    # Two steps of warm-up and decay change little: a higher rate shows that the adapter works.
    params["train"] |= {"epochs": 1, "batch_size": batch_size, "learning_rate": 2.0e-3}
    file.write_text(yaml.safe_dump(params))
