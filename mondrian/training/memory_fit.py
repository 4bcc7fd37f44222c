"""Whether a planned run fits into memory, and which settings would make it fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

from mondrian.core.errors import TrainingError
from mondrian.training.memory_estimate import TrainingJob
from mondrian.training.plan import TrainingPlan

JobTransform = Callable[[TrainingJob], TrainingJob]


def check_memory_fit(plan: TrainingPlan, memory: int, ranks: int = 1) -> None:
    """Raise TrainingError where it does not fit, with three ways to make it fit.

    memory  bytes that are to be had
    ranks   processes on this machine, each with its share of a batch
    """
    taken = _peak(plan, ranks)
    if taken <= memory:
        return
    suggestions = suggest_fitting_settings(plan, memory, ranks)
    way = "no setting makes it fit: take a smaller base"
    if suggestions:
        way = "\n  ".join(["each of these makes it fit:", *suggestions])
    raise TrainingError(
        f"training would take {taken / 1e9:.1f} GB and {memory / 1e9:.1f} GB are to be had; {way}"
    )


def suggest_fitting_settings(plan: TrainingPlan, memory: int, ranks: int = 1) -> list[str]:
    """Up to three settings, or the smallest sets of them, with what each would take."""
    changes, suggestions = _changes(plan.job), dict[frozenset[str], str]()
    for count in range(1, len(changes) + 1):
        for names in combinations(changes, count):
            if any(smaller <= set(names) for smaller in suggestions):
                continue
            work = plan.job
            for name in names:
                work = changes[name](work)
            taken = _peak(plan.replan(work), ranks)
            if taken <= memory:
                suggestions[frozenset(names)] = f"{', '.join(names)} ({taken / 1e9:.1f} GB)"
            if len(suggestions) == 3:
                return list(suggestions.values())
    return list(suggestions.values())


def _peak(plan: TrainingPlan, ranks: int) -> int:
    if ranks == 1:
        return plan.peak
    params = plan.job.params
    share = params.model_copy(update={"batch_size": -(-params.batch_size // ranks)})
    return ranks * plan.replan(replace(plan.job, params=share)).peak


def _changes(work: TrainingJob) -> dict[str, JobTransform]:
    """What can be changed, the least harmful first."""
    params, base = work.params, work.base
    changes: dict[str, JobTransform] = {}
    if not params.gradient_checkpointing:
        changes["train.gradient_checkpointing: true"] = _override_params(
            gradient_checkpointing=True
        )
    if params.batch_size > 1:
        steps = params.gradient_accumulation_steps * params.batch_size
        label = f"train.batch_size: 1 with train.gradient_accumulation_steps: {steps}"
        changes[label] = _override_params(batch_size=1, gradient_accumulation_steps=steps)
    for bits in (8, 4):
        if not base.bits or bits < base.bits:
            changes[f"base.source: a {bits}-bit copy"] = _packed(bits)
    if params.loss_chunk_size > 64:
        changes["train.loss_chunk_size: 64"] = _override_params(loss_chunk_size=64)
    if work.backward_layers > 1 and not work.lora.train_projector:
        half = work.backward_layers // 2
        changes[f"train.num_layers: {half}"] = lambda w: replace(
            w, lora=replace(w.lora, num_layers=half)
        )
    if work.lora.rank > 8:
        changes["train.lora_r: 8"] = lambda w: replace(w, lora=replace(w.lora, rank=8))
    return changes


def _override_params(**update: int | bool) -> JobTransform:
    return lambda work: replace(work, params=work.params.model_copy(update=update))


def _packed(bits: int) -> JobTransform:
    return lambda work: replace(work, base=replace(work.base, bits=bits))
