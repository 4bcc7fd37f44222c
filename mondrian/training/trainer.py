"""Training loop: LoRA on a frozen base, resumable after each step.

Each update is a function of the seed, the step and the checkpoint's state, so a run that was killed
and restarted ends like one that was not: with the same bytes on a CPU. On a GPU the order of a
sum may differ between runs, and so the result by rounding (`mondrian doctor` measures it).
"""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from types import FrameType
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from mondrian.core.errors import TrainingError
from mondrian.core.params import TrainParams
from mondrian.core.terminal import progress_bar
from mondrian.model import lora
from mondrian.model.memory_limits import memory_in_use
from mondrian.model.streams import shard_by_length
from mondrian.model.vision_cache import FeatureCache
from mondrian.training import schedule
from mondrian.training.checkpoint import Checkpoint, CheckpointState
from mondrian.training.dataset import Example
from mondrian.training.distributed import ProcessGroup
from mondrian.training.loss import LOSS_SUMS, Loss, StepSize
from mondrian.training.progress import (
    DivergenceError,
    StepTotals,
    Tracker,
    TrainingProgress,
    TrainResult,
    describe_preferences,
    mean_preferences,
)


@dataclass(frozen=True)
class TrainerServices:
    checkpoint: Checkpoint | None = None
    save_every: int = 25  # updates between two checkpoints
    world: ProcessGroup = ProcessGroup()
    tracker: Tracker = Tracker()
    compute_val_metrics: Callable[[], dict[str, float]] | None = None  # after an epoch, for the log


class Trainer:
    """One run: the adapter on the model, its optimizer, and its progress.

    Of val, examples with a rejected completion measure preferences, the others the loss.
    """

    def __init__(
        self,
        features: FeatureCache,
        train: Sequence[Example],
        val: Sequence[Example],
        params: TrainParams,
        services: TrainerServices | None = None,
    ) -> None:
        self.train_examples, self.params = train, params
        self.val_examples = [example for example in val if not example.rejected]
        self.val_pairs = [example for example in val if example.rejected]
        self.services = services or TrainerServices()
        self.model, self.world = features.vlm.model, self.services.world
        self.model.freeze()
        config = lora.make_lora_config(params)
        self.layers = lora.attach(self.model, config, mx.random.key(params.seed))
        lora.unfreeze_lora(self.layers)
        self.loss = Loss(features, self.layers, params)
        self.optimizer = schedule.make_optimizer(params)
        self.optimizer.init(self.model.trainable_parameters())
        self.progress = TrainingProgress()
        self.best: lora.Tensors = {}
        self.steps_per_epoch = schedule.steps_per_epoch(len(train), params)
        self.steps = params.epochs * self.steps_per_epoch
        self.stop_signal = 0
        mx.reset_peak_memory()

    def run(self) -> TrainResult:
        """Train the remaining epochs; the adapter stays attached.

        Raises TrainingError if it diverges without best weights, SystemExit on a stop signal.
        """
        self._resume()
        halt_reason = None
        try:
            with self._handle_signals(), self._progress_bar() as bar:
                self._log_base()
                while self.progress.epoch <= self.params.epochs and not self._should_stop_early():
                    self._run_epoch(bar)
        except DivergenceError as error:
            halt_reason = (
                f"{error}; lower train.learning_rate ({self.params.learning_rate}) or "
                f"train.lora_alpha ({self.params.lora_alpha}) in params.yaml"
            )
        if halt_reason and not self.best:
            if self.services.checkpoint and self.world.rank == 0:
                self.services.checkpoint.remove()
            raise TrainingError(halt_reason)
        use_best = self.params.save_weights == "best" or halt_reason
        weights = self.best if use_best else lora.lora_state_dict(self.layers)
        peak_gb = mx.get_peak_memory() / 1e9
        num_pairs = (sum(bool(e.rejected) for e in self.train_examples), len(self.val_pairs))
        return TrainResult(self.params, self.progress, weights, peak_gb, halt_reason, num_pairs)

    @contextmanager
    def _handle_signals(self) -> Iterator[None]:
        """Stop after the current step on SIGTERM or Ctrl-C, at once on a second Ctrl-C."""

        def receive(number: int, _: FrameType | None) -> None:
            if self.stop_signal and number == signal.SIGINT:
                sys.exit(130)
            self.stop_signal = number

        handlers = {n: signal.signal(n, receive) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _exit_if_stopped(self) -> None:
        if self.stop_signal:
            sys.exit(128 + self.stop_signal)

    def _should_stop_early(self) -> bool:
        return 0 < self.params.early_stopping_patience <= self.progress.epochs_since_best

    def _log_base(self) -> None:
        """Log the preferences of the base, before the first step."""
        if self.val_pairs and not self.progress.log:
            metrics = self._measure_preferences()
            self.services.tracker.log(self.progress.log_base(metrics))

    def _run_epoch(self, bar: Any) -> None:
        progress, services = self.progress, self.services
        started, before = perf_counter(), progress.seconds
        while progress.position < self.steps_per_epoch:
            self._update()
            progress.seconds = before + perf_counter() - started
            self._show_progress(bar)
            self._synchronize_stop()
            if self.stop_signal or progress.step % services.save_every == 0:
                self._save()
            self._exit_if_stopped()
        self._save()  # an interrupted validation is repeated, but no update is lost
        metrics = {"val_loss": self._validate()} | self._measure_preferences()
        if services.compute_val_metrics:
            metrics |= services.compute_val_metrics()
            self._synchronize_stop()
            self._exit_if_stopped()
        mx.clear_cache()  # of buffers for the lengths of val rows and completions
        entry = progress.log_epoch(metrics)
        services.tracker.log(entry)
        if progress.epochs_since_best == 0:
            self.best = lora.lora_state_dict(self.layers)
        progress.seconds = before + perf_counter() - started
        self._save()
        self._print_epoch(bar, entry)

    def _synchronize_stop(self) -> None:
        if self.world.sum_numbers(float(self.stop_signal))[0] > 0:
            self.stop_signal = self.stop_signal or signal.SIGTERM

    def _update(self) -> None:
        """Take one optimizer step over `gradient_accumulation_steps` batches."""
        progress, params = self.progress, self.params
        epoch, position = progress.epoch, progress.position
        batches = schedule.select_micro_batches(self.train_examples, params, epoch, position)
        rows = [row for batch in batches for row in batch]
        size = StepSize.of(rows)
        sums, gradient = mx.zeros(len(LOSS_SUMS)), None
        for i, batch in enumerate(batches):
            shard = shard_by_length(batch, self.world.rank, self.world.size)
            if shard:
                entropy = (params.seed, progress.step, i, self.world.rank)
                seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
                batch_sums, batch_gradient = self.loss.compute_loss_and_grad(shard, seed, size)
                if gradient is None:
                    gradient = batch_gradient
                else:
                    gradient = tree_map(mx.add, gradient, batch_gradient)
                sums = sums + batch_sums
                mx.eval(sums, gradient)
        if gradient is None:  # fewer rows than ranks
            gradient = tree_map(mx.zeros_like, self.model.trainable_parameters())
        sums, gradient = self.world.sum([sums, gradient])
        gradient, norm = optim.clip_grad_norm(gradient, params.max_grad_norm)
        rate = schedule.compute_learning_rate(params, progress.step, self.steps)
        schedule.set_learning_rate(self.optimizer, params, rate)
        self.optimizer.update(self.model, gradient)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state, sums, norm)
        progress.tokens += sum(row.num_tokens for row in rows)
        num_pairs = sum(bool(row.rejected) for row in rows)
        totals = StepTotals(size.weight, num_pairs, *map(float, np.array(sums)))
        self.services.tracker.log(progress.log_step(totals, float(norm.item()), rate))

    def _validate(self) -> float:
        """Return the weighted mean cross-entropy of supervised val tokens, without dropout."""
        total = self._sum_over(self.val_examples)[0]
        return total / sum(sum(row.weights) for row in self.val_examples)

    def _measure_preferences(self) -> dict[str, float]:
        """Return accuracy and mean odds-ratio loss of the val pairs; nothing without pairs."""
        if not self.val_pairs:
            return {}
        _, odds_ratio_loss, preferred = self._sum_over(self.val_pairs)
        metrics = mean_preferences(odds_ratio_loss, preferred, len(self.val_pairs))
        return {f"val_{name}": value for name, value in metrics.items()}

    def _sum_over(self, examples: Sequence[Example]) -> list[float]:
        """Return `LOSS_SUMS` of the examples of all ranks."""
        totals = [0.0] * len(LOSS_SUMS)
        shard = shard_by_length(examples, self.world.rank, self.world.size)
        for sums in self.loss.iter_eval_sums(shard):
            totals = [total + float(x) for total, x in zip(totals, sums, strict=True)]
            if self.world.size == 1:
                self._exit_if_stopped()
        return self.world.sum_numbers(*totals)

    def _save(self) -> None:
        if self.services.checkpoint and self.world.rank == 0:
            adapter = lora.lora_state_dict(self.layers)
            optimizer = dict(tree_flatten(self.optimizer.state))
            state = CheckpointState(self.progress, adapter, optimizer, self.best)
            self.services.checkpoint.save(state)

    def _resume(self) -> None:
        """Load the checkpoint, or raise TrainingError if not all ranks have the same."""
        state = self.services.checkpoint.load() if self.services.checkpoint else None
        if state:
            self.progress, self.best = state.progress, state.best
            lora.load_lora_weights(self.layers, state.adapter)
            self.optimizer.state = tree_unflatten(list(state.optimizer.items()))
            if self.world.rank == 0:
                sys.stderr.write(f"training resumes after step {state.progress.step}\n")
        steps = self.world.sum_numbers(float(self.progress.step))[0]
        if steps != self.progress.step * self.world.size:
            raise TrainingError(
                f"rank {self.world.rank} is at step {self.progress.step}, others are not; "
                "copy the checkpoint of rank 0 to every machine, or delete it on all"
            )

    def _progress_bar(self) -> Any:
        return progress_bar(
            desc="train",
            total=self.steps,
            initial=self.progress.step,
            unit="step",
            mininterval=0.5,
            disable=True if self.world.rank > 0 else None,
        )

    def _print_epoch(self, bar: Any, entry: dict[str, Any]) -> None:
        """Print a line that stays on screen; the losses are those of training_log.jsonl."""
        if self.world.rank == 0:
            best = ", the best so far" if self.progress.epochs_since_best == 0 else ""
            bar.write(
                f"epoch {entry['epoch']} of {self.params.epochs}: train loss "
                f"{entry['train_loss']:.3f}, val loss {entry['val_loss']:.3f}{best}; "
                f"{describe_preferences(entry)}"
                f"{self.progress.seconds:.0f} s",
                file=sys.stderr,  # at once, also into a pipe
            )

    def _show_progress(self, bar: Any) -> None:
        speed = self.progress.tokens / self.progress.seconds
        postfix = (
            f"loss {self.progress.log[-1]['loss']:.3f}, {speed:.0f} tokens/s, "
            f"{memory_in_use() / 1e9:.1f} GB, peak {mx.get_peak_memory() / 1e9:.1f} GB"
        )
        bar.set_postfix_str(postfix, refresh=False)
        bar.update()
