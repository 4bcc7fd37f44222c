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
from mondrian.evaluation.gates import compute_gates
from mondrian.evaluation.metrics import compute_arm_metrics, predict_constant
from mondrian.evaluation.quality_index import compute_index_parts, compute_quality_index
from mondrian.evaluation.statistics import Estimate, estimate_paired_difference, holm

BETTER, WORSE, INCONCLUSIVE = "BETTER", "WORSE", "INCONCLUSIVE"


def build_metrics(report: dict[str, Any], params: Evaluate) -> dict[str, Any]:
    """What metrics/<advisor>/evaluate.json holds: verdict, comparisons, gates, and each arm."""
    rows = report["photographs"]
    out = compute_arm_metrics(report, params)
    compared = compute_comparisons(report, params)
    gates = compute_gates(report, out, compared, params.gates)
    return {
        "verdict": decide_verdict(compared),
        "photographs": len(rows),
        "photograph_groups": compared["index"].groups,
        "comparisons": {name: _plain(estimate) for name, estimate in compared.items()},
        "dimensions": _by_dimension(report),
        "gates": gates,
        **out,
    }


def compute_comparisons(report: dict[str, Any], params: Evaluate) -> dict[str, Estimate]:
    """Paired differences by photograph; above 0 speaks for the adapter.

    index          quality index, points of 100, against the base
    index_few_shot against the base with examples in its prompt
    score_error    score error, points of 10, against the base (where both have scores)
    constant       score error against the constant predictor
    looks          score error on its own photograph against another photograph's
    """
    rows = report["photographs"]
    groups = [row["photo_group"] for row in rows]
    index_by_arm = {
        arm: compute_quality_index(compute_index_parts([r[arm] for r in rows], rows), params.index)
        for arm in ARMS
        if arm in rows[0]
    }
    errors = {arm: [_error(row[arm]["scores"], row) for row in rows] for arm in index_by_arm}
    constant = predict_constant(report)
    errors["constant"] = [_error(scores, row) for scores, row in zip(constant, rows, strict=True)]
    tuned = index_by_arm["fine_tuned"]
    estimates = {
        "index": estimate_paired_difference(
            np.subtract(tuned, index_by_arm["base"]).tolist(), groups
        )
    }
    if "few_shot" in index_by_arm:
        estimates["index_few_shot"] = estimate_paired_difference(
            np.subtract(tuned, index_by_arm["few_shot"]).tolist(), groups
        )
    for name, arm in (("score_error", "base"), ("constant", "constant"), ("looks", "shuffled")):
        if arm in errors:
            estimates[name] = _error_reduction(errors["fine_tuned"], errors[arm], groups)
    return estimates


def decide_verdict(compared: dict[str, Estimate]) -> str:
    """BETTER only where the index is above the base's, scores beat the constant, and it looks."""
    needed = [compared["index"], compared["constant"]]
    needed += [compared["looks"]] if "looks" in compared else []
    if all(estimate.is_above_zero for estimate in needed):
        return BETTER
    return WORSE if compared["index"].is_below_zero else INCONCLUSIVE


def _error_reduction(
    ours: Sequence[float], theirs: Sequence[float], groups: Sequence[str]
) -> Estimate:
    """How much less our error is, over photographs where both are known."""
    both = [(t - o, g) for o, t, g in zip(ours, theirs, groups, strict=True) if isfinite(t - o)]
    if not both:
        return Estimate(0.0, -np.inf, np.inf, 0, 0.0, None, 1.0)
    return estimate_paired_difference([d for d, _ in both], [g for _, g in both])


def _error(scores: Any, row: dict[str, Any]) -> float:
    if scores is None:
        return float("nan")
    return float(np.abs(np.subtract(scores, row["reference_scores"])).mean())


def _by_dimension(report: dict[str, Any]) -> dict[str, Any]:
    """How much less the adapter's error is than the base's in each, p adjusted for being seven."""
    rows = [r for r in report["photographs"] if r["base"]["scores"] and r["fine_tuned"]["scores"]]
    if not rows:
        return {}
    reference, base, tuned = (
        np.array([r["reference_scores"] if arm is None else r[arm]["scores"] for r in rows], float)
        for arm in (None, "base", "fine_tuned")
    )
    less = np.abs(base - reference) - np.abs(tuned - reference)
    estimates = [
        estimate_paired_difference(less[:, i].tolist(), [r["photo_group"] for r in rows])
        for i in range(7)
    ]
    adjusted = holm([estimate.p for estimate in estimates])
    return {
        name: _plain(estimate) | {"p_holm": round(p, 4)}
        for name, estimate, p in zip(DIMENSIONS, estimates, adjusted, strict=True)
    }


def _plain(estimate: Estimate) -> dict[str, Any]:
    """As JSON: no infinities, four places."""
    fields = asdict(estimate)
    return {
        name: (round(value, 4) if isfinite(value) else None) if isinstance(value, float) else value
        for name, value in fields.items()
    }
