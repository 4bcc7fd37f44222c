from pathlib import Path

import pytest

from mondrian.core.adapter_folder import LOG_FILE
from mondrian.core.errors import AdapterError
from mondrian.core.training_log import find_saved_epoch, list_loss_points, read_training_log

LOG = """\
{"step": 1, "loss": 2.0}
{"step": 1, "epoch": 1, "val_loss": 0.5}
{"step": 2, "loss": 1.0}
{"step": 2, "epoch": 2, "val_loss": 0.7}
"""


def test_the_saved_epoch_is_the_best_or_the_last(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_text(LOG)
    log = read_training_log(tmp_path)
    assert find_saved_epoch(log, "best")["val_loss"] == 0.5
    assert find_saved_epoch(log, "last")["val_loss"] == 0.7
    assert list_loss_points(log) == [
        (1, "train", 2.0),
        (2, "train", 1.0),
        (1, "val", 0.5),
        (2, "val", 0.7),
    ]
    assert read_training_log(tmp_path / "imported") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no whole epoch"),
        ('{"step": 1, "loss": 2.0}', "it has no whole epoch"),
        ('{"step": 1, "val_loss": NaN}', "a loss is not finite"),
        ('{"val_loss": 1.0}', "'step'"),
        ("1", "not iterable"),
        ("{", "Expecting"),
    ],
)
def test_a_damaged_log_is_one_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / LOG_FILE).write_text(text)
    with pytest.raises(AdapterError, match=rf"training_log.jsonl is damaged \(.*{message}"):
        read_training_log(tmp_path)
