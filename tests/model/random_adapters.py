"""Adapters with random weights."""

from pathlib import Path
from typing import Any

import mlx.core as mx

from mondrian.critique.schema import DIMENSIONS
from mondrian.model import adapter, lora
from mondrian.model.lora import LoraConfig


def save_random_adapter(base_vlm: Any, folder: Path, settings: LoraConfig) -> Path:
    """Write an adapter with random weights; it is not left attached."""
    layers = lora.attach(base_vlm.model, settings, mx.random.key(1))
    for i, layer in enumerate(layers.values()):
        layer.lora_b = 0.05 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(i))
        if settings.dora:
            layer.magnitude = layer.magnitude * 1.1
    recipe = {
        "advisor": "ansel",
        "base": {"source": base_vlm.source, "sha256": base_vlm.hash},
        "prompt_sha256": "",
        "train_photo_groups": [],
        "train_score_medians": dict.fromkeys(DIMENSIONS, 5.0),
    }
    folder.mkdir()
    adapter.save(folder, lora.lora_state_dict(layers), settings, recipe, 4)
    lora.detach(base_vlm.model)
    return folder
