"""What a run writes down of itself, and when it has to stop."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from mondrian.core.params import Train
from mondrian.training.checkpoint import Progress, Tensors

_MEMORY = 0.9  # of the running mean of the loss
_EARLY = 10  # steps before a loss can be called growing
_GROWN, _ABOVE = 3.0, 1.0  # times the lowest running mean, and so far above it


class Halt(Exception):
    """A run that cannot go on; the text says what to change."""


@dataclass
class Run:
    """What a training run leaves behind: its numbers, and the weights that are kept.

    halted  why it stopped before its end, the best weights kept; None as a rule
    """

    at: Progress
    weights: Tensors
    peak_gb: float
    halted: str | None = None

    @property
    def log(self) -> list[dict[str, Any]]:
        return self.at.log

    def epochs(self) -> list[dict[str, Any]]:
        """The log's lines of whole epochs."""
        return [entry for entry in self.at.log if "val_loss" in entry]

    def kept(self, params: Train) -> dict[str, Any]:
        """The epoch whose weights are kept."""
        best = self.at.best
        if best and (params.keep == "best" or self.halted):
            return next(e for e in self.epochs() if e["epoch"] == best["epoch"])
        return self.epochs()[-1]

    def metrics(self, params: Train) -> dict[str, Any]:
        """What metrics/<advisor>/train.json holds; the losses are those of the epoch kept."""
        kept = self.kept(params)
        told = {k: v for k, v in kept.items() if k not in ("step", "epoch")}
        return told | {
            "epoch": kept["epoch"],
            "epochs": self.epochs()[-1]["epoch"],
            "steps": self.at.step,
            "tokens_per_second": round(self.at.tokens / self.at.seconds, 1),
            "peak_memory_gb": round(self.peak_gb, 3),
            "seconds": round(self.at.seconds, 1),
        }

    def curve(self, part: str) -> str:
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


def after_step(
    at: Progress, loss: float, norm: float, weight: float, rate: float, params: Train
) -> dict[str, Any]:
    """Count one update and log it.

    Raises Halt where the loss or its gradient is no number, or the loss grows without end.
    """
    for what, value in (("loss", loss), ("gradient", norm)):
        _finite(f"the {what} at step {at.step + 1}", value, params)
    at.step, at.position = at.step + 1, at.position + 1
    at.total, at.count = at.total + loss * weight, at.count + weight
    at.smooth = loss if at.smooth is None else _MEMORY * at.smooth + (1 - _MEMORY) * loss
    at.lowest = at.smooth if at.lowest is None else min(at.lowest, at.smooth)
    entry = {"step": at.step, "epoch": at.epoch, "loss": round(loss, 6), "rate": rate}
    at.log.append(entry)
    if at.step > _EARLY and at.smooth > max(_GROWN * at.lowest, at.lowest + _ABOVE):
        grown = f"the loss grew from {at.lowest:.3f} to {at.smooth:.3f} by step {at.step}"
        raise Halt(f"{grown}; {_lower(params)}")
    return entry


def after_epoch(at: Progress, extra: dict[str, float], params: Train) -> dict[str, Any]:
    """Log an epoch that is done, remember whether it is the best, and begin the next.

    Raises Halt where the val loss is no number.
    """
    _finite(f"the val loss of epoch {at.epoch}", extra["val_loss"], params)
    entry: dict[str, Any] = {"step": at.step, "epoch": at.epoch}
    entry["train_loss"] = round(at.total / at.count, 6)
    entry |= {name: round(value, 6) for name, value in extra.items()}
    at.log.append(entry)
    if at.best is None or entry["val_loss"] < at.best["val_loss"]:
        at.best, at.waited = {"epoch": at.epoch, "val_loss": entry["val_loss"]}, 0
    else:
        at.waited += 1
    at.epoch, at.position, at.total, at.count = at.epoch + 1, 0, 0.0, 0.0
    return entry


def _finite(what: str, value: float, params: Train) -> None:
    if not isfinite(value):
        raise Halt(f"{what} is {value}; {_lower(params)}")


def _lower(params: Train) -> str:
    return (
        f"lower train.learning_rate ({params.learning_rate}) or "
        f"train.lora_alpha ({params.lora_alpha}) in params.yaml"
    )
