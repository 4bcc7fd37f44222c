"""Rows of several arms in one step: the base's product for all of them, each adapter's for its own.

A step on a base costs nearly the same for one row as for several, so that an A/B test that ran its
arms in turns would pay for each. Projections beside each other (q, k, v; gate, up) see the same x:
an adapter's first products of them are one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mondrian.model.batch_generator import BatchGenerator, SequenceState
from mondrian.model.lora import LoraLinear
from mondrian.model.vlm import Vlm
from mondrian.serving.worker.model_views import projections, share_weights

PROJECTION_GROUPS = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("o_proj",),
    ("down_proj",),
)
Mask = mx.array | None  # (tokens, 1), 1 at the tokens of an arm; None where all are its own


class _SharedDownProjection:
    """x A of an adapter's projections that see the same x, computed once."""

    def __init__(self, layers: Sequence[LoraLinear]) -> None:
        self.together = mx.concatenate([layer.lora_a for layer in layers], axis=1)
        self._x: Any = None
        self._low: Any = None

    def project(self, x: mx.array, mask: Mask, last: bool) -> mx.array:
        """(…, ranks of all), zero at other arms' tokens; `last` lets go of it."""
        if self._x is not x:
            low = x @ self.together.astype(x.dtype)
            self._x, self._low = x, low if mask is None else low * mask.astype(x.dtype)
        low = self._low
        if last:
            self._x = self._low = None
        return low


class _UpProjection:
    """What one adapter adds to one projection."""

    def __init__(
        self, layer: LoraLinear, low: _SharedDownProjection, first: int, last: bool
    ) -> None:
        self.b, self.scale = layer.lora_b, layer.scale
        self._low, self._last = low, last
        self._span = slice(first, first + layer.lora_b.shape[0])

    def add(self, plain: mx.array, x: mx.array, mask: Mask) -> mx.array:
        low = self._low.project(x, mask, self._last)[..., self._span]
        return mx.addmm(plain, low, self.b.astype(x.dtype), self.scale)


class MultiLoRALinear(nn.Module):
    """A projection with what each arm adds; `turn` says whose tokens a step has."""

    def __init__(self, linear: Any, turn: list[tuple[Hashable, Mask]]) -> None:
        super().__init__()
        self.linear = linear
        self._turn, self._parts = turn, {}  # type: ignore[var-annotated]

    def __call__(self, x: mx.array) -> mx.array:
        out = self.linear(x)
        for arm, mask in self._turn:
            part = self._parts.get(arm)
            out = out if part is None else part.add(out, x, mask)
        return out


class MultiLoRA:
    """A view of a base that serves it and any plain LoRA adapters, row by row."""

    def __init__(self, vlm: Vlm) -> None:
        self.model = share_weights(vlm.model)
        self._turn: list[tuple[Hashable, Mask]] = []
        for parent, names in _groups(self.model):
            for name in names:
                setattr(parent, name, MultiLoRALinear(getattr(parent, name), self._turn))

    def add_adapter(self, arm: Hashable, adapted: Any) -> bool:
        """Take what `adapter.load` attached to a view; False where it is more than plain LoRA."""
        layers = [layer for _, _, layer in projections(adapted) if isinstance(layer, LoraLinear)]
        if any("magnitude" in layer for layer in layers):
            return False
        if any(isinstance(x, LoraLinear) for x in adapted.vision_tower.merger.values()):
            return False
        for (parent, names), (from_, _) in zip(_groups(self.model), _groups(adapted), strict=True):
            linears = [(name, getattr(from_, name)) for name in names]
            loras = [(name, linear) for name, linear in linears if isinstance(linear, LoraLinear)]
            if not loras:
                continue
            low, first = _SharedDownProjection([lora_layer for _, lora_layer in loras]), 0
            for name, lora_layer in loras:
                part = _UpProjection(lora_layer, low, first, last=name == loras[-1][0])
                getattr(parent, name)._parts[arm] = part
                first += lora_layer.lora_b.shape[0]
            mx.eval(low.together, [lora_layer.lora_b for _, lora_layer in loras])
        return True

    def remove_adapter(self, arm: Hashable) -> None:
        """Let an arm go."""
        for parent, names in _groups(self.model):
            for name in names:
                getattr(parent, name)._parts.pop(arm, None)

    @contextmanager
    def assign_tokens(self, tokens: Sequence[tuple[Hashable, int]]) -> Iterator[None]:
        """For as long as the context lasts, a step's tokens are those of these arms, in order."""
        arms = list(dict.fromkeys(arm for arm, _ in tokens))
        owners = np.repeat([arms.index(arm) for arm, _ in tokens], [count for _, count in tokens])
        for i, arm in enumerate(arms):
            own = owners == i
            self._turn.append((arm, None if own.all() else mx.array(own[:, None], mx.float32)))
        try:
            yield
        finally:
            self._turn.clear()


class MultiLoRADecoder(BatchGenerator):
    """A decoder of rows of several arms, each named in the row."""

    def __init__(self, vlm: Vlm, max_rows: int, together: MultiLoRA) -> None:
        super().__init__(vlm, max_rows)
        self.together = together

    def _forward(self, rows: Sequence[SequenceState]) -> mx.array:
        with self.together.assign_tokens([(row.arm, len(row.pending)) for row in rows]):
            return super()._forward(rows)


def _groups(model: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """What holds projections that see the same x, and their names."""
    for layer in model.language_model.model.layers:
        for names in PROJECTION_GROUPS:
            for parent in (layer.self_attn, layer.mlp):
                if all(name in parent for name in names):
                    yield parent, names
