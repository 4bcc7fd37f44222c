"""Odds ratio of a preferred completion over a rejected one (ORPO, arXiv:2403.07691, eq. 4 to 7).

The probability of a completion is the geometric mean of its tokens' probabilities, weighted like
the loss: with train.score_weight 1 this is the mean log-probability that TRL's ORPOTrainer uses.
"""

from collections.abc import Sequence

import mlx.core as mx

from mondrian.training.packing import Pair

_MAX_LOG_PROB = -1e-6  # 1 - p would be 0 in float32


def compute_log_odds_ratios(losses: mx.array, weights: mx.array, pairs: Sequence[Pair]) -> mx.array:
    """Return the log odds ratio of each pair; above 0 the preferred completion is more likely.

    losses   (targets,)  weighted cross-entropy
    weights  (targets,)  its weights
    """

    def compute_log_odds(side: int) -> mx.array:
        spans = [pair[side] for pair in pairs]
        means = [losses[a:b].sum() / weights[a:b].sum() for a, b in spans]
        log_prob = mx.minimum(-mx.stack(means), _MAX_LOG_PROB)
        return log_prob - mx.log(-mx.expm1(log_prob))

    return compute_log_odds(0) - compute_log_odds(1)


def odds_ratio_loss(log_odds_ratios: mx.array) -> mx.array:
    """Return -log sigmoid of each."""
    return mx.logaddexp(mx.zeros_like(log_odds_ratios), -log_odds_ratios)
