"""A plan for people: for files of rows, or for every advisor of dvc.yaml."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mondrian.core.dvc_paths import flags_of
from mondrian.core.errors import TrainingError
from mondrian.core.params import Params, Train
from mondrian.critique.rows import read_rows
from mondrian.model.architecture import find_base, read_architecture
from mondrian.model.hardware import measure, memory_left, this_device
from mondrian.model.tokenizer import read_tokens
from mondrian.training.memory_fit import refuse_too_large
from mondrian.training.plan import Plan, make_plan


@dataclass(frozen=True)
class Files:
    """Prepared rows of one advisor."""

    train: Path
    val: Path


def plan_for(source: str, files: Files, settings: Train) -> Plan:
    """A run's plan; the base's config and tokenizer are read, its weights are not.

    Raises MondrianError where rows or base are not what they should be.
    """
    base = read_architecture(source)
    tokens = read_tokens(find_base(source), base.image_id)
    rows, val = read_rows(files.train), read_rows(files.val)
    return make_plan(base, tokens, rows, val, settings, this_device())


def show_plans(
    source: str,
    every: Sequence[Files],
    settings: Train,
    ranks: int,
    memory: int | None,
    show: Callable[[str], None],
) -> None:
    """Show a plan for each; `memory` in bytes, of this machine where none is given.

    Raises TrainingError where one does not fit, with what would make it fit.
    """
    left, pace = memory_left() if memory is None else memory, measure()
    refused = []
    for files in every:
        plan = plan_for(source, files, settings)
        show(describe(plan, f"{files.train}, {source}", plan.seconds(pace), left))
        try:
            refuse_too_large(plan, left, ranks)
        except TrainingError as error:
            refused.append(str(error))
    if refused:
        raise TrainingError("\n".join(dict.fromkeys(refused)))


def describe(plan: Plan, title: str, seconds: float, memory: int) -> str:
    """The plan as a page of text."""
    work, params = plan.work, plan.work.params
    kind = f"{work.base.bits}-bit" if work.base.bits else f"{8 * work.on.float_bytes}-bit floats"
    tokens = sum(len(sized.row.ids) for sized in plan.rows)
    told = sum(len(sized.row.weights) for sized in plan.rows)
    longest = max(len(sized.row.ids) for sized in (*plan.rows, *plan.val))
    adapter = work.base.lora_weights(work.lora)
    lines = {
        "base": f"{_many(work.base.weights())} weights in {kind}",
        "adapter": f"{_many(adapter)} weights at rank {work.lora.rank}, {adapter * 4 / 1e6:.1f} MB",
        "rows": f"{len(plan.rows)} to learn from, {len(plan.val)} to judge by",
        "tokens": f"{'about ' if plan.rough else ''}{tokens:,} an epoch, {told:,} of them "
        f"supervised; longest row {longest:,} of {params.max_tokens:,}",
        "steps": f"{plan.steps:,} in {params.epochs} epochs",
        "time": f"about {_long(seconds)}",
        "peak memory": f"{plan.peak / 1e9:.2f} GB of {memory / 1e9:.1f} GB that are to be had",
    }  # fmt: skip
    text = [title, *(f"  {name:<12} {value}" for name, value in lines.items())]
    parts = [f"    {name:<42} {size / 1e9:7.2f} GB" for name, size in plan.parts().items()]
    return "\n".join([*text, *parts])


def files_of(params: Params) -> list[Files]:
    """Where dvc.yaml has the rows of each advisor.

    Raises ParamsError where it has no train stage.
    """
    return [Files(*paths) for paths in flags_of("train", ("train_data", "val_data"), params)]


def _many(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.2f} million"


def _long(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
