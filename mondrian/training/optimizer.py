"""AdamW with bias correction; by LoRA+ the B matrices learn faster than the rest."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from mondrian.core.params import Train


class AdamW:
    """mlx's AdamW over a model's trainable weights; its state can be taken out and put back.

    With train.lora_plus_ratio above 1 lora_b has a rate of its own (arXiv:2402.12354).
    """

    def __init__(self, model: Any, params: Train) -> None:
        self.model, self.params = model, params
        count = 2 if params.lora_plus_ratio > 1 else 1
        parts = [
            optim.AdamW(
                params.learning_rate, weight_decay=params.weight_decay, bias_correction=True
            )
            for _ in range(count)
        ]
        self._parts = parts
        self._all: Any = parts[0]
        if count == 2:
            self._all = optim.MultiOptimizer(parts, [lambda path, _: path.endswith("lora_b")])
        self._all.init(model.trainable_parameters())

    def update(self, gradients: Any, rate: float) -> None:
        """One step at a rate; not evaluated yet."""
        self._parts[-1].learning_rate = rate
        if len(self._parts) == 2:
            self._parts[0].learning_rate = rate * self.params.lora_plus_ratio
        self._all.update(self.model, gradients)

    @property
    def arrays(self) -> Any:
        """What has to be evaluated after a step."""
        return self._all.state

    def state_dict(self) -> dict[str, mx.array]:
        """Moments, step and rate, by name."""
        return dict(tree_flatten(self._all.state))

    def restore(self, tensors: dict[str, mx.array]) -> None:
        """Take back what `tensors` gave."""
        self._all.state = tree_unflatten(list(tensors.items()))
