"""A few val photographs critiqued while training: does the adapter still answer in form?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mondrian.critique.parser import Recovered, recover
from mondrian.critique.schema import complies
from mondrian.model.batch_generator import How
from mondrian.model.generate import generate
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.dataset import Example


def examine(
    features: FeatureCache, rows: Sequence[Example], count: int, max_tokens: int
) -> dict[str, float]:
    """Compliance, and mean score error where there are scores, of the first `count` rows.

    Greedy, by the adapter that is attached.
    """
    some = rows[:count]
    limit = max_tokens - max(row.start for row in some)
    prompts = [row.ids[: row.start] for row in some]
    seen = [features.get(row.photo) for row in some]
    errors, form = [], []
    for row, answer in zip(some, generate(features.vlm, prompts, seen, How(limit, 1)), strict=True):
        form.append(complies(answer.text))
        found = recover(answer.text)
        if isinstance(found, Recovered):
            errors.append(np.abs(np.subtract(found.critique.scores(), row.scores)).mean())
    told = {"val_compliance": float(np.mean(form))}
    return told | ({"val_score_mae": float(np.mean(errors))} if errors else {})
