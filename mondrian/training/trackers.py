"""Losses in TensorBoard or Weights & Biases beside the log, where params.yaml asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

from mondrian.core.errors import TrainingError

TrackerKind = Literal["none", "tensorboard", "wandb"]


class Tracker(Protocol):
    def log(self, entry: dict[str, Any]) -> None:
        """Take one line of training_log.jsonl; its step is what it is drawn against."""

    def close(self) -> None: ...


class NullTracker:
    def log(self, entry: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoard:
    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def log(self, entry: dict[str, Any]) -> None:
        for name, value in _numbers(entry).items():
            self.writer.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        self.writer.close()


class Wandb:
    def __init__(self, folder: Path, name: str) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(project="mondrian", name=name, dir=str(folder), resume="allow")

    def log(self, entry: dict[str, Any]) -> None:
        self.run.log(_numbers(entry), step=int(entry["step"]))

    def close(self) -> None:
        self.run.finish()


def open_tracker(kind: TrackerKind, folder: Path, name: str) -> Tracker:
    """The tracker of params.yaml, which keeps its files in `folder`.

    Raises TrainingError where its package is not installed.
    """
    try:
        if kind == "tensorboard":
            return TensorBoard(folder)
        if kind == "wandb":
            return Wandb(folder, name)
    except ImportError as error:
        package = {"tensorboard": "tensorboardX", "wandb": "wandb"}[kind]
        raise TrainingError(
            f"machine.tracker is {kind}, and {error.name} is not installed; "
            f"pip install {package}, or set it to none"
        ) from None
    return NullTracker()


def _numbers(entry: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in entry.items() if k != "step" and isinstance(v, int | float)}
