"""Multi-LoRA: views of one base with other layers, and steps with sequences of several arms.

A view shares the arrays of the base and never changes it, so switching arms means using another
view, and nothing has to be restored. A step of the base takes nearly the same time for one
sequence as for several, so MultiLoRA computes all arms in one step, with one matrix product of the
base. Projections with the same input x (q, k, v; gate, up) share one product x A for each adapter.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mondrian.model.batch_generator import BatchGenerator, SequenceState
from mondrian.model.lora import LoraLinear
from mondrian.model.vlm import Vlm

# Projections with the same input.
_GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("o_proj",), ("down_proj",))
TokenMask = mx.array | None  # (tokens, 1), 1 at the tokens of an arm; None if all are its own


def share_weights(module: Any) -> Any:
    """Return a copy of the modules around the same arrays."""
    if isinstance(module, list):
        return [share_weights(child) for child in module]
    if not isinstance(module, nn.Module):
        return module
    module_type: Any = type(module)
    copy = module_type.__new__(module_type)
    copy.__dict__.update(module.__dict__)
    for name, value in module.items():
        dict.__setitem__(copy, name, share_weights(value))
    return copy


def _projection_groups(model: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield (parent, names) of projections with the same input."""
    for layer in model.language_model.model.layers:
        for names in _GROUPS:
            for parent in (layer.self_attn, layer.mlp):
                if all(name in parent for name in names):
                    yield parent, names


def _projections(model: Any) -> Iterator[tuple[Any, str, Any]]:
    """Yield (parent, name, projection) of the language layers."""
    for parent, names in _projection_groups(model):
        yield from ((parent, name, getattr(parent, name)) for name in names)


def merge_lora_layers(model: Any) -> None:
    """Replace the LoRA layers of a view by merged weights of its own."""
    merger = model.vision_tower.merger
    merger_layers = [(merger, name, module) for name, module in merger.items()]
    for parent, name, layer in [*_projections(model), *merger_layers]:
        if isinstance(layer, LoraLinear):
            linear = layer.linear
            merged = share_weights(linear)
            merged.weight = (linear.weight + layer.delta_weight()).astype(linear.weight.dtype)
            mx.eval(merged.weight)
            setattr(parent, name, merged)


def merged_bytes(layers: dict[str, LoraLinear]) -> int | None:
    """Return the bytes that merging needs; None for quantized weights, which cannot be merged."""
    linears = [layer.linear for layer in layers.values()]
    if any(hasattr(linear, "bits") for linear in linears):
        return None
    return sum(linear.weight.nbytes for linear in linears)


def adapter_bytes(layers: dict[str, LoraLinear]) -> int:
    """Return the bytes of an adapter's own weights."""
    names = ("lora_a", "lora_b", "magnitude")
    return sum(layer[name].nbytes for layer in layers.values() for name in names if name in layer)


class _SharedDownProjection:
    """x A of the projections of one adapter that have the same x, computed once."""

    def __init__(self, layers: Sequence[LoraLinear]) -> None:
        self.lora_a = mx.concatenate([layer.lora_a for layer in layers], axis=1)
        self._x: Any = None
        self._low: Any = None

    def project(self, x: mx.array, mask: TokenMask, last: bool) -> mx.array:
        """Return (…, sum of ranks), 0 at tokens of other arms; `last` frees the cached result."""
        if self._x is not x:
            low = x @ self.lora_a.astype(x.dtype)
            self._x, self._low = x, low if mask is None else low * mask.astype(x.dtype)
        low = self._low
        if last:
            self._x = self._low = None
        return low


@dataclass(frozen=True)
class _UpProjection:
    """What one adapter adds to one projection: its ranks of the shared x A, times B."""

    down: _SharedDownProjection
    lora_b: mx.array
    scale: float
    ranks: slice
    last: bool  # of the projections with the same x

    def add(self, out: mx.array, x: mx.array, mask: TokenMask) -> mx.array:
        low = self.down.project(x, mask, self.last)[..., self.ranks]
        return mx.addmm(out, low, self.lora_b.astype(x.dtype), self.scale)


class MultiLoRALinear(nn.Module):
    """A projection that adds each arm's LoRA at that arm's tokens; `masks` changes each step."""

    def __init__(self, linear: Any, masks: list[tuple[Hashable, TokenMask]]) -> None:
        super().__init__()
        self.linear = linear
        self._masks, self._adapters = masks, {}  # type: ignore[var-annotated]

    def __call__(self, x: mx.array) -> mx.array:
        out = self.linear(x)
        for arm, mask in self._masks:
            adapter = self._adapters.get(arm)
            out = out if adapter is None else adapter.add(out, x, mask)
        return out


class MultiLoRA:
    """A view of a base that computes the base and any number of plain LoRA adapters."""

    def __init__(self, vlm: Vlm) -> None:
        self.model = share_weights(vlm.model)
        self._masks: list[tuple[Hashable, TokenMask]] = []
        for parent, name, linear in _projections(self.model):
            setattr(parent, name, MultiLoRALinear(linear, self._masks))

    def add_adapter(self, arm: Hashable, adapted: Any) -> bool:
        """Add the layers that `adapter.load` attached; False, adding nothing, if not plain LoRA."""
        layers = [layer for _, _, layer in _projections(adapted) if isinstance(layer, LoraLinear)]
        if any("magnitude" in layer for layer in layers):
            return False
        if any(isinstance(x, LoraLinear) for x in adapted.vision_tower.merger.values()):
            return False
        groups = zip(_projection_groups(self.model), _projection_groups(adapted), strict=True)
        for (parent, names), (adapted_parent, _) in groups:
            linears = [(name, getattr(adapted_parent, name)) for name in names]
            loras = [(name, linear) for name, linear in linears if isinstance(linear, LoraLinear)]
            if not loras:
                continue
            down, offset = _SharedDownProjection([lora for _, lora in loras]), 0
            for name, lora in loras:
                ranks = slice(offset, offset + lora.lora_b.shape[0])
                up = _UpProjection(down, lora.lora_b, lora.scale, ranks, name == loras[-1][0])
                getattr(parent, name)._adapters[arm] = up
                offset = ranks.stop
            mx.eval(down.lora_a, [lora.lora_b for _, lora in loras])
        return True

    def remove_adapter(self, arm: Hashable) -> None:
        for _, _, linear in _projections(self.model):
            linear._adapters.pop(arm, None)

    @contextmanager
    def assign_tokens(self, tokens: Sequence[tuple[Hashable, int]]) -> Iterator[None]:
        """Within the context, a step's tokens are those of these (arm, count), in this order."""
        arms = list(dict.fromkeys(arm for arm, _ in tokens))
        owners = np.repeat([arms.index(arm) for arm, _ in tokens], [count for _, count in tokens])
        for i, arm in enumerate(arms):
            own = owners == i
            self._masks.append((arm, None if own.all() else mx.array(own[:, None], mx.float32)))
        try:
            yield
        finally:
            self._masks.clear()


class MultiLoRAGenerator(BatchGenerator):
    """A batch generator for sequences of several arms; each sequence names its arm."""

    def __init__(self, vlm: Vlm, max_sequences: int, multi_lora: MultiLoRA) -> None:
        super().__init__(vlm, max_sequences)
        self.multi_lora = multi_lora

    def _forward(self, seqs: Sequence[SequenceState]) -> mx.array:
        with self.multi_lora.assign_tokens([(seq.arm, len(seq.pending)) for seq in seqs]):
            return super()._forward(seqs)
