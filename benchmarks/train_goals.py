"""The goals of benchmarks/train.py, next to what was measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.large_base import LARGE, TINY

Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """Results of one system on one model."""

    model: str
    system: str
    variant: str

    def read(self, results: Sequence[Result], name: str) -> float:
        """Return a measured value; nan if it was not measured."""
        key = (self.model, self.system, self.variant)
        values = (r[name] for r in results if (r["model"], r["system"], r["variant"]) == key)
        return float(next(values, math.nan))


@dataclass(frozen=True)
class Goal:
    """A bound on a value of a run, or on its ratio to that of a reference."""

    label: str
    run: Run
    name: str
    bound: float
    reference: Run | None = None
    kind: str = "at least"

    def describe(self, results: Sequence[Result]) -> str:
        value = self.run.read(results, self.name)
        if self.reference is not None:
            value /= self.reference.read(results, self.name)
        reached = value <= self.bound if self.kind == "at most" else value >= self.bound
        verdict = "not measured" if math.isnan(value) else "reached" if reached else "MISSED"
        return f"{self.label:<72}{value:8.2f}  {self.kind} {self.bound:.2f}  {verdict}"


def list_goals() -> list[Goal]:
    speed, share = "tokens_per_second", "gemm_fraction"
    ours, ranks = (Run(LARGE, "mondrian", variant) for variant in ("one process", "two ranks"))
    core, baseline = Run(LARGE, "mondrian", "one process on one core"), _mlx_vlm(LARGE)
    memory = Goal(
        f"{LARGE}, peak memory, of mlx-vlm's", ours, "peak_memory_gb", 0.18, baseline, "at most"
    )
    return [
        memory,
        Goal(f"{LARGE}, one process, of the GEMM rate", ours, share, 0.55),
        Goal(f"{LARGE}, two ranks, of the GEMM rate", ranks, share, 0.55),
        *_list_speed_goals(LARGE, 4.5),
        *_list_speed_goals(TINY, 1.4),
        Goal(f"{LARGE}, two ranks, times mlx-vlm's", ranks, speed, 6.5, baseline),
        Goal(f"{LARGE}, two ranks, times one core's", ranks, speed, 1.5, core),
    ]


def _mlx_vlm(model: str) -> Run:
    return Run(model, "mlx-vlm", "default")


def _list_speed_goals(model: str, bound: float) -> list[Goal]:
    """Return the goals of one process; bound is on the ratio to mlx-vlm."""
    speed, ours = "tokens_per_second", Run(model, "mondrian", "one process")
    peft = Run(model, "trl-peft", "lm_head at supervised positions")
    return [
        Goal(f"{model}, tokens/s, times mlx-vlm's", ours, speed, bound, _mlx_vlm(model)),
        Goal(
            f"{model}, tokens/s, times PEFT's, lm_head at supervised positions",
            ours,
            speed,
            1.0,
            peft,
        ),
    ]


def compare_with_goals(results: Sequence[Result]) -> str:
    """Return a line for each goal: measured value, bound, and whether it is reached."""
    lines = (goal.describe(results) for goal in list_goals())
    return "\n".join([f"{'':<72}measured  goal", *lines])
