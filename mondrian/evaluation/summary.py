"""The verdict in words and a table, for a terminal."""

from __future__ import annotations

from typing import Any

from mondrian.evaluation.perturbations import SAMPLED_VARIANT

_COLUMNS = {
    "format_compliance": "compliance",
    "scored": "scored",
    "score_mae": "score MAE",
    "score_bias": "bias",
    "quality_index": "index",
    "seconds_per_critique": "s/critique",
}
COMPARISON_LABELS = {
    "index": "quality index, points of 100, above base",
    "index_few_shot": "the same, above base with examples",
    "score_error": "score error, points of 10, less than base",
    "constant": "the same, less than a constant",
    "looks": "the same, less than on another photograph",
}


def format_metrics_summary(advisor: str, metrics: dict[str, Any]) -> str:
    """Verdict, comparisons and arms."""
    lines = [f"evaluate {advisor}: {describe_verdict(metrics)}"]
    lines += [
        f"  {COMPARISON_LABELS[name]:<43} {format_mean_interval(estimate)}"
        for name, estimate in metrics["comparisons"].items()
    ]
    lines.append(f"  {'':12}" + "".join(f"{name:>12}" for name in _COLUMNS.values()))
    for arm in ("base", "few_shot", "fine_tuned", "shuffled", "constant"):
        if arm in metrics:
            cells = "".join(f"{_number(metrics[arm].get(key)):>12}" for key in _COLUMNS)
            lines.append(f"  {arm:12}{cells}")
    lines += [_pair(metrics)]
    lines += [
        f"  gate {name}: {gate['value']}, threshold {gate['threshold']}"
        for name, gate in metrics["gates"].items()
        if not gate["holds"]
    ]
    return "\n".join(lines)


def _pair(metrics: dict[str, Any]) -> str:
    """Compliance at its three layers, and how far scores move, of base and adapter."""
    lines = []
    for arm in ("base", "fine_tuned"):
        layers = metrics[arm]["compliance"]
        share = ", ".join(f"{name} {layers[name]:.2f}" for name in layers)
        moves = metrics[arm].get("consistency")
        altered = [value for name, value in (moves or {}).items() if name != SAMPLED_VARIANT]
        mean = sum(altered) / len(altered) if altered else 0
        moved = f"; altering the photograph moves a score by {mean:.2f}" if altered else ""
        lines.append(f"  {arm:12}in form: {share}{moved}")
    return "\n".join(lines)


def describe_verdict(metrics: dict[str, Any]) -> str:
    """The verdict, on how many photographs, and what would settle one that is open."""
    count, groups = metrics["photographs"], metrics["photograph_groups"]
    text = (
        f"{metrics['verdict']} on {count} critiques of {groups} photographs that were not "
        f"trained on"
    )
    needed = metrics["comparisons"]["index"]["needed"]
    if metrics["verdict"] == "INCONCLUSIVE" and needed:
        text += f"; a difference like this one would show with about {needed} photographs"
    return text


def format_mean_interval(estimate: dict[str, Any]) -> str:
    """A mean and its interval."""
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['mean']:+.2f} (too few photographs for an interval)"
    return f"{estimate['mean']:+.2f} ({estimate['low']:+.2f} to {estimate['high']:+.2f})"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2f}"
