"""The verdict and the table of arms as text for a terminal."""

from typing import Any

import pandas as pd

from mondrian.evaluation.arms import ARMS
from mondrian.evaluation.consistency import SAMPLED

_COLUMNS = {
    "format_compliance": "compliance",
    "scored": "scored",
    "score_mae": "score MAE",
    "score_bias": "bias",
    "quality_index": "index",
    "seconds_per_critique": "s/critique",
    "tokens_per_critique": "tokens",
}
COMPARISON_LABELS = {
    "index": "quality index above base (of 100)",
    "index_few_shot": "quality index above few-shot base (of 100)",
    "score_error": "score error below base (of 10)",
    "constant": "score error below constant (of 10)",
    "vs_shuffled": "score error below shuffled (of 10)",
}


def format_metrics_summary(advisor: str, metrics: dict[str, Any]) -> str:
    """Return verdict, comparisons, table of arms and failed gates."""
    lines = [f"evaluate {advisor}: {describe_verdict(metrics)}"]
    lines += [
        f"  {COMPARISON_LABELS[name]:<43} {format_mean_interval(estimate)}"
        for name, estimate in metrics["comparisons"].items()
    ]
    lines += [f"  {line}" for line in format_arms_table(metrics)]
    for arm in ("base", "fine_tuned"):
        rates = ", ".join(f"{name} {v:.2f}" for name, v in metrics[arm]["compliance"].items())
        changes = [v for k, v in metrics[arm].get("consistency", {}).items() if k != SAMPLED]
        lines.append(f"  {arm:12}schema-valid: {rates}")
        if changes:
            mean = sum(changes) / len(changes)
            lines[-1] += f"; changing the photo slightly changes a score by {mean:.2f}"
    lines += [
        f"  gate {name}: {gate['value']}, threshold {gate['threshold']}"
        for name, gate in metrics["gates"].items()
        if not gate["holds"]
    ]
    return "\n".join(lines)


def format_arms_table(metrics: dict[str, Any]) -> list[str]:
    """Return a header and a line for each arm."""
    arms = [arm for arm in (*ARMS, "constant") if arm in metrics]
    table = pd.DataFrame({arm: metrics[arm] for arm in arms}).T.reindex(columns=list(_COLUMNS))
    table = table.rename(columns=_COLUMNS).astype(float).astype({"scored": int})
    return table.to_string(float_format="{:.2f}".format, na_rep="-").splitlines()


def describe_verdict(metrics: dict[str, Any]) -> str:
    """Return the verdict, the number of photos, and how many an open verdict would need."""
    count, groups = metrics["photographs"], metrics["photograph_groups"]
    text = f"{metrics['verdict']} on {count} critiques of {groups} photos not used in training"
    needed = metrics["comparisons"]["index"]["needed"]
    if metrics["verdict"] == "INCONCLUSIVE" and needed:
        text += f"; a difference of this size needs about {needed} photos"
    return text


def format_mean_interval(estimate: dict[str, Any]) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['mean']:+.2f} (too few photos for an interval)"
    return f"{estimate['mean']:+.2f} ({estimate['low']:+.2f} to {estimate['high']:+.2f})"
