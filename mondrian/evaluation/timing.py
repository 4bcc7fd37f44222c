"""Speed of each arm, and how much slower the adapter is than the base.

Everything here is computed from comparison_report.json alone. It differs in every run, so it is
kept apart from the metrics.
"""

from collections.abc import Sequence
from typing import Any

from mondrian.evaluation.arms import ARMS


def compute_timing(report: dict[str, Any], max_overhead: float) -> dict[str, Any]:
    """Return the content of evaluate_timing.json; a large overhead is a warning, never a gate."""
    photos, cost = report["photographs"], report["cost"]
    arms = [arm for arm in ARMS if arm in photos[0]]
    timing: dict[str, Any] = {arm: _arm_timing([photo[arm] for photo in photos]) for arm in arms}
    for arm, arm_cost in cost.items():
        timing[arm]["cost"] = arm_cost
    speed = {arm: arm_cost["decode_tokens_per_second"] for arm, arm_cost in cost.items()}
    overhead = speed["base"] / speed["fine_tuned"] - 1
    return timing | {"overhead": round(overhead, 4), "max_overhead": max_overhead}


def format_overhead_warning(timing: dict[str, Any]) -> str | None:
    """Return a line if the adapter is slower than evaluate.gates.overhead allows."""
    overhead, maximum = timing["overhead"], timing["max_overhead"]
    if overhead <= maximum:
        return None
    return (
        f"warning: the adapter takes {overhead:.0%} more time per token than the base "
        f"(evaluate.gates.overhead: {maximum:.0%}); was the machine busy?"
    )


def _arm_timing(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    seconds, tokens = (sum(answer[key] for answer in answers) for key in ("seconds", "tokens"))
    return {
        "seconds_per_critique": round(seconds / len(answers), 3),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
    }
