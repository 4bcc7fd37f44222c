import shutil
from pathlib import Path

import pytest

from mondrian.cli import summary
from mondrian.cli.summary import describe_advisor, describe_training
from mondrian.core.errors import DataError
from mondrian.core.files import write_json
from mondrian.evaluation.preference import VOTES_FILE, Vote, VoteLog
from mondrian.training.progress import NO_TIMING
from tests.conftest import ROOT


@pytest.mark.parametrize(("val", "stale"), [(21, False), (6, True)])
def test_metrics_of_other_data_are_marked_as_stale(tmp_path: Path, val: int, stale: bool) -> None:
    arm = {
        "quality_index": 50.0,
        "format_compliance": 1.0,
        "score_mae": 1.0,
        "score_bias": 0.0,
        "tokens_per_critique": 300.0,
    }
    split = {"critiques": 9}
    metrics = {
        "link": {"linked": 40, "finished": 50},
        "prepare": {"train": split, "val": {"critiques": val}, "test": split},
        "train": {"steps": 9, "val_loss": 1.0, "epoch": 1, "epochs": 2},
        "train_timing": {"seconds": 9.0, "tokens_per_second": 9.0, "peak_memory_gb": 1.0},
        "evaluate": {
            "photographs": 21,
            "base": arm,
            "fine_tuned": arm,
            "constant": {**arm, "quality_index": None},
            "verdict": "INCONCLUSIVE",
            "photograph_groups": 21,
            "comparisons": {
                "index": {
                    "needed": 80,
                    "mean": 1.0,
                    "low": -1.0,
                    "high": 3.0,
                    "groups": 19,
                    "above_zero": False,
                }
            },
            "gates": {
                "compliance": {"value": 0.5, "threshold": 0.95, "holds": False},
                "base_compliance": {"value": 0.5, "threshold": 0.9, "holds": False},
            },
        },
        "evaluate_timing": {"overhead": 0.5, "max_overhead": 0.3},
    }
    folder = tmp_path / "ansel"
    for name, content in metrics.items():
        write_json(folder / f"{name}.json", content)
    text = describe_advisor("ansel", folder, "sft")
    assert "blind votes" not in text
    assert "prepare.folds: 5 halves the interval" in text
    assert "  cross-validation: none\n" in describe_advisor("ansel", folder, "orpo")
    votes = VoteLog(folder / VOTES_FILE)
    for i, adapter in enumerate(("a1", "a1", "a0")):
        group = f"group-{i}"
        votes.add(
            Vote(
                adapter=adapter,
                photo_group=group,
                pair="",
                side="left",
                choice="fine_tuned",
                at="2026-11-30",
            )
        )
    write_json(folder / "comparison_report.json", {"adapter": {"version": "a1"}})
    text = describe_advisor("ansel", folder, "sft")
    assert "blind votes: adapter 2, base 0, equal 0; the adapter is preferred in 100%" in text
    assert ("run dvc repro" in text) == stale
    assert "INCONCLUSIVE on 21" in text
    assert "may be 0 on 19 photos: about 80 would show it" in " ".join(text.split())
    assert "failed gate: compliance is 0.5, the threshold is 0.95" in text
    assert "warning: base_compliance" in text
    assert "warning: the adapter takes 50% more time" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_training_with_pairs_shows_what_was_learned_from_them() -> None:
    timing = {"seconds": 9.0, "tokens_per_second": 9.0, "peak_memory_gb": 1.0}
    train = {"steps": 9, "val_loss": 1.0, "epoch": 2, "epochs": 2, "train_pairs": 20}
    text = describe_training({**train, "val_pairs": 0}, timing)
    assert text.endswith("in epoch 2 of 2; 20 preference pairs")
    measured = {
        "val_pairs": 8,
        "base_preference_accuracy": 0.5,
        "val_preference_accuracy": 0.875,
        "val_odds_ratio_loss": 0.41,
    }
    text = describe_training(train | measured, timing)
    assert "likely in 88% of 8 val pairs (base: 50%), odds-ratio loss 0.410" in text


@pytest.mark.parametrize(
    ("name", "text"),
    [("metrics", "{}"), ("metrics", "[]"), ("link", "{}"), ("prepare", "null"), ("evaluate", "{}")],
)
def test_a_damaged_file_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    files = ("link", "prepare", "train", "train_timing", "evaluate", "evaluate_timing", "metrics")
    for advisor in ("ansel", "okeefe"):
        for file in files:
            write_json(tmp_path / "metrics" / advisor / f"{file}.json", {})
    (tmp_path / "metrics/ansel" / f"{name}.json").write_text(text)
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is damaged or of another version .*dvc repro"):
        summary.main([])


def test_an_imported_adapter_has_a_val_loss_only() -> None:
    train = {"train_loss": None, "val_loss": 0.5, "epoch": None, "epochs": None, "steps": None}
    assert describe_training(train, NO_TIMING) == "adapter imported, val loss 0.500"
