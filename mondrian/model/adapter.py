"""Adapter folders: save, load and verify.

A folder has PEFT's layout (adapter_config.json, adapter_model.safetensors) and a recipe.json. An
adapter is never assumed to be applied: each tensor must be consumed, some lora_B must be non-zero,
the base must be the one it was trained on, and the logits must differ from the base's.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from mondrian.core.adapter_folder import CONFIG_FILE, RECIPE_FILE, WEIGHTS_FILE
from mondrian.core.errors import AdapterError, join_first, one_line
from mondrian.model import lora
from mondrian.model.language import Features
from mondrian.model.lora import LoraConfig, LoraLinear, Tensors
from mondrian.model.provenance import read_recipe
from mondrian.model.vlm import Vlm, next_logits


def save(folder: Path, weights: Tensors, config: LoraConfig, recipe: Any, base_layers: int) -> None:
    """Write an adapter into an empty folder; base_layers is the number of the base's layers."""
    peft_config = lora.build_peft_config(config, recipe["base"]["source"], base_layers)
    arrays = {name: np.array(value) for name, value in weights.items()}
    (folder / WEIGHTS_FILE).write_bytes(to_bytes(arrays, metadata={"format": "pt"}))
    (folder / CONFIG_FILE).write_text(json.dumps(peft_config, indent=2) + "\n")
    (folder / RECIPE_FILE).write_text(json.dumps(recipe, indent=2, ensure_ascii=False) + "\n")


def load(model: Any, base_hash: str, folder: Path) -> dict[str, LoraLinear]:
    """Attach an adapter; AdapterError if it is damaged, of another base, or has no effect."""
    base = read_recipe(folder).base
    if base.sha256 != base_hash:
        raise AdapterError(
            f"{folder} was trained on {base.source} (sha256 {base.sha256[:8]}…), "
            f"not on this base (sha256 {base_hash[:8]}…); use that base or train a new adapter"
        )
    return attach_from_folder(model, folder)


def attach_from_folder(model: Any, folder: Path) -> dict[str, LoraLinear]:
    """Attach an adapter without recipe, as other trainers write it, or raise AdapterError."""
    weights = read_weights(folder)
    config = read_lora_config(folder, weights, len(model.language_model.model.layers))
    layers = lora.attach(model, config)
    try:
        check_weights(layers, weights, folder / WEIGHTS_FILE)
    except AdapterError:
        lora.detach(model)
        raise
    lora.load_lora_weights(layers, weights)
    return layers


def load_and_verify(vlm: Vlm, folder: Path, prompt: Sequence[int], features: Features) -> None:
    """Attach only this adapter; raise AdapterError unless it changes the prompt's logits."""
    lora.detach(vlm.model)
    vlm.model.eval()
    base_logits = next_logits(vlm, prompt, features)
    load(vlm.model, vlm.hash, folder)
    vlm.model.eval()
    check_logits_differ(next_logits(vlm, prompt, features), base_logits, folder)


def check_logits_differ(adapter_logits: mx.array, base_logits: mx.array, folder: Path) -> None:
    """Raise AdapterError unless the adapter's logits are finite and differ from the base's."""
    if not bool(mx.all(mx.isfinite(adapter_logits))):
        raise AdapterError(f"{folder}: its logits contain NaN or inf; train again")
    if bool(mx.all(adapter_logits == base_logits)):
        raise AdapterError(f"{folder} changes nothing: its logits equal the base's")


def check_weights(layers: dict[str, LoraLinear], weights: Tensors, file: Path) -> None:
    """Raise AdapterError unless weights fit `layers`, are finite, and have an effect."""
    expected = {name: value.shape for name, value in lora.lora_state_dict(layers).items()}
    unknown = sorted({_split_name(name)[0] for name in weights if name not in expected})
    problems = [
        f"{module!r} cannot be adapted in this base, only its language layers and visual.merger"
        for module in unknown
    ]
    for name, shape in expected.items():
        module, kind = _split_name(name)
        if name not in weights:
            problems.append(f"{module} has no {kind}")
        elif weights[name].shape != shape:
            problems.append(f"{kind} of {module} {_describe_mismatch(weights[name], shape, kind)}")
    if problems:
        raise AdapterError(f"{file}: {join_first(problems, 3, '; ')}")
    _check_values(weights, file)


def _split_name(name: str) -> tuple[str, str]:
    """Return the module and the kind of a weight, such as lora_A; "" if it is not of a LoRA."""
    path = re.sub(r"^base_model\.model\.(?:model\.)?", "", name).removesuffix(".weight")
    module, _, kind = path.rpartition(".")
    return (module, kind) if module and kind.startswith("lora_") else (path, "")


def _describe_mismatch(weight: mx.array, expected: tuple[int, ...], kind: str) -> str:
    """Return how a weight differs: in rank, or in the size of the base's module."""
    rank_axis = {"lora_A": 0, "lora_B": 1}.get(kind)
    if (
        rank_axis is not None
        and weight.ndim == 2
        and weight.shape[rank_axis] != expected[rank_axis]
    ):
        return f"has rank {weight.shape[rank_axis]}, {CONFIG_FILE} says {expected[rank_axis]}"
    return f"has shape {weight.shape}, this base needs {expected}"


def _check_values(weights: Tensors, file: Path) -> None:
    if not weights:
        raise AdapterError(f"{file} contains no tensors; train again, or save the adapter again")
    if not all(bool(mx.all(mx.isfinite(value))) for value in weights.values()):
        raise AdapterError(f"{file} contains NaN or inf; train again")
    if not any(bool(mx.any(value != 0)) for name, value in weights.items() if ".lora_B." in name):
        raise AdapterError(f"{file}: every lora_B is zero, so it has no effect; train longer")


def check_weight_format(weights: Tensors, config: LoraConfig, folder: Path) -> None:
    """Raise AdapterError if weights cannot be an adapter's on any base."""
    file, rank = folder / WEIGHTS_FILE, config.rank
    for path in sorted({name.rsplit(".lora_", 1)[0] for name in weights}):
        a, b = (weights.get(f"{path}.lora_{kind}.weight") for kind in "AB")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2:
            raise AdapterError(f"{file}: {path!r} has no 2-D lora_A and lora_B; train again")
        if not a.shape[0] == b.shape[1] == rank:
            raise AdapterError(f"{file}: {path!r} has rank {a.shape[0]}, {CONFIG_FILE} says {rank}")
        if config.dora and f"{path}.lora_magnitude_vector" not in weights:
            raise AdapterError(f"{file}: {path!r} has no lora_magnitude_vector, which DoRA needs")
    _check_values(weights, file)


def adapts_merger(folder: Path) -> bool:
    """Return whether an adapter has weights on the merger, and so needs the merger's input."""
    return any(".visual.merger." in name for name in read_weights(folder))


def read_lora_config(folder: Path, weights: Tensors, base_layers: int) -> LoraConfig:
    try:
        peft_config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return lora.parse_peft_config(peft_config, weights, base_layers)
    except FileNotFoundError:
        raise AdapterError(f"{folder} has no {CONFIG_FILE}; train one first: dvc repro") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        message = error if isinstance(error, ValueError) else repr(error)
        raise AdapterError(f"{folder / CONFIG_FILE} is damaged: {message}; train again") from None


def read_weights(folder: Path) -> Tensors:
    """Read weights; safetensors checks every length, so a truncated file raises AdapterError."""
    file = folder / WEIGHTS_FILE
    if not file.exists():
        raise AdapterError(f"{folder} has no {WEIGHTS_FILE}; copy it again, or train: dvc repro")
    try:
        return {name: mx.array(value) for name, value in load_file(file).items()}
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        problem = f"{file} ({file.stat().st_size:,} bytes) cannot be read: {one_line(error, 160)}"
        raise AdapterError(f"{problem}; copy it again, or train: dvc repro") from None
