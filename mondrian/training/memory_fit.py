"""Whether a planned run fits into memory, and which settings would make it fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

from mondrian.core.errors import TrainingError
from mondrian.training.memory_estimate import Work
from mondrian.training.plan import Plan

Change = Callable[[Work], Work]


def refuse_too_large(plan: Plan, memory: int, ranks: int = 1) -> None:
    """Raise TrainingError where it does not fit, with three ways to make it fit.

    memory  bytes that are to be had
    ranks   processes on this machine, each with its share of a batch
    """
    taken = _peak(plan, ranks)
    if taken <= memory:
        return
    found = ways_to_fit(plan, memory, ranks)
    way = "no setting makes it fit: take a smaller base"
    if found:
        way = "\n  ".join(["each of these makes it fit:", *found])
    raise TrainingError(
        f"training would take {taken / 1e9:.1f} GB and {memory / 1e9:.1f} GB are to be had; {way}"
    )


def ways_to_fit(plan: Plan, memory: int, ranks: int = 1) -> list[str]:
    """Up to three settings, or the smallest sets of them, with what each would take."""
    changes, found = _changes(plan.work), dict[frozenset[str], str]()
    for count in range(1, len(changes) + 1):
        for names in combinations(changes, count):
            if any(smaller <= set(names) for smaller in found):
                continue
            work = plan.work
            for name in names:
                work = changes[name](work)
            taken = _peak(plan.changed(work), ranks)
            if taken <= memory:
                found[frozenset(names)] = f"{', '.join(names)} ({taken / 1e9:.1f} GB)"
            if len(found) == 3:
                return list(found.values())
    return list(found.values())


def _peak(plan: Plan, ranks: int) -> int:
    if ranks == 1:
        return plan.peak
    params = plan.work.params
    share = params.model_copy(update={"batch_size": -(-params.batch_size // ranks)})
    return ranks * plan.changed(replace(plan.work, params=share)).peak


def _changes(work: Work) -> dict[str, Change]:
    """What can be changed, the least harmful first."""
    params, base = work.params, work.base
    changes: dict[str, Change] = {}
    if not params.gradient_checkpointing:
        changes["train.gradient_checkpointing: true"] = _with(gradient_checkpointing=True)
    if params.batch_size > 1:
        steps = params.accumulate * params.batch_size
        told = f"train.batch_size: 1 with train.accumulate: {steps}"
        changes[told] = _with(batch_size=1, accumulate=steps)
    for bits in (8, 4):
        if not base.bits or bits < base.bits:
            changes[f"base.source: a {bits}-bit copy"] = _packed(bits)
    if params.head_chunk > 64:
        changes["train.head_chunk: 64"] = _with(head_chunk=64)
    if work.layers > 1 and not work.lora.projector:
        half = work.layers // 2
        changes[f"train.last_layers: {half}"] = lambda w: replace(
            w, lora=replace(w.lora, last_layers=half)
        )
    if work.lora.rank > 8:
        changes["train.lora_r: 8"] = lambda w: replace(w, lora=replace(w.lora, rank=8))
    return changes


def _with(**update: int | bool) -> Change:
    return lambda work: replace(work, params=work.params.model_copy(update=update))


def _packed(bits: int) -> Change:
    return lambda work: replace(work, base=replace(work.base, bits=bits))
