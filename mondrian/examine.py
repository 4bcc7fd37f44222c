"""A few val photographs critiqued while training: does the adapter still answer in form?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mondrian.critique import complies
from mondrian.examples import Example
from mondrian.features import FeatureCache
from mondrian.recover import Recovered, recover
from mondrian.vlm import generate


def examine(
    features: FeatureCache, rows: Sequence[Example], count: int, max_tokens: int
) -> dict[str, float]:
    """Compliance, and mean score error where there are scores, of the first `count` rows.

    Greedy, one photograph at a time, by the adapter that is attached.
    """
    errors, form = [], []
    for row in rows[:count]:
        seen = features.get(row.photo)
        prompt, limit = row.ids[: row.start], max_tokens - row.start
        text = generate(features.vlm, [prompt], [seen], limit)[0].text
        form.append(complies(text))
        found = recover(text)
        if isinstance(found, Recovered):
            errors.append(np.abs(np.subtract(found.critique.scores(), row.scores)).mean())
    told = {"val_compliance": float(np.mean(form))}
    return told | ({"val_score_mae": float(np.mean(errors))} if errors else {})
