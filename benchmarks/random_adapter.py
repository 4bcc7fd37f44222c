"""A LoRA adapter with random non-zero weights, the initial adapter of all benchmarks."""

from pathlib import Path

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx

from benchmarks.workload import ALPHA, RANK
from mondrian.model import adapter, lora, vlm
from mondrian.model.lora import LoraConfig


def write_random_adapter(folder: Path, source: str) -> None:
    """Write an adapter for a base model into a new folder, in PEFT's layout."""
    base, config = vlm.load(source), LoraConfig(RANK, ALPHA)
    layers = lora.attach(base.model, config, mx.random.key(0))
    for i, layer in enumerate(layers.values()):
        layer.lora_b = 0.01 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(i))
    folder.mkdir()
    recipe = {"base": {"source": source, "sha256": base.hash}}
    num_layers = len(base.model.language_model.model.layers)
    adapter.save(folder, lora.lora_state_dict(layers), config, recipe, num_layers)
