from pathlib import Path
from typing import Any

import pytest

from mondrian.core.errors import TrainingError
from mondrian.core.params import Params
from mondrian.training.distributed import ProcessGroup
from mondrian.training.run import RunPaths, TrainingData, TrainingRun, lock_run_folder


def test_only_one_run_at_a_time_trains_an_adapter(tmp_path: Path) -> None:
    with lock_run_folder(tmp_path / "run", []):
        with pytest.raises(TrainingError, match="another run is training in"):
            with lock_run_folder(tmp_path / "run", []):
                pass
    with lock_run_folder(tmp_path / "run", []):
        pass


def test_staging_files_of_a_killed_run_are_removed_and_nothing_else(tmp_path: Path) -> None:
    target, other = tmp_path / "adapter", tmp_path / "adapter-2"
    for folder in (target, other, tmp_path / ".adapter.x1", tmp_path / ".adapter.x2.old"):
        folder.mkdir()
    (tmp_path / ".checkpoint-1.st.y").write_text("half")
    (tmp_path / ".adapter-2.z").mkdir()
    with lock_run_folder(tmp_path / "run", [target, tmp_path / "checkpoint*.st"]):
        names = {path.name for path in tmp_path.iterdir()}
    assert names == {"adapter", "adapter-2", ".adapter-2.z", "run"}


def test_the_old_folder_is_kept_if_the_new_one_is_missing(tmp_path: Path) -> None:
    (tmp_path / ".adapter.x.old").mkdir()
    with lock_run_folder(tmp_path / "run", [tmp_path / "adapter"]):
        assert (tmp_path / ".adapter.x.old").exists()


@pytest.mark.parametrize(
    ("gpu_error", "message"),
    [
        (
            "Impacting Interactivity",
            r"GPU watchdog.*caffeinate -s.*; then run again, finished work",
        ),
        ("Insufficient Memory", r"out of memory: .*--plan --memory_gb.*machine.cache_limit_gb"),
    ],
)
def test_a_run_that_the_gpu_ends_is_one_line_with_the_remedy(
    gpu_error: str,
    message: str,
    params: Params,
    base_vlm: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: TrainingRun, data: TrainingData) -> None:
        raise RuntimeError(f"[METAL] Command buffer execution failed: {gpu_error} (0000000e)")

    monkeypatch.setattr(TrainingRun, "_prepare", fail)
    paths = RunPaths(tmp_path / "adapter", tmp_path / "train.json", tmp_path, "ansel")
    run = TrainingRun(base_vlm, params.train, params.machine, ProcessGroup(), paths)
    with pytest.raises(TrainingError, match=message) as caught:
        run.run(TrainingData([], [], {}), {})
    assert "\n" not in str(caught.value)
