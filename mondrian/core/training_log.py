"""training_log.jsonl of an adapter folder: an entry for each step, and for each whole epoch."""

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from mondrian.core.adapter_folder import LOG_FILE
from mondrian.core.errors import AdapterError

LossPoint = tuple[int, str, float]  # step, curve (train or val), loss
_CURVES = {"train": "loss", "val": "val_loss"}  # curve, key of its entries


def read_training_log(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of an adapter's log; none if the adapter has no log.

    Raises AdapterError if the file is damaged.
    """
    path = folder / LOG_FILE
    if not path.exists():
        return []
    try:
        log = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        points = list_loss_points(log)
        if not all(isfinite(loss) for _, _, loss in points):
            raise ValueError("a loss is not finite")
        if not any(curve == "val" for _, curve, _ in points):
            raise ValueError("it has no whole epoch")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdapterError(f"{path} is damaged ({error}); train again: dvc repro") from None
    return log


def write_training_log(folder: Path, log: Sequence[dict[str, Any]]) -> None:
    """Write entries without times, so that equal runs write equal bytes."""
    (folder / LOG_FILE).write_text("".join(json.dumps(entry) + "\n" for entry in log))


def find_saved_epoch(log: Sequence[dict[str, Any]], save_weights: str) -> dict[str, Any]:
    """Return the log entry of the epoch that train.save_weights (best or last) selects."""
    epochs = [entry for entry in log if "val_loss" in entry]
    if save_weights == "best":
        return min(epochs, key=lambda entry: float(entry["val_loss"]))
    return epochs[-1]


def list_loss_points(log: Sequence[dict[str, Any]]) -> list[LossPoint]:
    """Return the points of the loss plot."""
    return [
        (int(entry["step"]), curve, float(entry[key]))
        for curve, key in _CURVES.items()
        for entry in log
        if key in entry
    ]
