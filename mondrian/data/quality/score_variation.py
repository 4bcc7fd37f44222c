"""Check that the scores of a set depend on the photo: a model would learn a constant otherwise."""

from collections.abc import Iterable

import numpy as np

from mondrian.core.errors import DataError
from mondrian.data.manifest import ManifestRecord

_MAX_SHARE, _WARN_SHARE = 0.5, 0.25  # of the photos that have the same seven scores
_MIN_SPREAD, _WARN_SPREAD = 0.1, 0.3  # standard deviation of the dimension that varies most
_FIX = (
    "set link.template_scores and link.constant_scores to leave_out or text_only in params.yaml, "
    "or link critiques whose scores depend on the photo"
)


def check_score_variation(advisor: str, records: Iterable[ManifestRecord]) -> str | None:
    """Return a warning if the scores hardly vary; raises DataError if they do not.

    A photo with several critiques counts once for each different set of scores.
    """
    pairs = {(r.photo.group, r.critique.scores()) for r in records if r.scored}
    if len(pairs) < 2:
        return None  # check_split_sizes rejects so few
    num_photos = len({group for group, _ in pairs})
    vectors, counts = np.unique([scores for _, scores in pairs], axis=0, return_counts=True)
    spread = float(np.std([scores for _, scores in pairs], axis=0).max())
    most = counts.max()
    text = " ".join(f"{score:g}" for score in vectors[counts.argmax()])
    problems = (
        (most / num_photos, f"{most} of {num_photos} photos have the scores {text}"),
        (-spread, f"no dimension has a standard deviation above {spread:.2f} points of 10"),
    )
    for (share, problem), limit in zip(problems, (_MAX_SHARE, -_MIN_SPREAD), strict=True):
        if share > limit:
            raise DataError(f"prepare {advisor}: {problem}, which teaches a constant; {_FIX}")
    for (share, problem), limit in zip(problems, (_WARN_SHARE, -_WARN_SPREAD), strict=True):
        if share > limit:
            return f"warning: prepare {advisor}: {problem}: little to learn from; {_FIX}"
    return None
