"""Plan as text, for files of rows or every advisor of dvc.yaml; refuse a run that does not fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import TrainingError
from mondrian.core.params import MachineParams, Params, TrainParams
from mondrian.critique.rows import read_rows
from mondrian.model.architecture import read_architecture, refuse_unusable_base
from mondrian.model.device import DEVICE
from mondrian.model.hardware import measure_throughput, memory_budget
from mondrian.model.hub import find_plan_files
from mondrian.model.lora import make_lora_config
from mondrian.model.tokenizer import ApproximateTokenizer, load_tokenizer
from mondrian.training.plan import Examples, TrainingPlan, build_setup, make_plan
from mondrian.training.preferences import arrange_rows, read_pairs
from mondrian.training.step_cost import RunSetup


@dataclass(frozen=True)
class PreparedFiles:
    train: Path
    val: Path
    preferences: Path | None = None


def list_prepared_files(params: Params) -> list[PreparedFiles]:
    """Return each advisor's files in dvc.yaml, or raise ParamsError if it has no train stage."""
    flags = read_stage_flags("train", ("train_data", "val_data", "preferences"), params)
    return [PreparedFiles(*paths) for paths in flags]


def build_plan_from_files(source: str, files: PreparedFiles, params: TrainParams) -> TrainingPlan:
    """Plan a run from the base's config and tokenizer, without its weights."""
    refuse_unusable_base(source)
    folder = find_plan_files(source)
    base = read_architecture(source)
    tokenizer = load_tokenizer(folder, base.image_id)
    setup = build_setup(base, params, DEVICE)
    pairs = read_pairs(files.preferences, params)
    rows = arrange_rows(read_rows(files.train), read_rows(files.val), pairs, params)
    return make_plan(setup, tokenizer, *rows)


@dataclass(frozen=True)
class Machine:
    """What a run may take. On a GPU MLX's cache of freed memory counts too."""

    budget: int  # bytes
    num_processes: int = 1  # on this machine, each with its shard of a batch
    cache_limit: int = 0  # bytes of MLX's cache of each process

    def fits(self, plan: TrainingPlan) -> bool:
        return self.total_bytes(plan) <= self.budget

    def total_bytes(self, plan: TrainingPlan) -> int:
        """Return the peak memory of all processes."""
        if self.num_processes == 1:
            return plan.peak_bytes + self.cache_limit
        batch_size = -(-plan.setup.params.batch_size // self.num_processes)
        peak_bytes = plan.replan(_change(plan.setup, {"batch_size": batch_size})).peak_bytes
        return self.num_processes * (peak_bytes + self.cache_limit)


def describe_machine(params: MachineParams, budget: int | None = None) -> Machine:
    """Return what a run may take here; budget replaces this machine's memory."""
    cache_limit = int(params.cache_limit_gb * 1e9) if DEVICE.is_gpu else 0
    budget = memory_budget() if budget is None else budget
    return Machine(budget, params.num_processes, cache_limit)


def describe_plans(
    source: str, all_files: Sequence[PreparedFiles], params: TrainParams, machine: Machine
) -> Iterator[str]:
    """Yield a description of each plan; at the end raise TrainingError if one does not fit."""
    throughput, problems = None, []
    for files in all_files:
        plan = build_plan_from_files(source, files, params)
        throughput = throughput or measure_throughput(plan.setup.base.bits)
        seconds = plan.estimate_seconds(throughput)
        yield describe_plan(plan, f"{files.train}, {source}", seconds, machine)
        try:
            check_memory_fit(plan, machine)
        except TrainingError as error:
            problems.append(str(error))
    if problems:
        raise TrainingError("\n".join(dict.fromkeys(problems)))


def describe_plan(plan: TrainingPlan, title: str, seconds: float, machine: Machine) -> str:
    base, params = plan.setup.base, plan.setup.params
    kind = f"{base.bits}-bit" if base.bits else f"{8 * plan.setup.device.float_bytes}-bit floats"
    examples = [planned.example for planned in plan.train]
    tokens = sum(example.num_tokens for example in examples)
    supervised = sum(len(e.weights) + len(e.rejected) for e in examples)
    longest = max(len(planned.ids) for planned in (*plan.train, *plan.val))
    adapter = base.num_lora_weights(plan.setup.lora)
    about = "about " if plan.image_id == ApproximateTokenizer.image_id else ""
    cache = f" and {machine.cache_limit / 1e9:.1f} GB MLX's cache" if machine.cache_limit else ""
    facts = {
        "base": f"{_format_count(base.num_weights())} weights in {kind}",
        "adapter": f"{_format_count(adapter)} weights at rank {plan.setup.lora.rank}, "
        f"{adapter * 4 / 1e6:.1f} MB",
        "rows": f"{_count_rows(plan.train)} train, {_count_rows(plan.val)} val",
        "tokens": f"{about}{tokens:,} per epoch, "
        f"{supervised:,} of them supervised; longest row {longest:,} of {params.max_seq_length:,}",
        "steps": f"{plan.steps:,} in {params.epochs} epochs",
        "time": f"about {_format_duration(seconds)}",
        "peak memory": f"{plan.peak_bytes / 1e9:.2f} GB{cache} of {machine.budget / 1e9:.1f} GB "
        "available",
    }
    lines = [f"  {name:<12} {value}" for name, value in facts.items()]
    parts = [f"    {name:<42} {size / 1e9:7.2f} GB" for name, size in plan.memory_parts().items()]
    return "\n".join([title, *lines, *parts])


def _count_rows(rows: Examples) -> str:
    counts = {
        "text only": sum(not planned.example.scores for planned in rows),
        "with a worse critique": sum(bool(planned.example.rejected) for planned in rows),
    }
    notes = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"{len(rows)}{f' ({notes})' if notes else ''}"


def _format_count(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.2f} million"


def _format_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def check_memory_fit(plan: TrainingPlan, machine: Machine) -> None:
    """Raise TrainingError if a plan does not fit into memory, with up to three ways to fit."""
    if machine.fits(plan):
        return
    suggestions = suggest_fitting_settings(plan, machine)
    fix = "no setting makes it fit: use a smaller base"
    if suggestions:
        fix = "\n  ".join(["each of these makes it fit:", *suggestions])
    raise TrainingError(
        f"training would take {machine.total_bytes(plan) / 1e9:.1f} GB and "
        f"{machine.budget / 1e9:.1f} GB are available; {fix}"
    )


def suggest_fitting_settings(plan: TrainingPlan, machine: Machine) -> list[str]:
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
            total_bytes = machine.total_bytes(plan.replan(setup))
            if total_bytes <= machine.budget:
                suggestions[frozenset(names)] = f"{', '.join(names)} ({total_bytes / 1e9:.1f} GB)"
            if len(suggestions) == 3:
                return list(suggestions.values())
    return list(suggestions.values())


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
