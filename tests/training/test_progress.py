from pathlib import Path
from typing import Any

import pytest

from mondrian.core.errors import TrainingError
from mondrian.training.progress import Tracker, open_tracker

ENTRIES: list[dict[str, Any]] = [
    {"step": 1, "epoch": 1, "loss": 2.5, "rate": 1e-4},
    {"step": 2, "epoch": 1, "loss": 2.0, "rate": 2e-4},
    {"step": 2, "epoch": 1, "val_loss": 2.2},
]


def test_none_writes_nothing(tmp_path: Path) -> None:
    tracker = open_tracker("none", tmp_path / "none", "ansel")
    tracker.log(ENTRIES[0])
    tracker.close()
    assert tracker == Tracker()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("kind", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_named(tmp_path: Path, kind: Any, package: str) -> None:
    try:
        __import__(package)
    except ImportError:
        message = (
            f"machine.tracker is {kind}, and {package} is not installed; pip install {package}"
        )
        with pytest.raises(TrainingError, match=message):
            open_tracker(kind, tmp_path, "ansel")
    else:
        pytest.skip(f"{package} is installed")


def test_tensorboard_logs_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    tracker = open_tracker("tensorboard", tmp_path / "curves", "ansel")
    for entry in ENTRIES:
        tracker.log(entry)
    tracker.close()
    (events,) = (tmp_path / "curves").iterdir()
    content = events.read_bytes()
    assert all(name in content for name in (b"loss", b"val_loss", b"rate"))


@pytest.mark.filterwarnings("ignore")
def test_wandb_logs_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = open_tracker("wandb", tmp_path / "wandb", "ansel")
    for entry in ENTRIES:
        tracker.log(entry)
    tracker.close()
    assert list((tmp_path / "wandb").rglob("*.wandb"))
