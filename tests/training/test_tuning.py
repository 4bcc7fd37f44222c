"""No photograph evaluates what it selected."""

import pytest

from mondrian.core.errors import TrainingError
from mondrian.core.params import Params, TrainParams
from mondrian.critique.rows import ChatRow
from mondrian.training.tuning import set_aside_tuning_rows
from tests.evaluation.answers import make_row

VAL = [make_row("ansel/val", "val")]


def make_rows(count: int) -> list[ChatRow]:
    """Return rows with two critiques of each photo."""
    return [make_row(f"ansel/{i}", f"photo {i // 2}") for i in range(count)]


def change(params: Params, **update: object) -> TrainParams:
    return params.train.model_copy(update=update)


def test_by_default_the_last_epoch_is_saved_and_nothing_is_set_aside(params: Params) -> None:
    assert params.train.save_weights == "last"
    assert set_aside_tuning_rows(make_rows(40), VAL, params.train) == (make_rows(40), VAL)


@pytest.mark.parametrize("update", [{"save_weights": "best"}, {"early_stopping_patience": 2}])
def test_photos_of_train_select_the_epoch_with_all_their_critiques(
    params: Params, update: dict[str, object]
) -> None:
    settings = change(params, tune_fraction=0.2, **update)
    rows = make_rows(200)
    train, tuning = set_aside_tuning_rows(rows, VAL, settings)
    assert len(tuning) == 40
    assert not {row.photo_group for row in train} & {row.photo_group for row in (*tuning, *VAL)}
    assert sorted(row.id for row in (*train, *tuning)) == sorted(row.id for row in rows)
    assert set_aside_tuning_rows(rows[::-1], VAL, settings)[1] == tuning[::-1]
    assert set_aside_tuning_rows(rows, VAL, settings.model_copy(update={"seed": 9}))[1] != tuning


def test_below_100_critiques_the_best_epoch_is_refused(params: Params) -> None:
    settings = change(params, save_weights="best")
    with pytest.raises(TrainingError, match="train has 99 critiques, .*save_weights to last"):
        set_aside_tuning_rows(make_rows(99), VAL, settings)
    assert set_aside_tuning_rows(make_rows(100), VAL, settings)[1]
    with pytest.raises(TrainingError, match="critiques of one photo only"):
        set_aside_tuning_rows([make_row(str(i), "a") for i in range(120)], VAL, settings)
