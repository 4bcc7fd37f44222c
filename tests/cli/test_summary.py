from pathlib import Path

import pytest

from mondrian.cli.summary import describe_advisor, describe_training
from mondrian.core.files import write_json


@pytest.mark.parametrize(("val", "stale"), [(21, False), (6, True)])
def test_metrics_of_other_data_are_marked_as_stale(tmp_path: Path, val: int, stale: bool) -> None:
    arm = {
        "format_compliance": 1.0,
        "scored": 21,
        "score_mae": 1.0,
        "score_bias": 0.0,
        "seconds_per_critique": 0.1,
        "tokens_per_critique": 300.0,
    }
    split = {"critiques": 9}
    metrics = {
        "link": {"linked": 40, "finished": 50},
        "prepare": {"train": split, "val": {"critiques": val}, "test": split},
        "train": {"seconds": 9.0, "tokens_per_second": 9.0, "val_loss": 1.0, "peak_memory_gb": 1.0},
        "evaluate": {
            "photographs": 21,
            "base": arm,
            "fine_tuned": arm,
            "constant": arm,
            "verdict": "INCONCLUSIVE",
            "photograph_groups": 21,
            "comparisons": {"index": {"needed": 80}},
        },
    }
    for stage, content in metrics.items():
        write_json(tmp_path / "ansel" / f"{stage}.json", content)
    text = describe_advisor("ansel", tmp_path)
    assert ("run dvc repro" in text) == stale
    assert "INCONCLUSIVE on 21" in text
    assert "about 80 photos" in text


def test_an_imported_adapter_has_a_val_loss_only() -> None:
    train = {"train_loss": None, "val_loss": 0.5, "epoch": None, "epochs": None, "steps": None}
    assert describe_training(train) == "adapter imported, val loss 0.500"
