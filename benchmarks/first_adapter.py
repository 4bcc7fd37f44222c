"""A LoRA adapter with random weights, none of them zero: what benchmarks begin with."""

from __future__ import annotations

from pathlib import Path

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx

from benchmarks.job import ALPHA, RANK
from mondrian.model import adapter, lora, vlm
from mondrian.model.lora import LoraConfig


def write_adapter(folder: Path, base: str) -> None:
    """For a base, in PEFT's layout, into a new folder."""
    loaded, settings = vlm.load(base), LoraConfig(RANK, ALPHA)
    layers = lora.attach(loaded.model, settings, mx.random.key(0))
    for i, layer in enumerate(layers.values()):
        layer.lora_b = 0.01 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(i))
    folder.mkdir()
    recipe = {"base": {"source": base, "sha256": loaded.hash}}
    count = len(loaded.model.language_model.model.layers)
    adapter.save(folder, lora.lora_state_dict(layers), settings, recipe, count)
