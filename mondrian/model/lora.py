"""LoRA layers: attach and detach them, and their weights by PEFT's names.

A layer keeps its base linear as it is, packed or not, and never folds into it: taking the adapter
off gives the base back bitwise. mondrian/model/adapter.py keeps adapters in folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import sqrt
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mondrian.model.lora_config import PROJECTIONS, PROJECTOR, LoraConfig


class LoraLinear(nn.Module):
    """A frozen linear layer plus scale * dropout(x) A B (Hu et al. 2021, arXiv:2106.09685, eq. 3).

    lora_a (in, rank) uniform in +-1/sqrt(in) as PEFT begins; lora_b (rank, out) zero; with dora
    magnitude (out,), the lengths of the base's weights.
    """

    def __init__(self, linear: nn.Module, settings: LoraConfig, key: mx.array | None) -> None:
        super().__init__()
        out, inner = linear_shape(linear)
        self.linear = linear
        self.share_kept = 1 - settings.dropout
        self.scale = settings.scale
        self._mask_key: mx.array | None = None  # of this step's dropout; none outside training
        bound = 1 / sqrt(inner)
        shape = (inner, settings.rank)
        self.lora_a = (
            mx.random.uniform(-bound, bound, shape, key=key) if key is not None else mx.zeros(shape)
        )
        self.lora_b = mx.zeros((settings.rank, out))
        if settings.dora:
            self._lengths = mx.square(_dequantize(linear)).sum(1)
            self.magnitude = mx.sqrt(self._lengths)

    def __call__(self, x: mx.array) -> mx.array:
        plain = self.linear(x)
        low = self._apply_dropout(x) @ self.lora_a.astype(x.dtype)
        lift = self.lora_b.astype(x.dtype)
        if "magnitude" not in self:
            return mx.addmm(plain, low, lift, self.scale)
        bias = self.linear.bias if "bias" in self.linear else mx.array(0.0, x.dtype)
        turned = mx.addmm(plain - bias, low, lift, self.scale)
        return turned * (self.magnitude / self._norm()).astype(x.dtype) + bias

    def _apply_dropout(self, x: mx.array) -> mx.array:
        """Dropout by a key of its own: a layer that is computed again drops the same."""
        if self._mask_key is None or self.share_kept == 1:
            return x
        keep_mask = mx.random.bernoulli(self.share_kept, x.shape, self._mask_key)
        return mx.where(keep_mask, x * (1 / self.share_kept), mx.array(0.0, x.dtype))

    def _norm(self) -> mx.array:
        """Lengths of W + scale B A by rows, (out,); no gradient through it (DoRA, section 4.3).

        |W + sBA|^2 = |W|^2 + 2s (W A).B + s^2 B'(A'A)B, which never makes the sum itself.
        """
        a, b, s = mx.stop_gradient(self.lora_a), mx.stop_gradient(self.lora_b), self.scale
        plain = self.linear
        image = plain(a.T) - (plain.bias if "bias" in plain else 0)  # (rank, out)
        cross = (image.astype(mx.float32) * b).sum(0)
        own = (b * ((a.T @ a) @ b)).sum(0)
        return mx.stop_gradient(mx.sqrt(self._lengths + 2 * s * cross + s * s * own))

    def delta_weight(self) -> mx.array:
        """What the adapter adds to the base's weight, (out, in), in float32."""
        added = self.scale * (self.lora_a @ self.lora_b).T
        if "magnitude" not in self:
            return added
        dense = _dequantize(self.linear)
        return (dense + added) * (self.magnitude / self._norm())[:, None] - dense


def _dequantize(linear: Any) -> mx.array:
    """The weight in float32, unpacked where it is packed."""
    if not hasattr(linear, "bits"):
        return linear.weight.astype(mx.float32)
    packed = (linear.weight, linear.scales, linear.biases)
    return mx.dequantize(*packed, linear.group_size, linear.bits).astype(mx.float32)


def linear_shape(linear: Any) -> tuple[int, int]:
    """(out, in) of a linear layer, packed or not."""
    out, inner = linear.weight.shape
    return out, inner * 32 // linear.bits if hasattr(linear, "bits") else inner


def attach(model: Any, settings: LoraConfig, key: mx.array | None = None) -> dict[str, LoraLinear]:
    """Put an adapter on a model's projections; by PEFT's name of each, in a fixed order.

    key  seeds lora_a; without one it is zero, to be loaded
    """
    added = {}
    places = list(_iter_target_layers(model, settings))
    keys: Any = mx.random.split(key, len(places)) if key is not None else [None] * len(places)
    for (path, parent, name), layer_key in zip(places, keys, strict=True):
        added[path] = LoraLinear(getattr(parent, name), settings, layer_key)
        setattr(parent, name, added[path])
    return added


def detach(model: Any) -> None:
    """Take the adapter off; the base is bitwise what it was."""
    for _, parent, name in _iter_target_layers(model, None):
        layer = getattr(parent, name)
        if isinstance(layer, LoraLinear):
            setattr(parent, name, layer.linear)


@contextmanager
def disable_lora(model: Any) -> Iterator[None]:
    """The plain base for as long as the context lasts."""
    saved_layers = [
        (parent, name, getattr(parent, name))
        for _, parent, name in _iter_target_layers(model, None)
    ]
    detach(model)
    try:
        yield
    finally:
        for parent, name, layer in saved_layers:
            setattr(parent, name, layer)


def unfreeze_lora(layers: dict[str, LoraLinear]) -> None:
    """Let the adapter's weights learn, and nothing else."""
    for layer in layers.values():
        layer.unfreeze(keys=["lora_a", "lora_b", "magnitude"], recurse=False)


def set_dropout_key(layers: dict[str, LoraLinear], key: mx.array | None) -> None:
    """Set the dropout of the next pass by a key; None for no dropout."""
    keys: Any = [None] * len(layers) if key is None else mx.random.split(key, len(layers))
    for layer, layer_key in zip(layers.values(), keys, strict=True):
        layer._mask_key = layer_key


def lora_state_dict(layers: dict[str, LoraLinear]) -> dict[str, mx.array]:
    """Weights under PEFT's names and in its layout: lora_A (rank, in), lora_B (out, rank)."""
    out = {}
    for path, layer in layers.items():
        for name, value in _weights_by_peft_name(path, layer).items():
            turned = value.T if value.ndim == 2 else value
            out[name] = mx.contiguous(turned.astype(mx.float32))
    return out


def load_lora_weights(layers: dict[str, LoraLinear], weights: dict[str, mx.array]) -> None:
    """Take weights that `lora_state_dict` gave; all of them have to be there."""
    for path, layer in layers.items():
        a, b, *magnitude = (weights[name] for name in _weights_by_peft_name(path, layer))
        layer.lora_a, layer.lora_b = a.T, b.T
        if magnitude:
            layer.magnitude = magnitude[0]


def _weights_by_peft_name(path: str, layer: LoraLinear) -> dict[str, mx.array]:
    prefix = f"base_model.model.model.{path}"
    named = {f"{prefix}.lora_A.weight": layer.lora_a, f"{prefix}.lora_B.weight": layer.lora_b}
    if "magnitude" in layer:
        named[f"{prefix}.lora_magnitude_vector"] = layer.magnitude
    return named


def _iter_target_layers(model: Any, settings: LoraConfig | None) -> Iterator[tuple[str, Any, str]]:
    """PEFT's path, parent and name of each layer that is adapted; of all that may be, for None."""
    layers = model.language_model.model.layers
    count = settings.num_layers if settings and settings.num_layers else len(layers)
    names = settings.target_modules if settings else PROJECTIONS["both"]
    for i in range(len(layers) - count, len(layers)):
        for block in ("self_attn", "mlp"):
            parent = getattr(layers[i], block)
            for name in names:
                if name in parent:
                    yield f"language_model.layers.{i}.{block}.{name}", parent, name
    if settings is None or settings.train_projector:
        for name in PROJECTOR:
            yield f"visual.merger.{name}", model.vision_tower.merger, name
