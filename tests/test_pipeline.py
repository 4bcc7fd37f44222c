"""The whole pipeline in a fresh clone on few photos: link, prepare, train, evaluate."""

import json
import re
from pathlib import Path

from tests.clone import SMALL_SAMPLE, Clone, copy_clone


def test_the_adapter_is_closer_to_the_advisor_than_base_and_shuffled(
    built_clone: Clone,
) -> None:
    metrics = built_clone.metrics("ansel", "evaluate")
    score_mae = metrics["fine_tuned"]["score_mae"]
    for arm in ("base", "shuffled"):
        assert score_mae < metrics[arm]["score_mae"], arm
    assert metrics["fine_tuned"]["compliance"]["constrained"] == 1


def test_the_counts_of_all_stages_agree(built_clone: Clone) -> None:
    link, prepare, train, evaluate = (
        built_clone.metrics("ansel", stage) for stage in ("link", "prepare", "train", "evaluate")
    )
    assert link["linked"] == link["finished"] == link["jobs"] == SMALL_SAMPLE
    splits = [prepare[split] for split in ("train", "val", "test")]
    assert sum(split["critiques"] for split in splits) == link["linked"]
    assert sum(split["photo_groups"] for split in splits) == prepare["photo_groups"]
    assert evaluate["photographs"] == prepare["val"]["critiques"]
    for name in ("data_report", "split_report"):
        page = (built_clone.folder / f"metrics/ansel/{name}.html").read_text()
        assert f"<strong>{link['linked']} pairs</strong>" in page
    assert {"train_loss", "val_loss", "steps"} <= set(train)
    key_metrics = built_clone.metrics("ansel", "metrics")
    assert key_metrics["val_loss"] == train["val_loss"]
    assert key_metrics["mae"] == evaluate["fine_tuned"]["score_mae"]
    assert key_metrics["n_val"] == prepare["val"]["photo_groups"]


def test_the_report_contains_every_completion(built_clone: Clone) -> None:
    report = json.loads((built_clone.folder / "metrics/ansel/comparison_report.json").read_text())
    assert len(report["photographs"]) == built_clone.metrics("ansel", "evaluate")["photographs"]
    for photograph in report["photographs"]:
        for arm in ("base", "few_shot", "fine_tuned"):
            assert photograph[arm]["text"]
            assert photograph[arm]["tokens"] > 0
        assert photograph["base"]["text"] != photograph["fine_tuned"]["text"]
    log = built_clone.folder / "models/mondrian-tiny-lora-ansel/training_log.jsonl"
    losses = [
        e["val_loss"] for e in map(json.loads, log.read_text().splitlines()) if "val_loss" in e
    ]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_a_second_run_does_nothing(built_clone: Clone) -> None:
    assert "Data and pipelines are up to date" in built_clone.run("dvc", "repro")


def test_settings_that_do_not_fit_the_data_are_one_clear_line(
    built_clone: Clone, tmp_path: Path
) -> None:
    clone = copy_clone(built_clone, tmp_path)
    params = clone.folder / "params.yaml"
    text = re.sub(r"max_seq_length: \d+", "max_seq_length: 100", params.read_text())
    params.write_text(text)
    error = clone.fail("dvc", "repro", "train@ansel")
    assert "more than train.max_seq_length (100) tokens: ansel/" in error


def test_the_summary_shows_the_figures(built_clone: Clone) -> None:
    summary = built_clone.mondrian("summary")
    assert "critiques of 8 photos not used in training" in summary
    assert "fine_tuned" in summary


def test_metrics_fit_on_a_screen(built_clone: Clone) -> None:
    header, *rows = built_clone.run("dvc", "metrics", "show").splitlines()
    assert len(rows) == 1
    assert len(header) <= 180


def test_the_plots_can_be_shown(built_clone: Clone) -> None:
    built_clone.run("dvc", "plots", "show")
    page = (built_clone.folder / "dvc_plots" / "index.html").read_text()
    for title in ("loss, ansel", "score error, ansel", "job outcomes, ansel"):
        assert title in page
