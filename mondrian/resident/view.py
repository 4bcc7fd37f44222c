"""Views of one base: the same weights under other layers, so that arms serve side by side.

A view takes no memory for what it shares, and the base is never touched: to change arms is to take
another view, and there is nothing to put back.
"""

from __future__ import annotations

from typing import Any

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import mlx.nn as nn

from mondrian.lora import LoraLinear

SIDE_BY_SIDE = (("self_attn", ("q_proj", "k_proj", "v_proj")), ("mlp", ("gate_proj", "up_proj")))


def view(module: Any) -> Any:
    """The same modules anew around the same arrays."""
    if isinstance(module, list):
        return [view(one) for one in module]
    if not isinstance(module, nn.Module):
        return module
    kind: Any = type(module)
    twin = kind.__new__(kind)
    twin.__dict__.update(module.__dict__)
    for name, value in module.items():
        dict.__setitem__(twin, name, view(value))
    return twin


class _Low:
    """x A of projections that see the same x, their A side by side: one product for all."""

    def __init__(self, layers: list[LoraLinear]) -> None:
        self.together = mx.concatenate([layer.lora_a for layer in layers], axis=1)
        self._last: tuple[Any, Any] = (None, None)

    def of(self, x: mx.array, last: bool) -> mx.array:
        """(…, ranks of all); `last` lets go of it."""
        seen, low = self._last  # one step for threads: another may put its own in between
        if seen is not x:
            low = x @ self.together.astype(x.dtype)
        self._last = (None, None) if last else (x, low)
        return low


class Stacked(nn.Module):
    """A LoRA layer that shares the first product of its adapter with those beside it."""

    def __init__(self, layer: LoraLinear, low: _Low, first: int, last: bool) -> None:
        super().__init__()
        self.linear, self.lora_b, self.scale = layer.linear, layer.lora_b, layer.scale
        self._low, self._span, self._end = low, slice(first, first + layer.lora_b.shape[0]), last

    def __call__(self, x: mx.array) -> mx.array:
        low = self._low.of(x, self._end)[..., self._span]
        return mx.addmm(self.linear(x), low, self.lora_b.astype(x.dtype), self.scale)


def stack(model: Any) -> None:
    """Let projections beside each other share a product, wherever all of them are plain LoRA."""
    for layer in model.language_model.model.layers:
        for block, names in SIDE_BY_SIDE:
            parent = getattr(layer, block)
            found = [getattr(parent, name) for name in names]
            if not all(isinstance(f, LoraLinear) and "magnitude" not in f for f in found):
                continue
            low, first = _Low(found), 0
            for name, one in zip(names, found, strict=True):
                setattr(parent, name, Stacked(one, low, first, last=name == names[-1]))
                first += one.lora_b.shape[0]
            mx.eval(low.together)


def merge(layers: dict[str, LoraLinear], model: Any) -> None:
    """Put an adapter into weights of the view's own; the base keeps its.

    layers  as `adapter.load` attached them to `model`
    """
    for path, layer in layers.items():
        plain = layer.linear
        merged = view(plain)
        merged.weight = (plain.weight + layer.update_weight()).astype(plain.weight.dtype)
        mx.eval(merged.weight)
        parent, name = _holder(model, path)
        setattr(parent, name, merged)


def merged_bytes(layers: dict[str, LoraLinear]) -> int | None:
    """What merging would take; None where a weight is packed, which merging would spoil."""
    linears = [layer.linear for layer in layers.values()]
    if any(hasattr(linear, "bits") for linear in linears):
        return None
    return sum(linear.weight.nbytes for linear in linears)


def adapter_bytes(layers: dict[str, LoraLinear]) -> int:
    """What an adapter's own weights take."""
    return sum(
        value.nbytes
        for layer in layers.values()
        for name, value in layer.items()
        if name in ("lora_a", "lora_b", "magnitude")
    )


def _holder(model: Any, path: str) -> tuple[Any, str]:
    """What holds the layer of a PEFT path, and its name there."""
    *_, name = parts = path.split(".")
    if parts[0] == "visual":
        return model.vision_tower.merger, name
    layer = model.language_model.model.layers[int(parts[2])]
    return getattr(layer, parts[3]), name
