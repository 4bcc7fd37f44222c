"""The verdict and the table of arms as text for a terminal."""

from typing import Any

from mondrian.core.terminal import format_table
from mondrian.critique.rows import MIN_GROUPS
from mondrian.evaluation.arms import ARMS, SAMPLED
from mondrian.evaluation.gates import REQUIRED_COMPARISONS, WARNING_GATES, format_gate
from mondrian.evaluation.headline import (
    CROSSVALIDATION,
    MAX_CRITIQUES,
    VAL,
    choose_headline,
    headline_gates,
)

_COLUMNS = {
    "quality_index": ("quality", ".2f"),
    "score_mae": ("score MAE", ".2f"),
    "raw_score_mae": ("raw MAE", ".2f"),
    "score_bias": ("score bias", "+.2f"),
    "format_compliance": ("schema-valid", ".0%"),
    "tokens_per_critique": ("tokens", ".0f"),
}
COMPARISON_LABELS = {
    "index": "quality index above base (points)",
    "manner": "gain by manner, without the photo (points)",
    "judgement": "gain by judgement of the photo (points)",
    "index_few_shot": "quality index above few-shot base (points)",
    "score_error": "raw score error below base (of 10)",
    "constant": "score error below constant (of 10)",
    "vs_shuffled": "score error below shuffled (of 10)",
}


def format_metrics_summary(
    advisor: str, metrics: dict[str, Any], suggests_folds: bool = True
) -> str:
    """Return verdict, comparisons, table of arms and failed gates."""
    stage = "crossvalidate" if metrics.get("folds") else "evaluate"
    headline, *others = describe_verdicts(metrics, suggests_folds)
    lines = [f"{stage} {advisor}: {headline}", *(f"  {line}" for line in others)]
    lines += [
        f"  {COMPARISON_LABELS[name]:<43} {format_mean_interval(estimate)}"
        for name, estimate in metrics["comparisons"].items()
    ]
    lines += [f"  {line}" for line in format_arms_table(metrics)]
    lines += [f"  {line}" for line in describe_calibration(metrics)]
    for arm in ("base", "fine_tuned"):
        rates = ", ".join(f"{name} {v:.2f}" for name, v in metrics[arm]["compliance"].items())
        changes = [v for k, v in metrics[arm].get("consistency", {}).items() if k != SAMPLED]
        lines.append(f"  {arm:12}schema-valid: {rates}")
        if changes:
            mean = sum(changes) / len(changes)
            lines[-1] += f"; changing the photo slightly changes a score by {mean:.2f}"
    lines += [f"  {line}" for line in describe_failed_gates(metrics)]
    return "\n".join(lines)


def describe_failed_gates(metrics: dict[str, Any]) -> list[str]:
    """Return a line for each gate that does not hold; those about the base are warnings."""
    return [
        f"{'warning' if name in WARNING_GATES else 'failed gate'}: "
        f"{format_gate(name, gate['value'], gate['threshold'])}"
        for name, gate in headline_gates(metrics).items()
        if not gate["holds"]
    ]


def format_arms_table(metrics: dict[str, Any]) -> list[str]:
    """Return a header and a line for each arm."""
    arms = [arm for arm in (*ARMS, "shuffled", "constant") if arm in metrics]
    rows = []
    for arm in arms:
        values = [(metrics[arm].get(key), form) for key, (_, form) in _COLUMNS.items()]
        rows.append(
            [arm, *("-" if value is None else format(value, form) for value, form in values)]
        )
    return format_table(["", *(title for title, _ in _COLUMNS.values())], rows).splitlines()


def describe_verdicts(metrics: dict[str, Any], suggests_folds: bool = True) -> list[str]:
    """Return a line for the headline and one for the other verdict; each names its own.

    suggests_folds  say that prepare.folds adds a cross-validation, if there is none
    """
    if metrics.get("folds"):  # a cross-validation on its own
        return [describe_verdict(metrics)]
    crossvalidation = metrics.get("crossvalidation")
    none = "cross-validation: none"
    if suggests_folds:
        none += f"; below {MAX_CRITIQUES} critiques prepare.folds: 5 halves the interval"
    lines = {
        VAL: describe_verdict(metrics),
        CROSSVALIDATION: describe_verdict(crossvalidation) if crossvalidation else none,
    }
    headline = lines.pop(choose_headline(metrics)[0])
    return [headline, *lines.values()]


def describe_calibration(metrics: dict[str, Any]) -> list[str]:
    """Return a line if the adapter cannot judge a dimension yet."""
    weights = (metrics.get("calibration") or {"weights": {}})["weights"].get("fine_tuned", {})
    unjudged = ", ".join(name for name, weight in weights.items() if not weight)
    if not unjudged:
        return []
    return [
        f"cannot judge {unjudged} yet: the calibrated score there is always the advisor's median"
    ]


def describe_verdict(metrics: dict[str, Any]) -> str:
    """Return the verdict, the number of photos, and what leaves it open."""
    count, groups = metrics["photographs"], metrics["photograph_groups"]
    unit = "photos" if groups == count else "photo groups"
    text = f"{metrics['verdict']} on {count} critiques of {groups} {unit} "
    if folds := metrics.get("folds"):
        text += f"cross-validated by {folds} adapters"
    else:
        text += "not used in training (val)"
    if text_only := metrics.get("text_only_photographs", 0):
        text += f", {text_only} of the critiques without scores and judged by their text alone"
    if metrics["verdict"] in ("INCONCLUSIVE", "BETTER_MANNER"):
        text += "".join(
            f"; {_describe_open(COMPARISON_LABELS[name], estimate, unit)}"
            for name, estimate in metrics["comparisons"].items()
            if name in REQUIRED_COMPARISONS and not estimate["above_zero"]
        )
    return text


def _describe_open(label: str, estimate: dict[str, Any], unit: str) -> str:
    """Return why a comparison is open, with the number of photos that it has and needs."""
    groups, needed = estimate["groups"], estimate["needed"]
    if groups < MIN_GROUPS:
        return f"{label} has {groups} {unit}, a verdict needs at least {MIN_GROUPS}"
    if estimate["high"] is not None and estimate["high"] < 0:
        return f"{label} is negative on {groups} {unit}"
    text = f"{label} may be 0 on {groups} {unit}"
    return f"{text}: about {needed} would show it" if needed and estimate["mean"] > 0 else text


def format_mean_interval(estimate: dict[str, Any]) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['mean']:+.2f} (too few photos for an interval)"
    return f"{estimate['mean']:+.2f} ({estimate['low']:+.2f} to {estimate['high']:+.2f})"


def list_score_errors(metrics: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Return dimension, arm and score error of each bar of the score error plot."""
    return [
        (dimension, arm, error)
        for arm in ("constant", "base", "fine_tuned")
        for dimension, error in (metrics[arm]["score_mae_by_dimension"] or {}).items()
    ]
