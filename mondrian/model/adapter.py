"""Adapter folders: save, load and verify.

A folder is PEFT's layout (adapter_config.json, adapter_model.safetensors) with recipe.json beside
it. An adapter is never assumed to be applied: each tensor has to be consumed, some lora_B has to be
non-zero, the base has to be the one it was trained on, and its answer has to differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from mondrian.core.adapter_folder import CONFIG, RECIPE, WEIGHTS
from mondrian.core.errors import AdapterError, one_line
from mondrian.model.lora import LoraLinear, attach, detach, load_lora_weights, lora_state_dict
from mondrian.model.lora_config import LoraConfig, parse_peft_config, peft_config
from mondrian.model.provenance import read_recipe


def save(
    folder: Path, weights: dict[str, mx.array], settings: LoraConfig, recipe: Any, layers: int
) -> None:
    """Write an adapter into an empty folder; `layers` counts those of the base."""
    config = peft_config(settings, recipe["base"]["source"], layers)
    arrays = {name: np.array(value) for name, value in weights.items()}
    (folder / WEIGHTS).write_bytes(to_bytes(arrays, metadata={"format": "pt"}))
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (folder / RECIPE).write_text(json.dumps(recipe, indent=2, ensure_ascii=False) + "\n")


def load(model: Any, base_hash: str, folder: Path) -> dict[str, LoraLinear]:
    """Attach the adapter in a folder.

    Raises AdapterError where it is not whole, was trained on another base, or does nothing.
    """
    trained_on = read_recipe(folder).base
    if trained_on.sha256 != base_hash:
        raise AdapterError(
            f"{folder} was trained on {trained_on.source} (sha256 {trained_on.sha256[:8]}…), "
            f"not on this base (sha256 {base_hash[:8]}…); take that base or train a new adapter"
        )
    return attach_folder(model, folder)


def attach_folder(model: Any, folder: Path) -> dict[str, LoraLinear]:
    """Attach an adapter that has no recipe, as other trainers leave it.

    Raises AdapterError where it is not whole, does not fit the model, or does nothing.
    """
    weights = read_weights(folder)
    layers = attach(model, read_settings(folder, weights, len(model.language_model.model.layers)))
    try:
        check_weights(layers, weights, folder)
    except AdapterError:
        detach(model)
        raise
    load_lora_weights(layers, weights)
    return layers


def check_adapter_changes_logits(with_adapter: mx.array, without: mx.array, folder: Path) -> None:
    """Raise AdapterError unless a canary's logits are numbers and differ from the base's."""
    if not bool(mx.all(mx.isfinite(with_adapter))):
        raise AdapterError(f"{folder} gives answers that are no numbers; train again")
    if bool(mx.all(with_adapter == without)):
        raise AdapterError(f"{folder} changes nothing: its answer equals the base's exactly")


def check_weights(
    layers: dict[str, LoraLinear], weights: dict[str, mx.array], folder: Path
) -> None:
    """Raise AdapterError unless weights are those of `layers`, are numbers, and do something."""
    expected_shapes = {name: value.shape for name, value in lora_state_dict(layers).items()}
    faults = [
        f"{name} has no place in this base" for name in weights if name not in expected_shapes
    ]
    faults += [f"{name} is missing" for name in expected_shapes if name not in weights]
    faults += [
        f"{name} is {weights[name].shape}, here {expected_shapes[name]}"
        for name in expected_shapes
        if name in weights and weights[name].shape != expected_shapes[name]
    ]
    if faults:
        more = f" (+{len(faults) - 3} more)" if len(faults) > 3 else ""
        raise AdapterError(f"{folder / WEIGHTS}: {'; '.join(faults[:3])}{more}")
    _check_values(weights, folder / WEIGHTS)


def _check_values(weights: dict[str, mx.array], file: Path) -> None:
    if not all(bool(mx.all(mx.isfinite(value))) for value in weights.values()):
        raise AdapterError(f"{file} holds weights that are no numbers; train again")
    if not any(bool(mx.any(value != 0)) for name, value in weights.items() if ".lora_B." in name):
        raise AdapterError(f"{file}: every lora_B is zero, the adapter does nothing; train longer")


def check_weight_format(weights: dict[str, mx.array], settings: LoraConfig, folder: Path) -> None:
    """Raise AdapterError where weights cannot be an adapter's, whatever its base."""
    file, rank = folder / WEIGHTS, settings.rank
    pairs = {name.rsplit(".lora_", 1)[0] for name in weights}
    for path in sorted(pairs):
        a, b = (weights.get(f"{path}.lora_{kind}.weight") for kind in "AB")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2:
            raise AdapterError(f"{file}: {path} has no lora_A and lora_B of two axes; train again")
        if not a.shape[0] == b.shape[1] == rank:
            raise AdapterError(f"{file}: {path} is of rank {a.shape[0]}, {CONFIG} says {rank}")
        if settings.dora and f"{path}.lora_magnitude_vector" not in weights:
            raise AdapterError(f"{file}: {path} has no lora_magnitude_vector, which DoRA needs")
    _check_values(weights, file)


def adapts_merger(folder: Path) -> bool:
    """Whether an adapter is on the merger too, which then wants what enters it.

    Raises AdapterError where the folder's weights cannot be read.
    """
    return any(".visual.merger." in name for name in read_weights(folder))


def read_settings(folder: Path, weights: dict[str, mx.array], layers: int) -> LoraConfig:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return parse_peft_config(config, weights, layers)
    except FileNotFoundError:
        raise AdapterError(f"{folder} has no {CONFIG}; train one first: dvc repro") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        message = error if isinstance(error, ValueError) else repr(error)
        raise AdapterError(f"{folder / CONFIG} is damaged: {message}; train again") from None


def read_weights(folder: Path) -> dict[str, mx.array]:
    """Read whole, by a library that checks every length: a cut file is an error, not garbage.

    Raises AdapterError where the file is missing or cut.
    """
    try:
        return {name: mx.array(value) for name, value in load_file(folder / WEIGHTS).items()}
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        first = one_line(error, 160)
        raise AdapterError(f"{folder / WEIGHTS} cannot be read: {first}") from None
