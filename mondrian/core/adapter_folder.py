"""Files of an adapter folder (PEFT's layout and recipe.json), and the version that they define."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mondrian.core.errors import AdapterError
from mondrian.core.files import files_hash

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
RECIPE_FILE = "recipe.json"
LOG_FILE = "training_log.jsonl"
REQUIRED_FILES = (CONFIG_FILE, WEIGHTS_FILE, RECIPE_FILE)
SAVED_FILES = (*REQUIRED_FILES, LOG_FILE)  # what training may write and replace


def adapter_version(folder: Path) -> str:
    """Return the version that the service reports for an adapter: a hash of config and weights."""
    return files_hash(folder, (CONFIG_FILE, WEIGHTS_FILE))[:12]


def read_val_loss(folder: Path, save_weights: str) -> float | None:
    """Return the val loss of the saved weights; None if the adapter was trained elsewhere.

    Raises AdapterError if training_log.jsonl is damaged.
    """
    path = folder / LOG_FILE
    if not path.exists():
        return None
    try:
        log = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return float(find_saved_epoch(log, save_weights)["val_loss"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise AdapterError(f"{path} is damaged ({error}); train again: dvc repro") from None


def find_saved_epoch(log: Sequence[dict[str, Any]], save_weights: str) -> dict[str, Any]:
    """Return the entry of the epoch whose weights train.save_weights (best or last) keeps."""
    epochs = [entry for entry in log if "val_loss" in entry]
    if save_weights == "best":
        return min(epochs, key=lambda entry: float(entry["val_loss"]))
    return epochs[-1]
