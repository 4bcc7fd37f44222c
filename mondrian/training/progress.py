"""Progress of a training run: its log, divergence checks, and the result."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import mlx.core as mx

from mondrian.core.params import Train

Tensors = dict[str, mx.array]
_SMOOTHING = 0.9  # of the running mean of the loss
_MIN_STEPS = 10  # before a loss counts as growing
_GROWTH_FACTOR, _MIN_GROWTH = 3.0, 1.0  # over the lowest running mean: both must be exceeded


class DivergenceError(Exception):
    """The loss or its gradient is NaN or inf, or the loss keeps growing."""


@dataclass
class TrainingProgress:
    """Where a run is; all of it is in the checkpoint.

    epoch              the current one, from 1
    position           updates done in it
    loss_sum           weighted loss of the epoch so far
    weight_sum         its weights
    smoothed_loss      running mean of the loss
    lowest_loss        lowest running mean
    best               epoch and val loss of the best weights
    epochs_since_best  for early stopping
    seconds, tokens    spent and trained on, over all interruptions
    """

    step: int = 0
    epoch: int = 1
    position: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    smoothed_loss: float | None = None
    lowest_loss: float | None = None
    best: dict[str, float] | None = None
    epochs_since_best: int = 0
    seconds: float = 0.0
    tokens: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)

    def log_step(self, loss: float, grad_norm: float, weight: float, rate: float) -> dict[str, Any]:
        """Count one update and log it.

        Raises DivergenceError.
        """
        self._check_finite("loss", loss)
        self._check_finite("gradient", grad_norm)
        self.step, self.position = self.step + 1, self.position + 1
        self.loss_sum, self.weight_sum = self.loss_sum + loss * weight, self.weight_sum + weight
        if self.smoothed_loss is None or self.lowest_loss is None:
            self.smoothed_loss = self.lowest_loss = loss
        else:
            self.smoothed_loss = _SMOOTHING * self.smoothed_loss + (1 - _SMOOTHING) * loss
            self.lowest_loss = min(self.lowest_loss, self.smoothed_loss)
        entry = {"step": self.step, "epoch": self.epoch, "loss": round(loss, 6), "rate": rate}
        self.log.append(entry)
        bound = max(_GROWTH_FACTOR * self.lowest_loss, self.lowest_loss + _MIN_GROWTH)
        if self.step > _MIN_STEPS and self.smoothed_loss > bound:
            raise DivergenceError(
                f"the loss grew from {self.lowest_loss:.3f} to {self.smoothed_loss:.3f} by step "
                f"{self.step}"
            )
        return entry

    def _check_finite(self, name: str, value: float) -> None:
        if not isfinite(value):
            raise DivergenceError(f"the {name} at step {self.step + 1} is {value}")

    def log_epoch(self, metrics: dict[str, float]) -> dict[str, Any]:
        """Log the end of an epoch, update the best one, and start the next.

        metrics  val_loss and others

        Raises DivergenceError if the val loss is NaN or inf.
        """
        if not isfinite(metrics["val_loss"]):
            raise DivergenceError(f"the val loss of epoch {self.epoch} is {metrics['val_loss']}")
        entry: dict[str, Any] = {"step": self.step, "epoch": self.epoch}
        entry["train_loss"] = round(self.loss_sum / self.weight_sum, 6)
        entry |= {name: round(value, 6) for name, value in metrics.items()}
        self.log.append(entry)
        self.epochs_since_best += 1
        if self.best is None or entry["val_loss"] < self.best["val_loss"]:
            self.best = {"epoch": self.epoch, "val_loss": entry["val_loss"]}
            self.epochs_since_best = 0
        self.epoch, self.position = self.epoch + 1, 0
        self.loss_sum = self.weight_sum = 0.0
        return entry


@dataclass
class TrainResult:
    """Log and weights of a training run.

    halt_reason  why it diverged, if it did; the weights are then the best ones before
    """

    params: Train
    progress: TrainingProgress
    weights: Tensors
    peak_gb: float
    halt_reason: str | None = None

    @property
    def log(self) -> list[dict[str, Any]]:
        return self.progress.log

    def epochs(self) -> list[dict[str, Any]]:
        """Return the log's entries of whole epochs."""
        return [entry for entry in self.log if "val_loss" in entry]

    def saved_epoch(self) -> dict[str, Any]:
        """Return the log entry of the epoch whose weights are saved."""
        best = self.progress.best
        if best and (self.params.save_weights == "best" or self.halt_reason):
            return next(e for e in self.epochs() if e["epoch"] == best["epoch"])
        return self.epochs()[-1]

    def metrics(self) -> dict[str, Any]:
        """Return the content of metrics/<advisor>/train.json; losses are the saved epoch's."""
        entry, progress = self.saved_epoch(), self.progress
        metrics = {k: v for k, v in entry.items() if k not in ("step", "epoch")}
        return metrics | {
            "epoch": entry["epoch"],
            "epochs": self.epochs()[-1]["epoch"],
            "steps": progress.step,
            "tokens_per_second": round(progress.tokens / progress.seconds, 1),
            "peak_memory_gb": round(self.peak_gb, 3),
            "seconds": round(progress.seconds, 1),
        }

    def loss_csv(self, part: str) -> str:
        """Return loss by step as CSV; part is train_loss or val_loss."""
        key = "loss" if part == "train_loss" else part
        lines = [f"{e['step']},{e[key]}" for e in self.log if key in e]
        return "\n".join(["step,loss", *lines]) + "\n"

    def log_text(self) -> str:
        """Return training_log.jsonl, without times, so that equal runs write equal bytes."""
        return "".join(json.dumps(entry) + "\n" for entry in self.log)

    def summary(self, folder: Path) -> str:
        m = self.metrics()
        return (
            f"train {folder}: val loss {m['val_loss']:.3f} in epoch {m['epoch']} of {m['epochs']}, "
            f"{m['steps']} steps in {m['seconds']:.0f} s, {m['tokens_per_second']:.0f} tokens/s, "
            f"peak {m['peak_memory_gb']:.2f} GB"
        )
