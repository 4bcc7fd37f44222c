"""The score calibration of an adapter: in release.json of a version, else in evaluate.json.

It is of one adapter, named by its hash: an adapter that was trained since is not calibrated by it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mondrian.core.adapter_folder import adapter_version
from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import DataError, ParamsError
from mondrian.core.files import read_json
from mondrian.core.params import Params
from mondrian.critique.calibration import Calibration
from mondrian.registry.release_record import RELEASE_FILE

CalibrationFinder = Callable[[Path], Path | None]


def build_calibration_finder(params: Params) -> CalibrationFinder:
    """Return a function from an adapter's folder to the file that may hold its calibration."""
    try:
        flags = read_stage_flags("evaluate", ["lora_path", "details"], params)
    except ParamsError:  # a machine that only serves
        flags = []
    evaluations = {folder.resolve(): details for folder, details in flags}

    def find(folder: Path) -> Path | None:
        release = folder / RELEASE_FILE
        return release if release.is_file() else evaluations.get(folder.resolve())

    return find


def find_calibration(folder: Path, find_file: CalibrationFinder) -> Calibration | None:
    """Return the calibration of the adapter in a folder, or None."""
    try:
        version = adapter_version(folder)
    except OSError:  # it is not an adapter, which its loader explains
        return None
    return read_calibration(find_file(folder), version)


def read_calibration(file: Path | None, adapter_version: str) -> Calibration | None:
    """Return the adapter's calibration in release.json or evaluate.json, or None."""
    if file is None or not file.is_file():
        return None
    try:
        content = read_json(file)
        stored = content["calibration"] if isinstance(content, dict) else None
        calibration = _parse(stored) if stored else None
    except (DataError, KeyError, TypeError, AttributeError, ValidationError):
        return None
    if calibration is None or calibration.adapter_version != adapter_version:
        return None
    return calibration


def _parse(stored: dict[str, Any]) -> Calibration:
    """Parse a calibration; of the arms in evaluate.json, take the adapter's."""
    weights = stored["weights"]
    return Calibration.model_validate(stored | {"weights": weights.get("fine_tuned", weights)})
