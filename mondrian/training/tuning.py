"""Photos of train that select the epoch: a photo that selects must not evaluate the result."""

from collections.abc import Sequence
from hashlib import sha256

from mondrian.core.errors import TrainingError
from mondrian.core.params import TrainParams
from mondrian.critique.rows import ChatRow

MIN_ROWS = 100  # critiques in train; with fewer, what is set aside is missed more than it helps


def set_aside_tuning_rows(
    train: Sequence[ChatRow], val: Sequence[ChatRow], params: TrainParams
) -> tuple[list[ChatRow], list[ChatRow]]:
    """Return the rows to train on, and the rows of which the loss is measured after each epoch.

    The latter are val, unless their loss selects the epoch (train.save_weights is best, or early
    stopping is on): then they are photos of train, the same for the same seed.

    Raises TrainingError if train has fewer than 100 critiques or a single photo.
    """
    if params.save_weights == "last" and params.early_stopping_patience == 0:
        return list(train), list(val)
    if len(train) < MIN_ROWS:
        raise TrainingError(
            f"train has {len(train)} critiques, and choosing an epoch needs at least {MIN_ROWS}, "
            "because it sets photos aside; set train.save_weights to last and "
            "train.early_stopping_patience to 0 in params.yaml"
        )
    digests = {row.photo_group: _digest(params.seed, row.photo_group) for row in train}
    groups = sorted(digests, key=digests.__getitem__)
    if len(groups) < 2:
        raise TrainingError("train has critiques of one photo only; none can be set aside")
    tuning = set(groups[: max(1, round(params.tune_fraction * len(groups)))])
    return (
        [row for row in train if row.photo_group not in tuning],
        [row for row in train if row.photo_group in tuning],
    )


def _digest(seed: int, group: str) -> str:
    return sha256(f"{seed} {group}".encode()).hexdigest()
