"""A plan for people: for files of rows, or for every advisor of dvc.yaml."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import TrainingError
from mondrian.core.params import Params, Train
from mondrian.critique.rows import read_rows
from mondrian.model.architecture import find_base, read_architecture
from mondrian.model.hardware import measure_throughput, memory_budget, this_device
from mondrian.model.tokenizer import load_tokenizer
from mondrian.training.memory_fit import check_memory_fit
from mondrian.training.plan import TrainingPlan, make_plan


@dataclass(frozen=True)
class PreparedFiles:
    """Prepared rows of one advisor."""

    train: Path
    val: Path


def build_plan_from_files(source: str, files: PreparedFiles, settings: Train) -> TrainingPlan:
    """A run's plan; the base's config and tokenizer are read, its weights are not.

    Raises MondrianError where rows or base are not what they should be.
    """
    base = read_architecture(source)
    tokens = load_tokenizer(find_base(source), base.image_id)
    rows, val = read_rows(files.train), read_rows(files.val)
    return make_plan(base, tokens, rows, val, settings, this_device())


def show_plans(
    source: str,
    all_files: Sequence[PreparedFiles],
    settings: Train,
    ranks: int,
    memory: int | None,
    show: Callable[[str], None],
) -> None:
    """Show a plan for each; `memory` in bytes, of this machine where none is given.

    Raises TrainingError where one does not fit, with what would make it fit.
    """
    left, pace = memory_budget() if memory is None else memory, measure_throughput()
    refused = []
    for files in all_files:
        plan = build_plan_from_files(source, files, settings)
        show(describe(plan, f"{files.train}, {source}", plan.estimate_seconds(pace), left))
        try:
            check_memory_fit(plan, left, ranks)
        except TrainingError as error:
            refused.append(str(error))
    if refused:
        raise TrainingError("\n".join(dict.fromkeys(refused)))


def describe(plan: TrainingPlan, title: str, seconds: float, memory: int) -> str:
    """The plan as a page of text."""
    work, params = plan.job, plan.job.params
    kind = (
        f"{work.base.bits}-bit" if work.base.bits else f"{8 * work.device.float_bytes}-bit floats"
    )
    tokens = sum(len(sized.row.ids) for sized in plan.rows)
    supervised_tokens = sum(len(sized.row.weights) for sized in plan.rows)
    longest = max(len(sized.row.ids) for sized in (*plan.rows, *plan.val))
    adapter = work.base.num_lora_weights(work.lora)
    lines = {
        "base": f"{_format_count(work.base.num_weights())} weights in {kind}",
        "adapter": f"{_format_count(adapter)} weights at rank {work.lora.rank}, "
        f"{adapter * 4 / 1e6:.1f} MB",
        "rows": f"{len(plan.rows)} to learn from, {len(plan.val)} to judge by",
        "tokens": f"{'about ' if plan.has_approximate_tokens else ''}{tokens:,} an epoch, "
        f"{supervised_tokens:,} of them "
        f"supervised; longest row {longest:,} of {params.max_seq_length:,}",
        "steps": f"{plan.steps:,} in {params.epochs} epochs",
        "time": f"about {_format_duration(seconds)}",
        "peak memory": f"{plan.peak / 1e9:.2f} GB of {memory / 1e9:.1f} GB that are to be had",
    }
    text = [title, *(f"  {name:<12} {value}" for name, value in lines.items())]
    parts = [f"    {name:<42} {size / 1e9:7.2f} GB" for name, size in plan.memory_parts().items()]
    return "\n".join([*text, *parts])


def list_prepared_files(params: Params) -> list[PreparedFiles]:
    """Where dvc.yaml has the rows of each advisor.

    Raises ParamsError where it has no train stage.
    """
    return [
        PreparedFiles(*paths)
        for paths in read_stage_flags("train", ("train_data", "val_data"), params)
    ]


def _format_count(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.2f} million"


def _format_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
