"""Export an adapter in PEFT's or mlx-vlm's layout, or merged into a copy of its base."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import save as to_bytes

from mondrian.core.adapter_folder import CONFIG_FILE, RECIPE_FILE, WEIGHTS_FILE
from mondrian.core.errors import AdapterError
from mondrian.core.files import is_junk, open_atomic_folder
from mondrian.model import adapter, vlm
from mondrian.model.lora import LoraLinear
from mondrian.model.provenance import read_recipe

_PREFIX = "base_model.model.model."
_MLX_WEIGHTS = "adapters.safetensors"
_MLX_KINDS = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b", "lora_magnitude_vector": "m"}


def to_mlx_name(name: str) -> str:
    """Return mlx-vlm's name of a weight with a PEFT name."""
    kind = next((kind for kind in _MLX_KINDS if name.endswith(f".{kind}")), None)
    if kind is None:
        raise AdapterError(f"{name} is not a weight of a LoRA adapter")
    path = name.removeprefix(_PREFIX).removesuffix(f".{kind}")
    path = path.replace("language_model.", "language_model.model.", 1)
    return f"{path.replace('visual.', 'vision_tower.', 1)}.{_MLX_KINDS[kind]}"


def export_adapter(folder: Path, output: Path, layout: str) -> None:
    """Write an adapter and its recipe in a layout (peft or mlx); AdapterError if it is damaged."""
    read_recipe(folder)  # raises if there is none
    weights = adapter.read_weights(folder)
    config = adapter.read_lora_config(folder, weights, 0)
    adapter.check_weight_format(weights, config, folder)
    if output.resolve() == folder.resolve():
        raise AdapterError(f"{output} is the adapter itself; give another folder")
    with open_atomic_folder(
        output, (CONFIG_FILE, WEIGHTS_FILE, _MLX_WEIGHTS, RECIPE_FILE)
    ) as staging:
        shutil.copy(folder / RECIPE_FILE, staging / RECIPE_FILE)
        if layout == "peft":
            for name in (CONFIG_FILE, WEIGHTS_FILE):
                shutil.copy(folder / name, staging / name)
            return
        arrays = {
            to_mlx_name(name): np.array(mx.contiguous(value.T) if value.ndim == 2 else value)
            for name, value in weights.items()
        }
        (staging / _MLX_WEIGHTS).write_bytes(to_bytes(arrays, {"format": "mlx"}))
        mlx_config = {
            "fine_tune_type": "dora" if config.dora else "lora",
            "num_layers": -1,
            "lora_parameters": {
                "rank": config.rank,
                "scale": config.scale,
                "dropout": config.dropout,
                "keys": sorted({name.rsplit(".", 1)[0] for name in arrays}),
            },
        }
        (staging / CONFIG_FILE).write_text(json.dumps(mlx_config, indent=2) + "\n")


def export_merged(base: str, folder: Path, output: Path) -> None:
    """Write a copy of a base with the adapter added to its weights, in the base's layout and types.

    Raises AdapterError if the base is packed, because packing the sum again would round the adapter
    away; BaseModelError or AdapterError if one is damaged or they do not fit.
    """
    loaded = vlm.load(base)
    source = vlm.fetch_base_folder(base)
    if json.loads((source / "config.json").read_text()).get("quantization"):
        raise AdapterError(
            f"{base} is quantized: rounding would remove what the adapter adds; merge into the "
            "base that is not quantized, or keep the adapter separate"
        )
    if source.resolve() in (output.resolve(), *output.resolve().parents):
        raise AdapterError(f"{output} is the base itself or inside it; give another folder")
    is_empty = not output.is_dir() or all(is_junk(file.name) for file in output.iterdir())
    if not is_empty and not (output / RECIPE_FILE).is_file():
        raise AdapterError(f"{output} is not empty and not a merged base; give another folder")
    layers = adapter.load(loaded.model, loaded.hash, folder)
    weight_files = (f for f in source.glob("*.safetensors") if not is_junk(f.name))
    stored = {name for file in weight_files for name in _load(file)}
    missing = [path for path in layers if f"model.{path}.weight" not in stored]
    if missing:
        raise AdapterError(f"{base} has no model.{missing[0]}.weight; use the base as published")
    files = (file for file in source.iterdir() if file.is_file() and not is_junk(file.name))
    names = [file.name for file in files if not file.name.startswith(".")]
    with open_atomic_folder(output, [*names, RECIPE_FILE]) as staging:
        shutil.copy(folder / RECIPE_FILE, staging / RECIPE_FILE)
        for name in names:
            if name.endswith(".safetensors"):
                _merge_file(source / name, staging / name, layers)
            elif name != "README.md":
                shutil.copy(source / name, staging / name)


def _load(file: Path) -> Any:
    """Map a file's tensors with MLX, since numpy has no bfloat16."""
    return mx.load(str(file))


def _merge_file(source: Path, target: Path, layers: dict[str, LoraLinear]) -> None:
    weights = _load(source)
    for path, layer in layers.items():
        name = f"model.{path}.weight"
        if name in weights:
            weight = weights[name]
            merged = (weight.astype(mx.float32) + layer.delta_weight()).astype(weight.dtype)
            if not bool(mx.all(mx.isfinite(merged))):
                raise AdapterError(
                    f"{name} plus the adapter is NaN or inf in {weight.dtype}; train with a lower "
                    "train.learning_rate"
                )
            weights[name] = merged
    try:
        mx.save_safetensors(str(target), weights, {"format": "pt"})
    except RuntimeError as error:
        raise OSError(f"{target.name} could not be written: {error}") from None
