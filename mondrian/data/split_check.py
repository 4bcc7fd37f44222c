"""Refuse a split with too few photos, and name the settings that would change it."""

from mondrian.core.errors import DataError
from mondrian.core.params import PrepareParams
from mondrian.critique.rows import MIN_GROUPS
from mondrian.data.split import DatasetSplit


def check_split_sizes(advisor: str, split: DatasetSplit, params: PrepareParams) -> None:
    counts = split.counts()
    requirements = (
        ("train", "critiques", params.min_train),
        ("val", "photo_groups", params.min_val),
        ("test", "photo_groups", params.min_test if params.test_fraction else 0),
    )
    problems = [
        f"{part} has {counts[part][key]}, at least {minimum} needed (prepare.min_{part})"
        for part, key, minimum in requirements
        if counts[part][key] < minimum
    ]
    num_groups = len(split.part_groups("train") | split.part_groups("val"))
    if counts["walks"] and num_groups < MIN_GROUPS:
        problems.append(f"train and val have {num_groups}, a verdict needs at least {MIN_GROUPS}")
    walks = _describe_walks(split, params)
    if problems:
        raise DataError(
            f"prepare {advisor}: too few photos in {counts['photo_groups']} groups: "
            f"{'; '.join(problems)}{walks}; link more critiques, lower the numbers in params.yaml, "
            "or have no test split (prepare.test_fraction: 0)"
        )
    _check_scored_photos(advisor, split, params)
    if params.folds > num_groups:
        raise DataError(
            f"prepare {advisor}: prepare.folds is {params.folds}, more than the {num_groups} "
            f"groups{walks}; lower it"
        )


def _describe_walks(split: DatasetSplit, params: PrepareParams) -> str:
    """Return what to say about walks in an error about too few groups; nothing without walks."""
    counts = split.counts()
    if not counts["walks"]:
        return ""
    return (
        f"; {counts['walk_photos']} of {counts['photos']} photos are of {counts['walks']} walks, "
        f"which count as one photo each: lower prepare.session_minutes ({params.session_minutes}; "
        "0 = off), or raise prepare.val_fraction"
    )


def _check_scored_photos(advisor: str, split: DatasetSplit, params: PrepareParams) -> None:
    """Raise DataError if the verdict would always be INCONCLUSIVE: too few photos have scores."""
    problems = [
        f"{part} has {count}, at least {minimum} needed"
        for part, minimum in (("train", 1), ("val", params.min_val))
        if (count := len(split.scored_groups(part))) < minimum
    ]
    if problems:
        raise DataError(
            f"prepare {advisor}: too few photos with scores: {'; '.join(problems)}"
            f"{_describe_walks(split, params)}; no verdict on scores is possible without "
            "them: link more critiques with scores, raise prepare.val_fraction, or lower "
            "prepare.min_val"
        )
