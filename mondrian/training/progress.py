"""What a run writes down of itself, and when it has to stop."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from mondrian.core.params import Train
from mondrian.training.checkpoint import Tensors, TrainingProgress

_MEMORY = 0.9  # of the running mean of the loss
_EARLY = 10  # steps before a loss can be called growing
_GROWTH_FACTOR, _ABOVE = 3.0, 1.0  # times the lowest running mean, and so far above it


class DivergenceError(Exception):
    """A run that cannot go on; the text says what to change."""


@dataclass
class TrainResult:
    """What a training run leaves behind: its numbers, and the weights that are kept.

    halt_reason  why it stopped before its end, the best weights kept; None as a rule
    """

    progress: TrainingProgress
    weights: Tensors
    peak_gb: float
    halt_reason: str | None = None

    @property
    def log(self) -> list[dict[str, Any]]:
        return self.progress.log

    def epochs(self) -> list[dict[str, Any]]:
        """The log's lines of whole epochs."""
        return [entry for entry in self.progress.log if "val_loss" in entry]

    def select_epoch(self, params: Train) -> dict[str, Any]:
        """The epoch whose weights are kept."""
        best = self.progress.best
        if best and (params.save_weights == "best" or self.halt_reason):
            return next(e for e in self.epochs() if e["epoch"] == best["epoch"])
        return self.epochs()[-1]

    def metrics(self, params: Train) -> dict[str, Any]:
        """What metrics/<advisor>/train.json holds; the losses are those of the epoch kept."""
        entry = self.select_epoch(params)
        metrics = {k: v for k, v in entry.items() if k not in ("step", "epoch")}
        return metrics | {
            "epoch": entry["epoch"],
            "epochs": self.epochs()[-1]["epoch"],
            "steps": self.progress.step,
            "tokens_per_second": round(self.progress.tokens / self.progress.seconds, 1),
            "peak_memory_gb": round(self.peak_gb, 3),
            "seconds": round(self.progress.seconds, 1),
        }

    def loss_csv(self, part: str) -> str:
        """Loss against step as CSV; part is train_loss or val_loss."""
        key = "loss" if part == "train_loss" else part
        lines = [f"{e['step']},{e[key]}" for e in self.log if key in e]
        return "\n".join(["step,loss", *lines]) + "\n"

    def log_text(self) -> str:
        """training_log.jsonl: no times in it, so that equal runs are equal bytes."""
        return "".join(json.dumps(entry) + "\n" for entry in self.log)

    def summary(self, folder: Path, params: Train) -> str:
        """What a person wants to know, in one line."""
        m = self.metrics(params)
        return (
            f"train {folder}: val loss {m['val_loss']:.3f} in epoch {m['epoch']} of {m['epochs']}, "
            f"{m['steps']} steps in {m['seconds']:.0f} s, {m['tokens_per_second']:.0f} tokens/s, "
            f"peak {m['peak_memory_gb']:.2f} GB"
        )


def log_step(
    progress: TrainingProgress, loss: float, norm: float, weight: float, rate: float, params: Train
) -> dict[str, Any]:
    """Count one update and log it.

    Raises Halt where the loss or its gradient is no number, or the loss grows without end.
    """
    for what, value in (("loss", loss), ("gradient", norm)):
        _finite(f"the {what} at step {progress.step + 1}", value, params)
    progress.step, progress.position = progress.step + 1, progress.position + 1
    progress.total, progress.count = progress.total + loss * weight, progress.count + weight
    progress.smooth = (
        loss if progress.smooth is None else _MEMORY * progress.smooth + (1 - _MEMORY) * loss
    )
    progress.lowest = (
        progress.smooth if progress.lowest is None else min(progress.lowest, progress.smooth)
    )
    entry = {"step": progress.step, "epoch": progress.epoch, "loss": round(loss, 6), "rate": rate}
    progress.log.append(entry)
    if progress.step > _EARLY and progress.smooth > max(
        _GROWTH_FACTOR * progress.lowest, progress.lowest + _ABOVE
    ):
        message = (
            f"the loss grew from {progress.lowest:.3f} to {progress.smooth:.3f} by step "
            f"{progress.step}"
        )
        raise DivergenceError(f"{message}; {_lower(params)}")
    return entry


def log_epoch(progress: TrainingProgress, extra: dict[str, float], params: Train) -> dict[str, Any]:
    """Log an epoch that is done, remember whether it is the best, and begin the next.

    Raises Halt where the val loss is no number.
    """
    _finite(f"the val loss of epoch {progress.epoch}", extra["val_loss"], params)
    entry: dict[str, Any] = {"step": progress.step, "epoch": progress.epoch}
    entry["train_loss"] = round(progress.total / progress.count, 6)
    entry |= {name: round(value, 6) for name, value in extra.items()}
    progress.log.append(entry)
    if progress.best is None or entry["val_loss"] < progress.best["val_loss"]:
        progress.best, progress.waited = {"epoch": progress.epoch, "val_loss": entry["val_loss"]}, 0
    else:
        progress.waited += 1
    progress.epoch, progress.position, progress.total, progress.count = (
        progress.epoch + 1,
        0,
        0.0,
        0.0,
    )
    return entry


def _finite(what: str, value: float, params: Train) -> None:
    if not isfinite(value):
        raise DivergenceError(f"{what} is {value}; {_lower(params)}")


def _lower(params: Train) -> str:
    return (
        f"lower train.learning_rate ({params.learning_rate}) or "
        f"train.lora_alpha ({params.lora_alpha}) in params.yaml"
    )
