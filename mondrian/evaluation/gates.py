"""Gates: what an adapter has to reach before a person may release it (evaluate.gates)."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import EvaluationError
from mondrian.core.files import read_json
from mondrian.core.params import Gates, Params
from mondrian.evaluation.statistics import Estimate

MAXIMUM_GATES = ("overhead", "copied_above_reference")  # gates that are not to be exceeded
WARNINGS = ("base_compliance",)  # gates of the base, which no adapter can mend


def compute_gates(
    report: dict[str, Any], arms: dict[str, Any], compared: dict[str, Estimate], thresholds: Gates
) -> dict[str, Any]:
    """Each gate: what was found, what is asked, and whether it holds."""
    tuned, base = arms["fine_tuned"], arms["base"]
    own = float(np.mean([row["reference_copied"] for row in report["photographs"]]))
    gain = compared["index"].mean / base["quality_index"] if base["quality_index"] else 1.0
    minimum_gates = {
        "base_compliance": (base["format_compliance"], thresholds.base_compliance),
        "compliance": (tuned["format_compliance"], thresholds.compliance),
        "index_gain_percent": (100 * gain, thresholds.index_gain_percent),
        "index_low": (compared["index"].low, 0.0),
        "constant_low": (compared["constant"].low, 0.0),
    }
    if "looks" in compared:
        minimum_gates["looks_low"] = (compared["looks"].low, 0.0)
    maximum_gates = {
        "overhead": (_decode_overhead(report), thresholds.overhead),
        "copied_above_reference": (tuned["copied"] - own, thresholds.copied_above_reference),
    }
    return {
        name: _gate(value, limit, value >= limit) for name, (value, limit) in minimum_gates.items()
    } | {
        name: _gate(value, limit, value <= limit) for name, (value, limit) in maximum_gates.items()
    }


def _decode_overhead(report: dict[str, Any]) -> float:
    """How much longer the adapter takes for a token than the base, decoding alone."""
    speed = {arm: cost["decode_tokens_per_second"] for arm, cost in report["cost"].items()}
    return float(speed["base"] / speed["fine_tuned"] - 1)


def _gate(value: float, threshold: float, holds: bool) -> dict[str, Any]:
    return {
        "value": round(value, 4) if isfinite(value) else None,
        "threshold": threshold,
        "holds": bool(holds),
    }


def list_failed_gates(metrics: dict[str, Any], thresholds: Gates) -> list[str]:
    """What of evaluate.json a release may not have, as lines, by the gates as they are now."""
    out = [] if metrics["verdict"] == "BETTER" else [f"verdict is {metrics['verdict']}, not BETTER"]
    if not {"compliance", "index_low"} <= set(metrics["gates"]):
        raise KeyError("gates")
    for name, gate in metrics["gates"].items():
        value, limit = gate["value"], getattr(thresholds, name, gate["threshold"])
        holds = value is not None and (value <= limit if name in MAXIMUM_GATES else value >= limit)
        if not holds and name not in WARNINGS:
            out.append(f"{name} is {value}, {limit} is asked")
    return out


def check_gates(metrics: Path | None, params: Params, show: Callable[[str], None]) -> None:
    """Hold one evaluate.json, or that of every advisor of dvc.yaml, to its gates.

    Raises EvaluationError that names each gate that does not hold; DataError where there is none.
    """
    files = (
        [metrics]
        if metrics
        else [paths[0] for paths in read_stage_flags("evaluate", ["metrics"], params)]
    )
    faults = []
    for file in files:
        file_metrics = read_json(file)
        try:
            faults += [
                f"{file}: {line}" for line in list_failed_gates(file_metrics, params.evaluate.gates)
            ]
            show(f"{file}: {file_metrics['verdict']}")
        except (KeyError, TypeError, AttributeError):
            raise EvaluationError(f"{file} holds no gates; evaluate again: dvc repro") from None
    if faults:
        raise EvaluationError("\n  ".join([f"{len(faults)} gates do not hold", *faults]))
