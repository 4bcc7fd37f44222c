"""The presets of `mondrian init`."""

from collections.abc import Iterator
from typing import Any

import yaml

from mondrian.cli import init

PRESETS: dict[str, Any] = yaml.safe_load(init.PRESETS_FILE.read_text())


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
