"""Whether jobs came to the arms as they were dealt: sequential check for a sample ratio mismatch.

Jobs that are lost, doubled or dealt by another rule than the one on record make every comparison
of the arms worthless, however narrow its interval.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit, logsumexp

from mondrian.core.fields import FloatArray
from mondrian.rollout.confidence_sequences import Bools

# Chance of an alarm, ever, where nothing is wrong. An alarm holds a roll-out until a person looked;
# a mismatch that is missed decides wrongly. So more false ones are borne than of an interval.
MISMATCH_LEVEL = 0.1
# log odds by which the deal may be off (0.2 is 45 to 55 in place of even) and the weight of each
_LOG_ODDS_SHIFTS = np.array([-0.8, -0.2, 0.2, 0.8])
_WEIGHTS = np.array([0.05, 0.45, 0.45, 0.05])


def mismatch_e_values(candidate: Bools, share: FloatArray) -> FloatArray:
    """Running e-value that assignments do not follow the shares they were dealt with: (…, n).

    A mixture of likelihood ratios, each with the odds of every observation multiplied by a factor:
    a martingale where the shares are true (Lindon & Malek 2020 mix over shares, which have to stay
    the same). At 1 / MISMATCH_LEVEL and above, once, it is an alarm (Ville's inequality).

    share  chance with which each was dealt to the candidate, above 0 and below 1
    """
    share = np.asarray(share, float)
    if not ((share > 0) & (share < 1)).all():
        raise ValueError("share must lie above 0 and below 1; leave out what was not dealt by lot")
    propensity = np.where(candidate, share, 1 - share)
    ratios = [_log_ratio(candidate, share, propensity, shift) for shift in _LOG_ODDS_SHIFTS]
    weights = _WEIGHTS.reshape(-1, *[1] * share.ndim)
    out: FloatArray = np.exp(np.minimum(logsumexp(ratios, axis=0, b=weights), 700))
    return out


def _log_ratio(
    candidate: Bools, share: FloatArray, propensity: FloatArray, shift: float
) -> FloatArray:
    shifted = expit(logit(share) + shift)
    out: FloatArray = np.cumsum(np.log(np.where(candidate, shifted, 1 - shifted) / propensity), -1)
    return out
