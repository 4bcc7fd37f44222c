"""Files of an adapter folder (PEFT's layout and recipe.json), and the version that they define."""

from pathlib import Path

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
