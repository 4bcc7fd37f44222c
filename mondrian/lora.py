"""LoRA adapters: attach, detach, save, load and verify.

An adapter folder is PEFT's layout (adapter_config.json, adapter_model.safetensors) with recipe.json
beside it. An adapter is never assumed to be applied: each tensor has to be consumed, some lora_B
has to be non-zero, the base has to be the one it was trained on, and its answer has to differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, sqrt
from pathlib import Path
from typing import Any

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from mondrian.errors import AdapterError
from mondrian.recipe import RECIPE, read_recipe

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class LoraSettings:
    """rank, alpha and dropout; the output is scaled by alpha / rank."""

    rank: int
    alpha: float
    dropout: float = 0.0


class LoraLinear(nn.Module):
    """A frozen linear layer plus scale * dropout(x) A B (Hu et al. 2021, arXiv:2106.09685, eq. 3).

    lora_a (in, rank) uniform in +-1/sqrt(in) as PEFT begins; lora_b (rank, out) zero.
    """

    def __init__(self, linear: nn.Module, settings: LoraSettings, key: mx.array | None) -> None:
        super().__init__()
        out, inner = linear_shape(linear)
        self.linear = linear
        self.dropout = nn.Dropout(settings.dropout)
        self.scale = settings.alpha / settings.rank
        bound = 1 / sqrt(inner)
        shape = (inner, settings.rank)
        self.lora_a = (
            mx.random.uniform(-bound, bound, shape, key=key) if key is not None else mx.zeros(shape)
        )
        self.lora_b = mx.zeros((settings.rank, out))

    def __call__(self, x: mx.array) -> mx.array:
        plain = self.linear(x)
        added = (self.dropout(x) @ self.lora_a) @ self.lora_b
        return plain + (self.scale * added).astype(plain.dtype)


def linear_shape(linear: Any) -> tuple[int, int]:
    """(out, in) of a linear layer, packed or not."""
    out, inner = linear.weight.shape
    return out, inner * 32 // linear.bits if hasattr(linear, "bits") else inner


def attach(
    model: Any, settings: LoraSettings, key: mx.array | None = None
) -> dict[str, LoraLinear]:
    """Put an adapter on the language layers' projections; by name, in a fixed order.

    key  seeds lora_a; without one it is zero, to be loaded
    """
    added = {}
    places = list(_places(model))
    keys: Any = mx.random.split(key, len(places)) if key is not None else [None] * len(places)
    for (path, parent, name), one in zip(places, keys, strict=True):
        added[path] = LoraLinear(getattr(parent, name), settings, one)
        setattr(parent, name, added[path])
    return added


def detach(model: Any) -> None:
    """Take the adapter off; the base is bitwise what it was."""
    for _, parent, name in _places(model):
        layer = getattr(parent, name)
        if isinstance(layer, LoraLinear):
            setattr(parent, name, layer.linear)


@contextmanager
def detached(model: Any) -> Iterator[None]:
    """The plain base for as long as the context lasts."""
    kept = [(parent, name, getattr(parent, name)) for _, parent, name in _places(model)]
    detach(model)
    try:
        yield
    finally:
        for parent, name, layer in kept:
            setattr(parent, name, layer)


def tensors(layers: dict[str, LoraLinear]) -> dict[str, mx.array]:
    """Weights under PEFT's names and in its layout: lora_A (rank, in), lora_B (out, rank)."""
    out = {}
    for path, layer in layers.items():
        out[_peft_name(path, "A")] = mx.contiguous(layer.lora_a.T.astype(mx.float32))
        out[_peft_name(path, "B")] = mx.contiguous(layer.lora_b.T.astype(mx.float32))
    return out


def save(folder: Path, weights: dict[str, mx.array], settings: LoraSettings, recipe: Any) -> None:
    """Write an adapter into an empty folder."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": recipe["base"]["source"],
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": list(TARGETS),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
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
    found = _weights(folder)
    layers = attach(model, _settings(folder))
    try:
        _fill(layers, found, folder)
    except AdapterError:
        detach(model)
        raise
    return layers


def prove_applied(with_adapter: mx.array, without: mx.array, folder: Path) -> None:
    """Raise AdapterError unless a canary's logits are numbers and differ from the base's."""
    if not bool(mx.all(mx.isfinite(with_adapter))):
        raise AdapterError(f"{folder} gives answers that are no numbers; train again")
    if bool(mx.all(with_adapter == without)):
        raise AdapterError(f"{folder} changes nothing: its answer equals the base's exactly")


def _fill(layers: dict[str, LoraLinear], found: dict[str, mx.array], folder: Path) -> None:
    wanted = {name: value.shape for name, value in tensors(layers).items()}
    faults = [f"{name} is missing" for name in wanted if name not in found]
    faults += [f"{name} has no place in this base" for name in found if name not in wanted]
    faults += [
        f"{name} is {found[name].shape}, here {wanted[name]}"
        for name in wanted
        if name in found and found[name].shape != wanted[name]
    ]
    if faults:
        more = f" (+{len(faults) - 3} more)" if len(faults) > 3 else ""
        raise AdapterError(f"{folder / WEIGHTS}: {'; '.join(faults[:3])}{more}")
    if not all(bool(mx.all(mx.isfinite(value))) for value in found.values()):
        raise AdapterError(f"{folder / WEIGHTS} holds weights that are no numbers; train again")
    for path, layer in layers.items():
        layer.lora_a = found[_peft_name(path, "A")].T
        layer.lora_b = found[_peft_name(path, "B")].T
    if not any(bool(mx.any(layer.lora_b != 0)) for layer in layers.values()):
        raise AdapterError(f"{folder / WEIGHTS}: every lora_B is zero; the adapter does nothing")


def _settings(folder: Path) -> LoraSettings:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        rank, alpha = config["r"], float(config["lora_alpha"])
    except FileNotFoundError:
        raise AdapterError(f"{folder} has no {CONFIG}; train one first: dvc repro") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise AdapterError(f"{folder / CONFIG} is damaged: {error!r}; train again") from None
    if not (isinstance(rank, int) and rank > 0 and 0 < alpha < inf):
        raise AdapterError(
            f"{folder / CONFIG}: r is {rank!r} and lora_alpha {alpha!r}; train again"
        )
    return LoraSettings(rank, alpha)


def _weights(folder: Path) -> dict[str, mx.array]:
    """Read whole, by a library that checks every length: a cut file is an error, not garbage."""
    try:
        return {name: mx.array(value) for name, value in load_file(folder / WEIGHTS).items()}
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        first = str(error).strip().splitlines()[0][:160]
        raise AdapterError(f"{folder / WEIGHTS} cannot be read: {first}") from None


def _places(model: Any) -> Iterator[tuple[str, Any, str]]:
    for i, layer in enumerate(model.language_model.model.layers):
        for block in ("self_attn", "mlp"):
            parent = getattr(layer, block)
            for name in TARGETS:
                if name in parent:
                    yield f"layers.{i}.{block}.{name}", parent, name


def _peft_name(path: str, side: str) -> str:
    return f"base_model.model.model.language_model.{path}.lora_{side}.weight"
