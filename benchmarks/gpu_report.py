"""The results of benchmarks/gpu.py as a table, next to what the project aims at."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from benchmarks.measurement import markdown_table

EPOCHS = 3  # this project computes a photo's features once in so many epochs
NUM_WARMUP_STEPS = 2  # of a training run; at most half of its steps
AIMS = {
    "share of the rate of bfloat16 products": (0.5, "at least"),
    "tokens/s, times mlx-vlm's": (2.0, "at least"),
    "peak, times mlx-vlm's": (0.5, "at most"),
    "plan / peak, largest difference from 1": (0.1, "at most"),
}
TRAINING_COLUMNS = (
    "system base batch tokens_per_second share_of_rate planned_gb peak_gb plan_error loss".split()
)
Record = dict[str, Any]


def training_results(records: Sequence[Record]) -> list[Record]:
    """Return a row for each training run, with the share of the measured rate of products."""
    rate = next((r["operations_per_second"] for r in records if "operations_per_second" in r), None)
    operations = {r["batch"]: r["operations"] for r in records if "operations" in r}
    tokens = {r["batch"]: r["tokens"] for r in records if "operations" in r}
    return [_training_result(r, rate, operations, tokens) for r in records if "losses" in r]


def _training_result(
    record: Record, rate: float | None, operations: dict[int, float], tokens: dict[int, float]
) -> Record:
    batch, steps = record["batch"], record["seconds"]
    seconds = median(steps[min(NUM_WARMUP_STEPS, len(steps) // 2) :])
    seconds += record.get("tower_seconds", 0.0) * batch / EPOCHS
    planned, peak = record.get("planned_gb"), record.get("peak_gb")
    share = operations[batch] / seconds / rate if rate and batch in operations else None
    return {
        "system": record["system"],
        "base": record["base"],
        "batch": batch,
        "tokens_per_second": round(tokens[batch] / seconds) if batch in tokens else None,
        "share_of_rate": _round(share),
        "planned_gb": _round(planned),
        "peak_gb": _round(peak),
        "plan_error": _round(planned / peak - 1 if planned and peak else None),
        "loss": _round(record["losses"][-1]),
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def compare_with_aims(training: Sequence[Record]) -> Iterator[str]:
    """Yield each aim with the worst of what was measured; the share of the rate in floats only."""
    ours, theirs = ([r for r in training if r["system"] == s] for s in ("mondrian", "mlx-vlm"))
    pairs = [
        (a, b) for a in ours for b in theirs if (a["base"], a["batch"]) == (b["base"], b["batch"])
    ]
    measured: dict[str, Iterator[float]] = {
        "share of the rate of bfloat16 products": (
            r["share_of_rate"] for r in ours if r["base"] == "float" and r["share_of_rate"]
        ),
        "tokens/s, times mlx-vlm's": (
            a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs
        ),
        "peak, times mlx-vlm's": (a["peak_gb"] / b["peak_gb"] for a, b in pairs),
        "plan / peak, largest difference from 1": (abs(r["plan_error"]) for r in ours),
    }
    for name, (aim, kind) in AIMS.items():
        values = list(measured[name])
        if values:
            value = min(values) if kind == "at least" else max(values)
            yield f"{name}: {value:.2f} in the worst of {len(values)} runs (aim: {kind} {aim:g})"
        else:
            yield f"{name}: not measured (aim: {kind} {aim:g})"


def format_report(records: Sequence[Record], with_aims: bool = True) -> str:
    """Return the training table, the aims, and all other results as one line each."""
    training = training_results(records)
    others = [r for r in records if "losses" not in r and "end" not in r]
    failures = [r for r in records if r.get("end", "exit status 0") != "exit status 0"]
    return "\n".join(
        [
            *([markdown_table(training, TRAINING_COLUMNS)] if training else []),
            *(compare_with_aims(training) if with_aims else ()),
            *(_describe(record) for record in others),
            *(f"{record['part']}: {record['end']}; see gpu.log" for record in failures),
        ]
    )


def _describe(record: Record) -> str:
    values = (f"{name} {value}" for name, value in record.items() if name != "part")
    return f"{record['part']}: {', '.join(values)}"
