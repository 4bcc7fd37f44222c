"""A photo as one vector: the vision tower's output without its tokens' places."""

import mlx.core as mx
import numpy as np

from mondrian.core.fields import FloatArray
from mondrian.model.language import Features


def summarize_features(features: Features) -> FloatArray:
    """Return mean and standard deviation over a photo's tokens: (2 x width,)."""
    tokens = np.array(features.merged.astype(mx.float32), np.float64)
    return np.concatenate([tokens.mean(axis=0), tokens.std(axis=0)])
