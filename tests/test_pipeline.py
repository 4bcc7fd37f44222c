"""The whole pipeline in a fresh clone on few photos: link, prepare, train, evaluate."""

import json
import re
import subprocess

import pytest

from tests.clone import SMALL_SAMPLE, Clone, make_small_clone
from tests.waiting import PATIENCE


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = make_small_clone(tmp_path_factory.mktemp("clone"))
    clone.run("dvc", "repro", "evaluate@ansel")
    return clone


def test_the_adapter_is_closer_to_the_advisor_than_base_constant_and_shuffled(
    clone: Clone,
) -> None:
    metrics = clone.metrics("ansel", "evaluate")
    score_mae = metrics["fine_tuned"]["score_mae"]
    for arm in ("base", "constant", "shuffled"):
        assert score_mae < metrics[arm]["score_mae"], arm
    assert metrics["fine_tuned"]["compliance"]["constrained"] == 1


def test_the_counts_of_all_stages_agree(clone: Clone) -> None:
    link, prepare, train, evaluate = (
        clone.metrics("ansel", stage) for stage in ("link", "prepare", "train", "evaluate")
    )
    assert link["linked"] == link["finished"] == link["jobs"] == SMALL_SAMPLE
    splits = [prepare[split] for split in ("train", "val", "test")]
    assert sum(split["critiques"] for split in splits) == link["linked"]
    assert sum(split["photo_groups"] for split in splits) == prepare["photo_groups"]
    assert evaluate["photographs"] == prepare["val"]["critiques"]
    page = (clone.folder / "metrics/ansel/data_report.html").read_text()
    assert f"<strong>{link['linked']} pairs</strong>" in page
    assert {"train_loss", "val_loss", "tokens_per_second", "peak_memory_gb"} <= set(train)


def test_the_report_contains_every_completion(clone: Clone) -> None:
    report = json.loads((clone.folder / "metrics/ansel/comparison_report.json").read_text())
    assert len(report["photographs"]) == clone.metrics("ansel", "evaluate")["photographs"]
    for photograph in report["photographs"]:
        for arm in ("base", "few_shot", "fine_tuned", "shuffled"):
            assert photograph[arm]["text"]
            assert photograph[arm]["tokens"] > 0
        assert photograph["base"]["text"] != photograph["fine_tuned"]["text"]
    log = clone.folder / "models/mondrian-tiny-lora-ansel/training_log.jsonl"
    losses = [
        e["val_loss"] for e in map(json.loads, log.read_text().splitlines()) if "val_loss" in e
    ]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_a_second_run_does_nothing(clone: Clone) -> None:
    assert "Data and pipelines are up to date" in clone.run("dvc", "repro", "evaluate@ansel")


def test_a_failed_run_keeps_the_outputs_of_the_run_before(clone: Clone) -> None:
    adapter_dir = clone.folder / "models/mondrian-tiny-lora-ansel"
    adapter_files = {p.name: p.read_bytes() for p in adapter_dir.iterdir()}
    params = clone.folder / "params.yaml"
    text = params.read_text()
    try:
        params.write_text(re.sub(r"max_seq_length: \d+", "max_seq_length: 100", text))
        run = subprocess.run(
            ["dvc", "repro", "train@ansel"],
            cwd=clone.folder,
            env=clone.env,
            timeout=PATIENCE,
            capture_output=True,
            text=True,
        )
        assert run.returncode != 0
        assert "more than train.max_seq_length (100) tokens: ansel/" in run.stderr
        assert "Traceback" not in run.stderr
        assert {p.name: p.read_bytes() for p in adapter_dir.iterdir()} == adapter_files
    finally:
        params.write_text(text)


def test_the_summary_shows_the_figures(clone: Clone) -> None:
    summary = clone.mondrian("summary")
    assert "critiques of 12 photos not used in training" in summary
    assert "fine_tuned" in summary


def test_the_loss_curves_can_be_plotted(clone: Clone) -> None:
    clone.run("dvc", "plots", "show")
    page = (clone.folder / "dvc_plots" / "index.html").read_text()
    assert "train loss, ansel" in page
    assert "val loss, ansel" in page
