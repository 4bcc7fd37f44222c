"""Preference pairs among the training rows: a row with a worse critique of its photo as well.

ORPO (arXiv:2403.07691) learns the better critique like any other row, and adds a loss on the odds
ratio of the two. A row without a worse critique has no such loss, so a run without pairs is SFT.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mondrian.core.errors import DataError, TrainingError
from mondrian.core.params import TrainParams
from mondrian.critique.preference_rows import PreferenceRow, read_preference_rows
from mondrian.critique.rows import ChatRow
from mondrian.training.tuning import set_aside_tuning_rows

Rows = list[ChatRow]


def arrange_rows(
    train: Sequence[ChatRow],
    val: Sequence[ChatRow],
    pairs: Sequence[PreferenceRow],
    params: TrainParams,
) -> tuple[Rows, Rows]:
    """Return the rows to train on, and those that are measured after each epoch.

    Pairs of val photos, and of photos set aside, are measured and not trained on. Raises
    TrainingError as `set_aside_tuning_rows` does.
    """
    trained, measured = set_aside_tuning_rows(train, val, params)
    held_out = {row.photo_group for row in (*val, *measured)}
    train_pairs = [pair for pair in pairs if pair.photo_group not in held_out]
    val_pairs = [pair for pair in pairs if pair.photo_group in held_out]
    return merge_pairs(trained, train_pairs), [*measured, *val_pairs]


def merge_pairs(rows: Sequence[ChatRow], pairs: Sequence[PreferenceRow]) -> Rows:
    """Return rows, each with the worse critique of a pair if its own is the better one of it.

    The other pairs are added as rows: their better critique is in none, or has several worse ones.
    """
    by_better: dict[tuple[str, str], list[PreferenceRow]] = defaultdict(list)
    for pair in pairs:
        by_better[_better_critique(pair)].append(pair)
    merged: Rows = []
    for row in rows:
        waiting = by_better[_better_critique(row)]
        merged.append(PreferenceRow.prefer(row, waiting.pop(0).rejected) if waiting else row)
    return [*merged, *(pair for waiting in by_better.values() for pair in waiting)]


def _better_critique(row: ChatRow) -> tuple[str, str]:
    return row.photo, row.messages[-1]["content"]


def read_pairs(path: Path | None, params: TrainParams) -> list[PreferenceRow]:
    """Read the pairs if the method trains on them; raises TrainingError if no file is given."""
    if params.method != "orpo":
        return []
    if path is None:
        raise TrainingError(
            "train.method is orpo, and --preferences is missing: give the file that the stage "
            "preferences writes, or set train.method to sft"
        )
    return read_preference_rows(path)


def check_prompts(rows: Sequence[ChatRow], pairs: Sequence[PreferenceRow]) -> None:
    """Raise DataError if a pair has another prompt than the rows."""
    for pair in pairs:
        if pair.prompt_hash != rows[0].prompt_hash:
            raise DataError(
                f"pair {pair.id} has another prompt than row {rows[0].id}; run the stages prepare "
                "and preferences again: dvc repro"
            )


def describe_pairs(recipe: dict[str, Any], rows: Sequence[ChatRow]) -> dict[str, Any]:
    """Return the recipe of an adapter with the pairs among the rows that it was trained on."""
    pairs = [row for row in rows if isinstance(row, PreferenceRow)]
    groups = {*recipe["train_photo_groups"], *(pair.photo_group for pair in pairs)}
    return recipe | {"preference_pairs": len(pairs), "train_photo_groups": sorted(groups)}
