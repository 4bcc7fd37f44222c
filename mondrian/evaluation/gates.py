"""Gates: what an adapter has to reach before a person may release it (evaluate.gates)."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from mondrian.core.dvc_paths import flags_of
from mondrian.core.errors import EvaluationError
from mondrian.core.files import read_json
from mondrian.core.params import Gates, Params
from mondrian.evaluation.statistics import Estimate

AT_MOST = ("overhead", "copied_above_reference")  # gates that are not to be exceeded
WARNINGS = ("base_compliance",)  # gates of the base, which no adapter can mend


def gates_of(
    report: dict[str, Any], arms: dict[str, Any], compared: dict[str, Estimate], asked: Gates
) -> dict[str, Any]:
    """Each gate: what was found, what is asked, and whether it holds."""
    tuned, base = arms["fine_tuned"], arms["base"]
    own = float(np.mean([row["reference_copied"] for row in report["photographs"]]))
    gain = compared["index"].mean / base["quality_index"] if base["quality_index"] else 1.0
    least = {
        "base_compliance": (base["format_compliance"], asked.base_compliance),
        "compliance": (tuned["format_compliance"], asked.compliance),
        "index_gain_percent": (100 * gain, asked.index_gain_percent),
        "index_low": (compared["index"].low, 0.0),
        "constant_low": (compared["constant"].low, 0.0),
    }
    if "looks" in compared:
        least["looks_low"] = (compared["looks"].low, 0.0)
    most = {
        "overhead": (_slower(report), asked.overhead),
        "copied_above_reference": (tuned["copied"] - own, asked.copied_above_reference),
    }
    return {name: _gate(found, limit, found >= limit) for name, (found, limit) in least.items()} | {
        name: _gate(found, limit, found <= limit) for name, (found, limit) in most.items()
    }


def _slower(report: dict[str, Any]) -> float:
    """How much longer the adapter takes for a token than the base, decoding alone."""
    speed = {arm: told["decode_tokens_per_second"] for arm, told in report["cost"].items()}
    return float(speed["base"] / speed["fine_tuned"] - 1)


def _gate(found: float, asked: float, holds: bool) -> dict[str, Any]:
    return {
        "found": round(found, 4) if isfinite(found) else None,
        "asked": asked,
        "holds": bool(holds),
    }


def failed(found: dict[str, Any], asked: Gates) -> list[str]:
    """What of evaluate.json a release may not have, as lines, by the gates as they are now."""
    out = [] if found["verdict"] == "BETTER" else [f"verdict is {found['verdict']}, not BETTER"]
    if not {"compliance", "index_low"} <= set(found["gates"]):
        raise KeyError("gates")
    for name, gate in found["gates"].items():
        value, limit = gate["found"], getattr(asked, name, gate["asked"])
        holds = value is not None and (value <= limit if name in AT_MOST else value >= limit)
        if not holds and name not in WARNINGS:
            out.append(f"{name} is {value}, {limit} is asked")
    return out


def check(metrics: Path | None, params: Params, show: Callable[[str], None]) -> None:
    """Hold one evaluate.json, or that of every advisor of dvc.yaml, to its gates.

    Raises EvaluationError that names each gate that does not hold; DataError where there is none.
    """
    files = (
        [metrics] if metrics else [paths[0] for paths in flags_of("evaluate", ["metrics"], params)]
    )
    faults = []
    for file in files:
        found = read_json(file)
        try:
            faults += [f"{file}: {line}" for line in failed(found, params.evaluate.gates)]
            show(f"{file}: {found['verdict']}")
        except (KeyError, TypeError, AttributeError):
            raise EvaluationError(f"{file} holds no gates; evaluate again: dvc repro") from None
    if faults:
        raise EvaluationError("\n  ".join([f"{len(faults)} gates do not hold", *faults]))
