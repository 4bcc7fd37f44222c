"""A few val photographs critiqued while training: does the adapter still answer in form?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.schema import is_schema_valid
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.generate import generate
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.dataset import Example


def evaluate_samples(
    features: FeatureCache, rows: Sequence[Example], count: int, max_tokens: int
) -> dict[str, float]:
    """Compliance, and mean score error where there are scores, of the first `count` rows.

    Greedy, by the adapter that is attached.
    """
    samples = rows[:count]
    limit = max_tokens - max(row.start for row in samples)
    prompts = [row.ids[: row.start] for row in samples]
    image_features = [features.get(row.photo) for row in samples]
    errors, form = [], []
    for row, answer in zip(
        samples,
        generate(features.vlm, prompts, image_features, SamplingParams(limit, 1)),
        strict=True,
    ):
        form.append(is_schema_valid(answer.text))
        parsed = parse_critique(answer.text)
        if isinstance(parsed, ParsedCritique):
            errors.append(np.abs(np.subtract(parsed.critique.scores(), row.scores)).mean())
    metrics = {"val_compliance": float(np.mean(form))}
    return metrics | ({"val_score_mae": float(np.mean(errors))} if errors else {})
