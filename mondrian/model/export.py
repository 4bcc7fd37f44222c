"""An adapter in other layouts: PEFT's as it is, mlx-vlm's, or merged into a copy of its base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save as to_bytes

from mondrian.core.adapter_folder import CONFIG, RECIPE, WEIGHTS
from mondrian.core.errors import AdapterError
from mondrian.core.files import atomic_folder
from mondrian.model import adapter, vlm
from mondrian.model.lora import LoraLinear
from mondrian.model.lora_config import LoraConfig
from mondrian.model.provenance import read_recipe

_PREFIX = "base_model.model.model."
_MLX_KINDS = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b", "lora_magnitude_vector": "m"}


def mlx_name(name: str) -> str:
    """mlx-vlm's name of a weight that PEFT names."""
    path, kind = _split(name)
    place = path.replace("language_model.", "language_model.model.", 1)
    return f"{place.replace('visual.', 'vision_tower.', 1)}.{_MLX_KINDS[kind]}"


def _split(name: str) -> tuple[str, str]:
    for kind in _MLX_KINDS:
        if name.endswith(f".{kind}"):
            return name.removeprefix(_PREFIX).removesuffix(f".{kind}"), kind
    raise AdapterError(f"{name} is not a weight of a LoRA adapter")


def to_mlx(
    weights: dict[str, mx.array], settings: LoraConfig
) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """Weights and adapter_config.json as mlx-vlm's load_adapters reads them."""
    turned = {mlx_name(n): mx.contiguous(v.T) if v.ndim == 2 else v for n, v in weights.items()}
    keys = sorted({name.rsplit(".", 1)[0] for name in turned})
    parameters = {
        "rank": settings.rank,
        "scale": settings.scale,
        "dropout": settings.dropout,
        "keys": keys,
    }
    kind = "dora" if settings.dora else "lora"
    return turned, {"fine_tune_type": kind, "num_layers": -1, "lora_parameters": parameters}


def export(folder: Path, output: Path, kind: str) -> None:
    """Write an adapter in PEFT's or mlx-vlm's layout, its recipe with it.

    Raises AdapterError where it is not whole.
    """
    read_recipe(folder)
    weights = adapter.read_weights(folder)
    settings = adapter.read_settings(folder, weights, 0)
    adapter.check_weight_format(weights, settings, folder)
    if output.resolve() == folder.resolve():
        raise AdapterError(f"{output} is the adapter itself; name another folder")
    own = (CONFIG, WEIGHTS, "adapters.safetensors", RECIPE)
    with atomic_folder(output, own) as beside:
        shutil.copy(folder / RECIPE, beside / RECIPE)
        if kind == "peft":
            for name in (CONFIG, WEIGHTS):
                shutil.copy(folder / name, beside / name)
            return
        turned, config = to_mlx(weights, settings)
        arrays = {name: np.array(value) for name, value in turned.items()}
        (beside / "adapters.safetensors").write_bytes(to_bytes(arrays, {"format": "mlx"}))
        (beside / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def merge(base: str, folder: Path, output: Path) -> None:
    """Write a base with the adapter added to its weights, in the base's own layout and types.

    Raises AdapterError where the base is packed: the sum, packed again, would round the adapter
    away. BaseModelError and AdapterError where one is not whole or they do not fit.
    """
    loaded = vlm.load(base)
    source = vlm.base_folder(base)
    if json.loads((source / "config.json").read_text()).get("quantization"):
        raise AdapterError(
            f"{base} is packed: what an adapter adds is smaller than a step between its weights "
            "and would be rounded away; merge into the unpacked base, or keep the adapter beside it"
        )
    _check_target(source, output)
    layers = adapter.load(loaded.model, loaded.hash, folder)
    stored = _read_weight_names(source)
    lacking = [path for path in layers if f"model.{path}.weight" not in stored]
    if lacking:
        raise AdapterError(
            f"{base} has no model.{lacking[0]}.weight to add to; take the base as Qwen published it"
        )
    names = [p.name for p in source.iterdir() if p.is_file() and not p.name.startswith(".")]
    with atomic_folder(output, [*names, RECIPE]) as beside:
        shutil.copy(folder / RECIPE, beside / RECIPE)
        for name in names:
            if name.endswith(".safetensors"):
                _merge_file(source / name, beside / name, layers)
            elif name != "README.md":
                shutil.copy(source / name, beside / name)


def _check_target(source: Path, output: Path) -> None:
    """Raise AdapterError where the merged base would take the place of something else."""
    if source.resolve() in (output.resolve(), *output.resolve().parents):
        raise AdapterError(f"{output} is the base itself or lies in it; name another folder")
    if output.is_dir() and any(output.iterdir()) and not (output / RECIPE).is_file():
        raise AdapterError(f"{output} holds something that is no merged base; name another folder")


def _read_weight_names(folder: Path) -> set[str]:
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "numpy") as opened:
            names |= set(opened.keys())
    return names


def _merge_file(source: Path, target: Path, layers: dict[str, LoraLinear]) -> None:
    """Through mx, which knows bfloat16."""
    weights: Any = mx.load(str(source))
    for path, layer in layers.items():
        name = f"model.{path}.weight"
        if name in weights:
            plain = weights[name]
            weights[name] = (plain.astype(mx.float32) + layer.delta_weight()).astype(plain.dtype)
            if not bool(mx.all(mx.isfinite(weights[name]))):
                raise AdapterError(
                    f"{name} with the adapter is no number in {plain.dtype}; train "
                    "with a lower train.learning_rate"
                )
    try:
        mx.save_safetensors(str(target), weights, {"format": "pt"})
    except RuntimeError as error:
        raise OSError(f"{target.name} could not be written: {error}") from None
