"""train: examples -> a LoRA adapter on a frozen base, never lost.

Each update is a function of the seed, the step and what the checkpoint holds, so a run that was
killed and started again ends with the bytes of one that was not. The weights of the epoch with the
lowest val loss are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map
from tqdm import tqdm

from mondrian.core.errors import TrainingError
from mondrian.core.params import Train
from mondrian.model import lora
from mondrian.model.lora_config import lora_settings
from mondrian.model.streams import share_of
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.checkpoint import Checkpoint, Progress, State
from mondrian.training.dataset import Example
from mondrian.training.distributed import World
from mondrian.training.interrupt import Stop
from mondrian.training.loss import Objective
from mondrian.training.optimizer import AdamW
from mondrian.training.progress import Halt, Run, after_epoch, after_step
from mondrian.training.schedule import batches_of, rate_at, steps_an_epoch
from mondrian.training.trackers import Nothing, Tracker

LOG = "training_log.jsonl"


@dataclass(frozen=True)
class Means:
    """What a run has besides its data: where it keeps itself, its ranks, who watches.

    every    updates between two checkpoints
    examine  makes numbers of the adapter after an epoch, for the log
    """

    checkpoint: Checkpoint | None = None
    every: int = 25
    world: World = field(default_factory=World)
    tracker: Tracker = field(default_factory=Nothing)
    examine: Callable[[], dict[str, float]] | None = None


def train(
    features: FeatureCache,
    rows: Sequence[Example],
    val: Sequence[Example],
    params: Train,
    means: Means | None = None,
) -> Run:
    """Train an adapter, or go on with one; it stays attached, and the run holds its weights.

    A loss that is no number or grows without end halts it: the run then says why, with the best
    weights so far. Raises TrainingError where there are none yet; SystemExit when it was asked to
    stop, after saving.
    """
    return Trainer(features, rows, val, params, means or Means()).run()


class Trainer:
    """One run: the adapter on the model, its optimizer, and where it is."""

    def __init__(
        self,
        features: FeatureCache,
        rows: Sequence[Example],
        val: Sequence[Example],
        params: Train,
        means: Means,
    ) -> None:
        model = features.vlm.model
        self.rows, self.val, self.params, self.means = rows, val, params, means
        self.model, self.world = model, means.world
        model.freeze()
        self.layers = lora.attach(model, lora_settings(params), mx.random.key(params.seed))
        lora.learnable(self.layers)
        self.objective = Objective(features, self.layers, params)
        self.optimizer = AdamW(model, params)
        self.at = Progress()
        self.best: dict[str, mx.array] = {}
        self.an_epoch = steps_an_epoch(len(rows), params)
        self.steps = params.epochs * self.an_epoch
        mx.reset_peak_memory()

    def run(self) -> Run:
        """Every epoch that is left."""
        self._go_on()
        stop, halted = Stop(), None
        bar = tqdm(
            total=self.steps, initial=self.at.step, desc="train", unit="step", mininterval=0.5,
            disable=self.world.rank > 0,
        )  # fmt: skip
        try:
            with stop.listening(), bar:
                while self.at.epoch <= self.params.epochs and not self._waited_enough():
                    self._epoch(stop, bar)
        except Halt as halt:
            halted = str(halt)
        if halted and not self.best:
            self._forget()
            raise TrainingError(halted)
        weights = self.best if self.params.keep == "best" or halted else self._weights()
        return Run(self.at, weights, mx.get_peak_memory() / 1e9, halted)

    def _epoch(self, stop: Stop, bar: Any) -> None:
        started, before = perf_counter(), self.at.seconds
        while self.at.position < self.an_epoch:
            self._update()
            self.at.seconds = before + perf_counter() - started
            self._show(bar)
            asked = self._asked(stop)
            if asked or self.at.step % self.means.every == 0:
                self._save()
            if asked:
                stop.leave()
        self._save()  # an interrupted validation begins again, and no update is lost
        extra = {"val_loss": self.validate(self.val, stop)}
        if self.means.examine:
            extra |= self.means.examine()
            if self._asked(stop):
                stop.leave()
        entry = after_epoch(self.at, extra, self.params)
        self.means.tracker.log(entry)
        if self.at.best and self.at.best["epoch"] == entry["epoch"]:
            self.best = self._weights()
        self.at.seconds = before + perf_counter() - started
        self._save()

    def _asked(self, stop: Stop) -> bool:
        """Whether any rank was asked to stop; then all of them are."""
        if self.world.numbers(float(stop.asked))[0] > 0:
            stop.asked = stop.asked or 15
        return stop.asked > 0

    def _update(self) -> None:
        """One step of the optimizer over `accumulate` batches, each token counting alike."""
        at, params = self.at, self.params
        batches = batches_of(self.rows, params, at.epoch, at.position)
        weight = sum(sum(row.weights) for batch in batches for row in batch)
        total, gradient = mx.array(0.0), None
        for i, batch in enumerate(batches):
            own = share_of(batch, self.world.rank, self.world.size)
            if own:
                drawn = np.random.SeedSequence((params.seed, at.step, i, self.world.rank))
                seed = int(drawn.generate_state(1)[0])
                value, part = self.objective.gradient(own, seed, weight)
                gradient = part if gradient is None else tree_map(mx.add, gradient, part)
                total = total + value
                mx.eval(total, gradient)
        if gradient is None:  # fewer rows than ranks
            gradient = tree_map(mx.zeros_like, self.model.trainable_parameters())
        total, gradient = self.world.sum([total, gradient])
        gradient, norm = optim.clip_grad_norm(gradient, params.clip_norm)
        rate = rate_at(params, at.step, self.steps)
        self.optimizer.update(gradient, rate)
        mx.eval(self.model.trainable_parameters(), self.optimizer.arrays, total, norm)
        at.tokens += sum(len(row.ids) for batch in batches for row in batch)
        entry = after_step(at, scalar(total), scalar(norm), weight, rate, params)
        self.means.tracker.log(entry)

    def validate(self, rows: Sequence[Example], stop: Stop) -> float:
        """Mean cross-entropy over every supervised token of the rows, weighted, without dropout."""
        total, size = 0.0, self.params.batch_size
        own = share_of(rows, self.world.rank, self.world.size)
        for i in range(0, len(own), size):
            total += scalar(self.objective.value(own[i : i + size]))
            if stop.asked and self.world.size == 1:
                stop.leave()
        total = self.world.numbers(total)[0]
        return total / sum(sum(row.weights) for row in rows)

    def _waited_enough(self) -> bool:
        return 0 < self.params.patience <= self.at.waited

    def _weights(self) -> dict[str, mx.array]:
        return lora.tensors(self.layers)

    def _save(self) -> None:
        if self.means.checkpoint and self.world.rank == 0:
            state = State(self.at, self._weights(), self.optimizer.tensors(), self.best)
            self.means.checkpoint.save(state)

    def _go_on(self) -> None:
        """Take up what an interrupted run left.

        Raises TrainingError where ranks of several machines do not all have it.
        """
        found = self.means.checkpoint.load() if self.means.checkpoint else None
        if found:
            self.at, self.best = found.progress, found.best
            lora.fill(self.layers, found.adapter)
            self.optimizer.restore(found.optimizer)
        steps = self.world.numbers(float(self.at.step))[0]
        if steps != self.at.step * self.world.size:
            raise TrainingError(
                f"rank {self.world.rank} is at step {self.at.step}, others are not; "
                "copy the checkpoint of rank 0 to every machine, or delete it everywhere"
            )

    def _forget(self) -> None:
        if self.means.checkpoint and self.world.rank == 0:
            self.means.checkpoint.remove()

    def _show(self, bar: Any) -> None:
        pace, memory = self.at.tokens / self.at.seconds, mx.get_peak_memory() / 1e9
        told = f"loss {self.at.log[-1]['loss']:.3f}, {pace:.0f} tokens/s, {memory:.1f} GB"
        bar.set_postfix_str(told, refresh=False)
        bar.update()


def scalar(value: mx.array) -> float:
    """The number an array of one element holds."""
    return float(np.array(value))
