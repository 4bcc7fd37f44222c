"""Which stages a changed parameter reruns, and whether the old value gives the old bytes."""

import re
from pathlib import Path

import pytest

from tests.clone import Clone, copy_clone

pytestmark = pytest.mark.slow


def test_a_new_learning_rate_reruns_train_and_evaluate_and_the_old_one_gives_the_old_bytes(
    built_clone: Clone, tmp_path: Path
) -> None:
    clone = copy_clone(built_clone, tmp_path)
    clone.commit("first run")
    params = clone.folder / "params.yaml"
    text = params.read_text()
    adapter_dir = clone.folder / "models/mondrian-tiny-lora-ansel"
    adapter_files = {p.name: p.read_bytes() for p in adapter_dir.iterdir()}
    try:
        params.write_text(re.sub(r"learning_rate: \S+", "learning_rate: 1.0e-3", text))
        assert "train.learning_rate" in clone.run("dvc", "params", "diff")
        output = clone.run("dvc", "repro", "evaluate@ansel")
        assert re.findall(r"Running stage '([^']+)'", output) == ["train@ansel", "evaluate@ansel"]
        assert "fine_tuned.score_mae" in clone.run("dvc", "metrics", "diff")
    finally:
        params.write_text(text)
    # --no-run-cache: train again instead of restoring the first run from DVC's run cache.
    clone.run("dvc", "repro", "--no-run-cache", "--single-item", "train@ansel")
    assert {p.name: p.read_bytes() for p in adapter_dir.iterdir()} == adapter_files
