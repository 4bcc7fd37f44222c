"""The verdict in words and a table, for a terminal."""

from __future__ import annotations

from typing import Any

from mondrian.evaluation.perturbations import DRAWN

_COLUMNS = {
    "format_compliance": "compliance", "scored": "scored", "score_mae": "score MAE",
    "score_bias": "bias", "quality_index": "index", "seconds_per_critique": "s/critique",
}  # fmt: skip
COMPARED = {
    "index": "quality index, points of 100, above base",
    "index_few_shot": "the same, above base with examples",
    "score_error": "score error, points of 10, less than base",
    "constant": "the same, less than a constant",
    "looks": "the same, less than on another photograph",
}


def summary(advisor: str, found: dict[str, Any]) -> str:
    """Verdict, comparisons and arms."""
    lines = [f"evaluate {advisor}: {sentence(found)}"]
    lines += [
        f"  {COMPARED[name]:<43} {interval(one)}" for name, one in found["comparisons"].items()
    ]
    lines.append(f"  {'':12}" + "".join(f"{name:>12}" for name in _COLUMNS.values()))
    for arm in ("base", "few_shot", "fine_tuned", "shuffled", "constant"):
        if arm in found:
            cells = "".join(f"{_number(found[arm].get(key)):>12}" for key in _COLUMNS)
            lines.append(f"  {arm:12}{cells}")
    lines += [_pair(found)]
    lines += [f"  gate {name}: {gate['found']}, {gate['asked']} is asked"
              for name, gate in found["gates"].items() if not gate["holds"]]  # fmt: skip
    return "\n".join(lines)


def _pair(found: dict[str, Any]) -> str:
    """Compliance at its three layers, and how far scores move, of base and adapter."""
    told = []
    for arm in ("base", "fine_tuned"):
        layers = found[arm]["compliance"]
        share = ", ".join(f"{name} {layers[name]:.2f}" for name in layers)
        moves = found[arm].get("consistency")
        altered = [value for name, value in (moves or {}).items() if name != DRAWN]
        mean = sum(altered) / len(altered) if altered else 0
        moved = f"; altering the photograph moves a score by {mean:.2f}" if altered else ""
        told.append(f"  {arm:12}in form: {share}{moved}")
    return "\n".join(told)


def sentence(found: dict[str, Any]) -> str:
    """The verdict, on how many photographs, and what would settle one that is open."""
    count, groups = found["photographs"], found["photograph_groups"]
    told = (
        f"{found['verdict']} on {count} critiques of {groups} photographs that were not trained on"
    )
    needed = found["comparisons"]["index"]["needed"]
    if found["verdict"] == "INCONCLUSIVE" and needed:
        told += f"; a difference like this one would show with about {needed} photographs"
    return told


def interval(one: dict[str, Any]) -> str:
    """A mean and its interval."""
    if one["low"] is None or one["high"] is None:
        return f"{one['mean']:+.2f} (too few photographs for an interval)"
    return f"{one['mean']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f})"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2f}"
