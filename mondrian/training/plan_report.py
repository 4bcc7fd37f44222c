"""Plan as text, for files of rows or every advisor of dvc.yaml; refuse a run that does not fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import TrainingError
from mondrian.core.params import Params, TrainParams
from mondrian.critique.rows import read_rows
from mondrian.model.architecture import find_base_folder, read_architecture
from mondrian.model.device import DEVICE
from mondrian.model.hardware import measure_throughput, memory_budget
from mondrian.model.lora import make_lora_config
from mondrian.model.tokenizer import ApproximateTokenizer, load_tokenizer
from mondrian.training.plan import Examples, RunSetup, TrainingPlan, build_setup, make_plan


@dataclass(frozen=True)
class PreparedFiles:
    train: Path
    val: Path


def list_prepared_files(params: Params) -> list[PreparedFiles]:
    """Return each advisor's files in dvc.yaml, or raise ParamsError if it has no train stage."""
    flags = read_stage_flags("train", ("train_data", "val_data"), params)
    return [PreparedFiles(*paths) for paths in flags]


def build_plan_from_files(source: str, files: PreparedFiles, params: TrainParams) -> TrainingPlan:
    """Plan a run from the base's config and tokenizer, without its weights."""
    base = read_architecture(source)
    tokenizer = load_tokenizer(find_base_folder(source), base.image_id)
    setup = build_setup(base, params, DEVICE)
    return make_plan(setup, tokenizer, read_rows(files.train), read_rows(files.val))


def describe_plans(
    source: str,
    all_files: Sequence[PreparedFiles],
    params: TrainParams,
    num_processes: int,
    budget: int | None,
) -> Iterator[str]:
    """Yield a description of each plan; at the end raise TrainingError if one does not fit.

    budget  bytes of memory; None for this machine's
    """
    budget = memory_budget() if budget is None else budget
    throughput, problems = measure_throughput(), []
    for files in all_files:
        plan = build_plan_from_files(source, files, params)
        seconds = plan.estimate_seconds(throughput)
        yield describe_plan(plan, f"{files.train}, {source}", seconds, budget)
        try:
            check_memory_fit(plan, budget, num_processes)
        except TrainingError as error:
            problems.append(str(error))
    if problems:
        raise TrainingError("\n".join(dict.fromkeys(problems)))


def describe_plan(plan: TrainingPlan, title: str, seconds: float, budget: int) -> str:
    base, params = plan.setup.base, plan.setup.params
    kind = f"{base.bits}-bit" if base.bits else f"{8 * plan.setup.device.float_bytes}-bit floats"
    tokens = sum(len(planned.ids) for planned in plan.train)
    supervised = sum(len(planned.example.weights) for planned in plan.train)
    longest = max(len(planned.ids) for planned in (*plan.train, *plan.val))
    adapter = base.num_lora_weights(plan.setup.lora)
    about = "about " if plan.image_id == ApproximateTokenizer.image_id else ""
    facts = {
        "base": f"{_format_count(base.num_weights())} weights in {kind}",
        "adapter": f"{_format_count(adapter)} weights at rank {plan.setup.lora.rank}, "
        f"{adapter * 4 / 1e6:.1f} MB",
        "rows": f"{_count_rows(plan.train)} train, {_count_rows(plan.val)} val",
        "tokens": f"{about}{tokens:,} per epoch, "
        f"{supervised:,} of them supervised; longest row {longest:,} of {params.max_seq_length:,}",
        "steps": f"{plan.steps:,} in {params.epochs} epochs",
        "time": f"about {_format_duration(seconds)}",
        "peak memory": f"{plan.peak_bytes / 1e9:.2f} GB of {budget / 1e9:.1f} GB available",
    }
    lines = [f"  {name:<12} {value}" for name, value in facts.items()]
    parts = [f"    {name:<42} {size / 1e9:7.2f} GB" for name, size in plan.memory_parts().items()]
    return "\n".join([title, *lines, *parts])


def _count_rows(rows: Examples) -> str:
    text_only = sum(not planned.example.scores for planned in rows)
    return f"{len(rows)}{f' ({text_only} text only)' if text_only else ''}"


def _format_count(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.2f} million"


def _format_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def check_memory_fit(plan: TrainingPlan, budget: int, num_processes: int = 1) -> None:
    """Raise TrainingError if a plan does not fit into memory, with up to three ways to fit.

    num_processes  on this machine, each with its shard of a batch
    """
    peak_bytes = _peak_bytes(plan, num_processes)
    if peak_bytes <= budget:
        return
    suggestions = suggest_fitting_settings(plan, budget, num_processes)
    fix = "no setting makes it fit: use a smaller base"
    if suggestions:
        fix = "\n  ".join(["each of these makes it fit:", *suggestions])
    raise TrainingError(
        f"training would take {peak_bytes / 1e9:.1f} GB and {budget / 1e9:.1f} GB are available; "
        f"{fix}"
    )


def suggest_fitting_settings(plan: TrainingPlan, budget: int, num_processes: int = 1) -> list[str]:
    """Return up to three settings, or the smallest sets of them, and the peak memory with each."""
    changes = _possible_changes(plan.setup)
    suggestions: dict[frozenset[str], str] = {}
    for count in range(1, len(changes) + 1):
        for names in combinations(changes, count):
            if any(smaller <= set(names) for smaller in suggestions):
                continue
            setup = plan.setup
            for name in names:
                setup = _change(setup, changes[name])
            peak_bytes = _peak_bytes(plan.replan(setup), num_processes)
            if peak_bytes <= budget:
                suggestions[frozenset(names)] = f"{', '.join(names)} ({peak_bytes / 1e9:.1f} GB)"
            if len(suggestions) == 3:
                return list(suggestions.values())
    return list(suggestions.values())


def _peak_bytes(plan: TrainingPlan, num_processes: int) -> int:
    if num_processes == 1:
        return plan.peak_bytes
    batch_size = -(-plan.setup.params.batch_size // num_processes)
    return num_processes * plan.replan(_change(plan.setup, {"batch_size": batch_size})).peak_bytes


def _possible_changes(setup: RunSetup) -> dict[str, dict[str, int]]:
    """Return the settings that save memory, the least harmful first."""
    params = setup.params
    changes: dict[str, dict[str, int]] = {}
    if not params.gradient_checkpointing:
        changes["train.gradient_checkpointing: true"] = {"gradient_checkpointing": True}
    if params.batch_size > 1:
        steps = params.gradient_accumulation_steps * params.batch_size
        label = f"train.batch_size: 1 with train.gradient_accumulation_steps: {steps}"
        changes[label] = {"batch_size": 1, "gradient_accumulation_steps": steps}
    for bits in (8, 4):
        if not setup.base.bits or bits < setup.base.bits:
            changes[f"base.source: a {bits}-bit copy"] = {"bits": bits}
    if params.loss_chunk_size > 64:
        changes["train.loss_chunk_size: 64"] = {"loss_chunk_size": 64}
    if setup.backward_layers > 1 and not params.train_projector:
        half = setup.backward_layers // 2
        changes[f"train.num_layers: {half}"] = {"num_layers": half}
    if params.lora_r > 8:
        changes["train.lora_r: 8"] = {"lora_r": 8}
    return changes


def _change(setup: RunSetup, update: dict[str, int]) -> RunSetup:
    """Return a setup with other parameters of `train`, or with the base packed to `bits`."""
    if "bits" in update:
        return replace(setup, base=replace(setup.base, bits=update["bits"]))
    params = setup.params.model_copy(update=update)
    return replace(setup, params=params, lora=make_lora_config(params))
