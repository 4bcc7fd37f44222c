"""Multi-LoRA: views of one base with other layers, and steps with sequences of several arms.

A view shares the arrays of the base and never changes it, so switching arms means using another
view, and nothing has to be restored. A step of the base takes nearly the same time for one
sequence as for several, so MultiLoRA computes all arms in one step, with one matrix product of the
base. Projections with the same input share one product x A for each adapter.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mondrian.model.batch_generator import BatchGenerator, SequenceState
from mondrian.model.lora import LoraLinear
from mondrian.model.projections import GROUPS, AdaptedLinear, LowRank, Projections, join
from mondrian.model.vlm import Vlm

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
        for names in GROUPS:
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


class SharedProjections(Projections):
    """Projections of all arms: each arm's LoRA is added at that arm's tokens.

    masks  of the step, by arm; changes each step
    """

    def __init__(self, linears: Sequence[Any], masks: list[tuple[Hashable, TokenMask]]) -> None:
        super().__init__(linears)
        self.masks = masks
        self.low_ranks: dict[Hashable, LowRank] = {}

    def __call__(self, x: mx.array) -> list[mx.array]:
        outputs = super().__call__(x)
        for arm, mask in self.masks:
            low_rank = self.low_ranks.get(arm)
            if low_rank is not None:
                low_rank.add(outputs, x, mask)
        return outputs


class MultiLoRALinear(AdaptedLinear):
    """A projection of all arms; it is computed together with those that have the same input."""

    def __init__(self, linear: Any, projections: SharedProjections) -> None:
        super().__init__()
        self.linear = linear
        self._projections = projections

    def join(self, linears: Sequence[Any], dtype: Any) -> Projections:
        return self._projections


class MultiLoRA:
    """A view of a base that computes the base and any number of plain LoRA adapters."""

    def __init__(self, vlm: Vlm) -> None:
        self.model, self.float_type = share_weights(vlm.model), vlm.float_type
        self._masks: list[tuple[Hashable, TokenMask]] = []
        self._groups: list[SharedProjections] = []
        for parent, names in list(_projection_groups(self.model)):
            group = SharedProjections([parent[name] for name in names], self._masks)
            self._groups.append(group)
            for name in names:
                setattr(parent, name, MultiLoRALinear(parent[name], group))

    def add_adapter(self, arm: Hashable, adapted: Any) -> bool:
        """Add the layers that `adapter.load` attached; False, adding nothing, if not plain LoRA."""
        layers = [layer for _, _, layer in _projections(adapted) if isinstance(layer, LoraLinear)]
        if any("magnitude" in layer for layer in layers):
            return False
        if any(isinstance(x, LoraLinear) for x in adapted.vision_tower.merger.values()):
            return False
        for group, (parent, names) in zip(self._groups, _projection_groups(adapted), strict=True):
            low_rank = join([parent[name] for name in names], self.float_type).low_rank
            if low_rank is not None:
                mx.eval(low_rank.arrays)
                group.low_ranks[arm] = low_rank
        return True

    def remove_adapter(self, arm: Hashable) -> None:
        for group in self._groups:
            group.low_ranks.pop(arm, None)

    @contextmanager
    def assign_tokens(self, tokens: Sequence[tuple[Hashable, int]]) -> Iterator[None]:
        """Within the context, a step's tokens are those of these (arm, count), in this order."""
        arms = list(dict.fromkeys(arm for arm, _ in tokens))
        owners = np.repeat([arms.index(arm) for arm, _ in tokens], [count for _, count in tokens])
        for i, arm in enumerate(arms):
            own = owners == i
            self._masks.append(
                (arm, None if own.all() else mx.array(own[:, None], self.float_type))
            )
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
