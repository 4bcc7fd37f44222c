"""What another choice in params.yaml runs again, and what the old one gives."""

from __future__ import annotations

import re

import pytest

from tests.cloned import Clone, cloned

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    made = cloned(tmp_path_factory.mktemp("fresh"))
    made.run("dvc", "repro", "data/sample/dvc.yaml")
    made.run("dvc", "repro", "evaluate@ansel")
    return made


def test_a_new_rate_reruns_train_and_evaluate_and_the_old_one_gives_the_old_bytes(
    clone: Clone,
) -> None:
    clone.commit("first run")
    params = clone.folder / "params.yaml"
    text = params.read_text()
    folder = clone.folder / "models/mondrian-tiny-lora-ansel"
    first = {p.name: p.read_bytes() for p in folder.iterdir()}
    try:
        params.write_text(re.sub(r"learning_rate: \S+", "learning_rate: 1.0e-3", text))
        assert "train.learning_rate" in clone.run("dvc", "params", "diff")
        shown = clone.run("dvc", "repro", "evaluate@ansel")
        assert re.findall(r"Running stage '([^']+)'", shown) == ["train@ansel", "evaluate@ansel"]
        assert "fine_tuned.score_mae" in clone.run("dvc", "metrics", "diff")
    finally:
        params.write_text(text)
    # Trained once more, not taken from DVC's cache of runs: the same seed, the same bytes.
    clone.run("dvc", "repro", "--no-run-cache", "--single-item", "train@ansel")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == first
