"""Views of one base: the same weights under other layers.

A view takes no memory for what it shares, and the base is never touched: to change arms is to take
another view, and there is nothing to put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mondrian.model.lora import PROJECTIONS, LoraLinear


def share_weights(module: Any) -> Any:
    """The same modules anew around the same arrays."""
    if isinstance(module, list):
        return [share_weights(child) for child in module]
    if not isinstance(module, nn.Module):
        return module
    kind: Any = type(module)
    twin = kind.__new__(kind)
    twin.__dict__.update(module.__dict__)
    for name, value in module.items():
        dict.__setitem__(twin, name, share_weights(value))
    return twin


def projections(model: Any) -> Iterator[tuple[Any, str, Any]]:
    """What holds each projection of the language layers, its name there, and the projection."""
    for layer in model.language_model.model.layers:
        for parent in (layer.self_attn, layer.mlp):
            yield from (
                (parent, name, getattr(parent, name))
                for name in PROJECTIONS["both"]
                if name in parent
            )


def merge(model: Any) -> None:
    """Put an adapter that is attached to a view into weights of the view's own."""
    merger = model.vision_tower.merger
    inside = [(merger, name, module) for name, module in merger.items()]
    for parent, name, layer in [*projections(model), *inside]:
        if isinstance(layer, LoraLinear):
            plain = layer.linear
            merged = share_weights(plain)
            merged.weight = (plain.weight + layer.delta_weight()).astype(plain.weight.dtype)
            mx.eval(merged.weight)
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
