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
from mondrian.model.lora_config import make_lora_config
from mondrian.model.streams import shard_by_length
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.checkpoint import Checkpoint, CheckpointState, TrainingProgress
from mondrian.training.dataset import Example
from mondrian.training.distributed import ProcessGroup
from mondrian.training.interrupt import StopSignal
from mondrian.training.loss import Loss
from mondrian.training.optimizer import AdamW
from mondrian.training.progress import DivergenceError, TrainResult, log_epoch, log_step
from mondrian.training.schedule import compute_learning_rate, select_micro_batches, steps_per_epoch
from mondrian.training.trackers import NullTracker, Tracker


@dataclass(frozen=True)
class TrainerServices:
    """What a run has besides its data: where it keeps itself, its ranks, who watches.

    save_every    updates between two checkpoints
    compute_val_metrics  makes numbers of the adapter after an epoch, for the log
    """

    checkpoint: Checkpoint | None = None
    save_every: int = 25
    world: ProcessGroup = field(default_factory=ProcessGroup)
    tracker: Tracker = field(default_factory=NullTracker)
    compute_val_metrics: Callable[[], dict[str, float]] | None = None


def train(
    features: FeatureCache,
    rows: Sequence[Example],
    val: Sequence[Example],
    params: Train,
    services: TrainerServices | None = None,
) -> TrainResult:
    """Train an adapter, or go on with one; it stays attached, and the run holds its weights.

    A loss that is no number or grows without end halts it: the run then says why, with the best
    weights so far. Raises TrainingError where there are none yet; SystemExit when it was asked to
    stop, after saving.
    """
    return Trainer(features, rows, val, params, services or TrainerServices()).run()


class Trainer:
    """One run: the adapter on the model, its optimizer, and where it is."""

    def __init__(
        self,
        features: FeatureCache,
        rows: Sequence[Example],
        val: Sequence[Example],
        params: Train,
        services: TrainerServices,
    ) -> None:
        model = features.vlm.model
        self.rows, self.val, self.params, self.services = rows, val, params, services
        self.model, self.world = model, services.world
        model.freeze()
        self.layers = lora.attach(model, make_lora_config(params), mx.random.key(params.seed))
        lora.unfreeze_lora(self.layers)
        self.objective = Loss(features, self.layers, params)
        self.optimizer = AdamW(model, params)
        self.progress = TrainingProgress()
        self.best: dict[str, mx.array] = {}
        self.an_epoch = steps_per_epoch(len(rows), params)
        self.steps = params.epochs * self.an_epoch
        mx.reset_peak_memory()

    def run(self) -> TrainResult:
        """Every epoch that is left."""
        self._resume()
        stop, halted = StopSignal(), None
        bar = tqdm(
            total=self.steps,
            initial=self.progress.step,
            desc="train",
            unit="step",
            mininterval=0.5,
            disable=self.world.rank > 0,
        )
        try:
            with stop.handle_signals(), bar:
                while self.progress.epoch <= self.params.epochs and not self._should_stop_early():
                    self._epoch(stop, bar)
        except DivergenceError as halt:
            halted = str(halt)
        if halted and not self.best:
            self._remove_checkpoint()
            raise TrainingError(halted)
        weights = self.best if self.params.save_weights == "best" or halted else self._weights()
        return TrainResult(self.progress, weights, mx.get_peak_memory() / 1e9, halted)

    def _epoch(self, stop: StopSignal, bar: Any) -> None:
        started, before = perf_counter(), self.progress.seconds
        while self.progress.position < self.an_epoch:
            self._update()
            self.progress.seconds = before + perf_counter() - started
            self._show(bar)
            is_stopping = self._should_stop(stop)
            if is_stopping or self.progress.step % self.services.save_every == 0:
                self._save()
            if is_stopping:
                stop.exit_with_signal_status()
        self._save()  # an interrupted validation begins again, and no update is lost
        extra = {"val_loss": self.validate(self.val, stop)}
        if self.services.compute_val_metrics:
            extra |= self.services.compute_val_metrics()
            if self._should_stop(stop):
                stop.exit_with_signal_status()
        entry = log_epoch(self.progress, extra, self.params)
        self.services.tracker.log(entry)
        if self.progress.best and self.progress.best["epoch"] == entry["epoch"]:
            self.best = self._weights()
        self.progress.seconds = before + perf_counter() - started
        self._save()

    def _should_stop(self, stop: StopSignal) -> bool:
        """Whether any rank was asked to stop; then all of them are."""
        if self.world.sum_numbers(float(stop.signal_number))[0] > 0:
            stop.signal_number = stop.signal_number or 15
        return stop.signal_number > 0

    def _update(self) -> None:
        """Take one optimizer step over `gradient_accumulation_steps` batches."""
        progress, params = self.progress, self.params
        batches = select_micro_batches(self.rows, params, progress.epoch, progress.position)
        weight = sum(sum(row.weights) for batch in batches for row in batch)
        total, gradient = mx.array(0.0), None
        for i, batch in enumerate(batches):
            own = shard_by_length(batch, self.world.rank, self.world.size)
            if own:
                seed_sequence = np.random.SeedSequence(
                    (params.seed, progress.step, i, self.world.rank)
                )
                seed = int(seed_sequence.generate_state(1)[0])
                value, part = self.objective.compute_loss_and_grad(own, seed, weight)
                gradient = part if gradient is None else tree_map(mx.add, gradient, part)
                total = total + value
                mx.eval(total, gradient)
        if gradient is None:  # fewer rows than ranks
            gradient = tree_map(mx.zeros_like, self.model.trainable_parameters())
        total, gradient = self.world.sum([total, gradient])
        gradient, norm = optim.clip_grad_norm(gradient, params.max_grad_norm)
        rate = compute_learning_rate(params, progress.step, self.steps)
        self.optimizer.update(gradient, rate)
        mx.eval(self.model.trainable_parameters(), self.optimizer.arrays, total, norm)
        progress.tokens += sum(len(row.ids) for batch in batches for row in batch)
        entry = log_step(progress, scalar(total), scalar(norm), weight, rate, params)
        self.services.tracker.log(entry)

    def validate(self, rows: Sequence[Example], stop: StopSignal) -> float:
        """Mean cross-entropy over every supervised token of the rows, weighted, without dropout."""
        total, size = 0.0, self.params.batch_size
        own = shard_by_length(rows, self.world.rank, self.world.size)
        for i in range(0, len(own), size):
            total += scalar(self.objective.compute_eval_loss(own[i : i + size]))
            if stop.signal_number and self.world.size == 1:
                stop.exit_with_signal_status()
        total = self.world.sum_numbers(total)[0]
        return total / sum(sum(row.weights) for row in rows)

    def _should_stop_early(self) -> bool:
        return 0 < self.params.early_stopping_patience <= self.progress.waited

    def _weights(self) -> dict[str, mx.array]:
        return lora.lora_state_dict(self.layers)

    def _save(self) -> None:
        if self.services.checkpoint and self.world.rank == 0:
            state = CheckpointState(
                self.progress, self._weights(), self.optimizer.state_dict(), self.best
            )
            self.services.checkpoint.save(state)

    def _resume(self) -> None:
        """Take up what an interrupted run left.

        Raises TrainingError where ranks of several machines do not all have it.
        """
        state = self.services.checkpoint.load() if self.services.checkpoint else None
        if state:
            self.progress, self.best = state.progress, state.best
            lora.load_lora_weights(self.layers, state.adapter)
            self.optimizer.restore(state.optimizer)
        steps = self.world.sum_numbers(float(self.progress.step))[0]
        if steps != self.progress.step * self.world.size:
            raise TrainingError(
                f"rank {self.world.rank} is at step {self.progress.step}, others are not; "
                "copy the checkpoint of rank 0 to every machine, or delete it everywhere"
            )

    def _remove_checkpoint(self) -> None:
        if self.services.checkpoint and self.world.rank == 0:
            self.services.checkpoint.remove()

    def _show(self, bar: Any) -> None:
        pace, memory = self.progress.tokens / self.progress.seconds, mx.get_peak_memory() / 1e9
        postfix = f"loss {self.progress.log[-1]['loss']:.3f}, {pace:.0f} tokens/s, {memory:.1f} GB"
        bar.set_postfix_str(postfix, refresh=False)
        bar.update()


def scalar(value: mx.array) -> float:
    """The number an array of one element holds."""
    return float(np.array(value))
