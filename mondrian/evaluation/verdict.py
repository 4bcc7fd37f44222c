"""From a report to a verdict: comparisons with intervals, gates, and BETTER, WORSE or INCONCLUSIVE.

Everything here is computed from comparison_report.json alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np

from mondrian.core.params import Evaluate
from mondrian.critique.schema import DIMENSIONS
from mondrian.evaluation.arms import ARMS
from mondrian.evaluation.gates import gates_of
from mondrian.evaluation.metrics import means, measures
from mondrian.evaluation.quality_index import index, parts_of
from mondrian.evaluation.statistics import Estimate, holm, paired

BETTER, WORSE, INCONCLUSIVE = "BETTER", "WORSE", "INCONCLUSIVE"


def metrics(report: dict[str, Any], params: Evaluate) -> dict[str, Any]:
    """What metrics/<advisor>/evaluate.json holds: verdict, comparisons, gates, and each arm."""
    rows = report["photographs"]
    out = measures(report, params)
    compared = comparisons(report, params)
    gates = gates_of(report, out, compared, params.gates)
    return {
        "verdict": verdict(compared),
        "photographs": len(rows),
        "photograph_groups": compared["index"].groups,
        "comparisons": {name: _plain(one) for name, one in compared.items()},
        "dimensions": _by_dimension(report),
        "gates": gates,
        **out,
    }


def comparisons(report: dict[str, Any], params: Evaluate) -> dict[str, Estimate]:
    """Paired differences by photograph; above 0 speaks for the adapter.

    index          quality index, points of 100, against the base
    index_few_shot against the base with examples in its prompt
    score_error    score error, points of 10, against the base (where both have scores)
    constant       score error against the constant predictor
    looks          score error on its own photograph against another photograph's
    """
    rows = report["photographs"]
    groups = [row["photo_group"] for row in rows]
    at = {arm: index(parts_of([r[arm] for r in rows], rows), params.index)
          for arm in ARMS if arm in rows[0]}  # fmt: skip
    errors = {arm: [_error(row[arm]["scores"], row) for row in rows] for arm in at}
    constant = means(report)
    errors["constant"] = [_error(said, row) for said, row in zip(constant, rows, strict=True)]
    tuned = at["fine_tuned"]
    found = {"index": paired(np.subtract(tuned, at["base"]).tolist(), groups)}
    if "few_shot" in at:
        found["index_few_shot"] = paired(np.subtract(tuned, at["few_shot"]).tolist(), groups)
    for name, arm in (("score_error", "base"), ("constant", "constant"), ("looks", "shuffled")):
        if arm in errors:
            found[name] = _less(errors["fine_tuned"], errors[arm], groups)
    return found


def verdict(compared: dict[str, Estimate]) -> str:
    """BETTER only where the index is above the base's, scores beat the constant, and it looks."""
    needed = [compared["index"], compared["constant"]]
    needed += [compared["looks"]] if "looks" in compared else []
    if all(one.above for one in needed):
        return BETTER
    return WORSE if compared["index"].below else INCONCLUSIVE


def _less(ours: Sequence[float], theirs: Sequence[float], groups: Sequence[str]) -> Estimate:
    """How much less our error is, over photographs where both are known."""
    both = [(t - o, g) for o, t, g in zip(ours, theirs, groups, strict=True) if isfinite(t - o)]
    if not both:
        return Estimate(0.0, -np.inf, np.inf, 0, 0.0, None, 1.0)
    return paired([d for d, _ in both], [g for _, g in both])


def _error(scores: Any, row: dict[str, Any]) -> float:
    if scores is None:
        return float("nan")
    return float(np.abs(np.subtract(scores, row["reference_scores"])).mean())


def _by_dimension(report: dict[str, Any]) -> dict[str, Any]:
    """How much less the adapter's error is than the base's in each, p adjusted for being seven."""
    rows = [r for r in report["photographs"] if r["base"]["scores"] and r["fine_tuned"]["scores"]]
    if not rows:
        return {}
    wanted, base, tuned = (
        np.array([r["reference_scores"] if arm is None else r[arm]["scores"] for r in rows], float)
        for arm in (None, "base", "fine_tuned")
    )
    less = np.abs(base - wanted) - np.abs(tuned - wanted)
    found = [paired(less[:, i].tolist(), [r["photo_group"] for r in rows]) for i in range(7)]
    adjusted = holm([one.p for one in found])
    return {
        name: _plain(one) | {"p_holm": round(p, 4)}
        for name, one, p in zip(DIMENSIONS, found, adjusted, strict=True)
    }


def _plain(one: Estimate) -> dict[str, Any]:
    """As JSON: no infinities, four places."""
    told = asdict(one)
    return {
        name: (round(value, 4) if isfinite(value) else None) if isinstance(value, float) else value
        for name, value in told.items()
    }
