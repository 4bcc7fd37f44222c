"""Loss curves in TensorBoard or Weights & Biases, if params.yaml asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mondrian.core.errors import TrainingError

TrackerKind = Literal["none", "tensorboard", "wandb"]


@dataclass(frozen=True)
class Tracker:
    """Where the entries of training_log.jsonl are logged too."""

    log: Callable[[dict[str, Any]], None] = lambda entry: None
    close: Callable[[], None] = lambda: None


def open_tracker(kind: TrackerKind, folder: Path, name: str) -> Tracker:
    """Open the tracker of params.yaml, which writes its files to `folder`.

    Raises TrainingError if its package is not installed.
    """
    try:
        if kind == "tensorboard":
            return _open_tensorboard(folder)
        if kind == "wandb":
            return _open_wandb(folder, name)
    except ImportError as error:
        package = {"tensorboard": "tensorboardX", "wandb": "wandb"}[kind]
        raise TrainingError(
            f"machine.tracker is {kind}, and {error.name} is not installed; "
            f"pip install {package}, or set it to none"
        ) from None
    return Tracker()


def _open_tensorboard(folder: Path) -> Tracker:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder))

    def log(entry: dict[str, Any]) -> None:
        for name, value in _numbers(entry).items():
            writer.add_scalar(name, value, entry["step"])

    return Tracker(log, writer.close)


def _open_wandb(folder: Path, name: str) -> Tracker:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(project="mondrian", name=name, dir=str(folder), resume="allow")
    return Tracker(lambda entry: run.log(_numbers(entry), step=int(entry["step"])), run.finish)


def _numbers(entry: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in entry.items() if k != "step" and isinstance(v, int | float)}
