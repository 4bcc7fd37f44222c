"""The calibration of an adapter comes with its version, or from the evaluation of dvc repro."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mondrian.core.adapter_folder import adapter_version
from mondrian.core.params import Params
from mondrian.critique.calibration import Calibration
from mondrian.registry.adapter_calibration import build_calibration_finder, find_calibration
from tests.conftest import ROOT
from tests.critique.calibrations import make_calibration


@pytest.fixture
def adapter(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the adapter that dvc repro trains; the current folder is the project."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    folder = Path(f"models/{params.base.name}-lora-ansel")
    folder.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text(name)
    return folder


def of_adapter(folder: Path, weight: float) -> dict[str, Any]:
    return make_calibration(weight).model_dump() | {"adapter_version": adapter_version(folder)}


def write_evaluation(calibration: dict[str, Any] | None) -> None:
    """Write evaluate.json, which has the weights of both arms."""
    if calibration:
        arms = {"base": make_calibration(0).weights, "fine_tuned": calibration["weights"]}
        calibration = calibration | {"weights": arms}
    path = Path("metrics/ansel/evaluate.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"verdict": "BETTER", "calibration": calibration}))


def test_a_trained_adapter_has_the_calibration_of_its_evaluation(
    adapter: Path, params: Params
) -> None:
    find_file = build_calibration_finder(params)
    assert find_calibration(adapter, find_file) is None  # not evaluated yet
    write_evaluation(of_adapter(adapter, 0.5))
    expected = Calibration.model_validate(of_adapter(adapter, 0.5))
    assert find_calibration(adapter.resolve(), find_file) == expected
    (adapter / "adapter_config.json").write_text("trained again, not evaluated since")
    assert find_calibration(adapter, find_file) is None


def test_a_version_has_its_own_calibration(adapter: Path, params: Params) -> None:
    write_evaluation(of_adapter(adapter, 0.5))
    record = {"form": 1, "calibration": of_adapter(adapter, 0.25)}
    (adapter / "release.json").write_text(json.dumps(record))
    calibration = find_calibration(adapter, build_calibration_finder(params))
    assert calibration is not None
    assert calibration.weights["Lighting"] == 0.25


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"calibration": 3}', '{"calibration": {}}'])
def test_scores_are_shown_as_generated_without_a_readable_calibration(
    adapter: Path, params: Params, content: str
) -> None:
    (adapter / "release.json").write_text(content)
    assert find_calibration(adapter, build_calibration_finder(params)) is None


def test_calibration_that_is_off_leaves_the_scores(adapter: Path, params: Params) -> None:
    write_evaluation(None)
    assert find_calibration(adapter, build_calibration_finder(params)) is None
    assert find_calibration(Path("missing"), build_calibration_finder(params)) is None
