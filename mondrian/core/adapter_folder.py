"""Files of an adapter folder (PEFT's layout and recipe.json), and the version that they define."""

from pathlib import Path

from mondrian.core.files import files_hash

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
RECIPE = "recipe.json"
LOG = "training_log.jsonl"
REQUIRED_FILES = (CONFIG, WEIGHTS, RECIPE)
SAVED_FILES = (*REQUIRED_FILES, LOG)  # what training may write and replace


def adapter_version(folder: Path) -> str:
    """Return the version that the service reports for an adapter: a hash of config and weights."""
    return files_hash(folder, (CONFIG, WEIGHTS))[:12]
