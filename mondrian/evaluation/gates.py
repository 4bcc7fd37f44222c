"""Gates: thresholds of evaluate.gates that an adapter must reach before it can be released."""

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import EvaluationError
from mondrian.core.files import read_json
from mondrian.core.params import GateParams, Params
from mondrian.evaluation.headline import headline_gates, headline_verdict

if TYPE_CHECKING:  # statistics loads scipy, which `mondrian summary` does not need
    from mondrian.evaluation.statistics import Estimate

MAXIMUM_GATES = ("copied_above_reference",)  # the value must not exceed the threshold
WARNING_GATES = ("base_compliance",)  # about the base: no adapter can change it
REQUIRED_COMPARISONS = ("index", "judgement", "constant", "vs_shuffled")  # above 0 for BETTER


def compute_gates(
    report: dict[str, Any],
    arms: dict[str, Any],
    comparisons: "dict[str, Estimate]",
    thresholds: GateParams,
) -> dict[str, Any]:
    """Return value, threshold and result of each gate."""
    tuned, base = arms["fine_tuned"], arms["base"]
    reference_copied = float(np.mean([p["reference_copied"] for p in report["photographs"]]))
    copied_above = tuned["copied"] - reference_copied
    gates = {
        "base_compliance": (base["format_compliance"], thresholds.base_compliance),
        "compliance": (tuned["format_compliance"], thresholds.compliance),
        "judgement_points": (comparisons["judgement"].mean, thresholds.judgement_points),
        **{f"{name}_low": (comparisons[name].low, 0.0) for name in REQUIRED_COMPARISONS},
        "copied_above_reference": (copied_above, thresholds.copied_above_reference),
    }
    return {
        name: {
            "value": round(float(value), 4) if isfinite(value) else None,
            "threshold": threshold,
            "holds": _holds(name, value, threshold),
        }
        for name, (value, threshold) in gates.items()
    }


def _holds(name: str, value: float, threshold: float) -> bool:
    return bool(value <= threshold if name in MAXIMUM_GATES else value >= threshold)


def list_failed_gates(evaluation: dict[str, Any], thresholds: GateParams) -> list[str]:
    """Return the gates of this evaluate.json that fail by current thresholds, a line each."""
    failed = []
    if not {"compliance", "index_low"} <= set(evaluation["gates"]):
        raise KeyError("gates")
    for name, gate in headline_gates(evaluation).items():
        value, threshold = gate["value"], getattr(thresholds, name, gate["threshold"])
        if name not in WARNING_GATES and (value is None or not _holds(name, value, threshold)):
            failed.append(format_gate(name, value, threshold))
    return failed


def format_gate(name: str, value: float | None, threshold: float) -> str:
    return f"{name} is {'unknown' if value is None else value}, the threshold is {threshold}"


def list_release_faults(evaluation: dict[str, Any], thresholds: GateParams) -> list[str]:
    """Return what prevents a release: the verdict and failed gates, a line each."""
    verdict, failed = headline_verdict(evaluation), list_failed_gates(evaluation, thresholds)
    return failed if verdict == "BETTER" else [f"verdict is {verdict}, not BETTER", *failed]


def check_gates(details: Path | None, params: Params, print_line: Callable[[str], None]) -> None:
    """Check one evaluate.json, or all of dvc.yaml; raise EvaluationError naming failed gates."""
    stage_paths = [] if details else read_stage_flags("evaluate", ["details"], params)
    failed = []
    for file in [details] if details else [path for (path,) in stage_paths]:
        content = read_json(file)
        try:
            lines = list_release_faults(content, params.evaluate.gates)
            print_line(f"{file}: {headline_verdict(content)}")
        except (KeyError, TypeError, AttributeError):
            raise EvaluationError(f"{file} has no gates; evaluate again: dvc repro") from None
        failed += [f"{file}: {line}" for line in lines]
    if failed:
        raise EvaluationError("\n  ".join([f"{len(failed)} gates do not hold", *failed]))
