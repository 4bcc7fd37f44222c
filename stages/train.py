"""train: data/prepared/<advisor>/, data/preferences/<advisor>/ -> models/<base>-lora-<advisor>/

Also metrics/<advisor>/train.json.
"""

import argparse
import sys
from pathlib import Path

from mondrian.core.adapter_folder import SAVED_FILES
from mondrian.core.errors import run_command
from mondrian.core.files import check_output_file, check_output_folder
from mondrian.core.params import load_params
from mondrian.critique.rows import read_train_and_val
from mondrian.model import vlm
from mondrian.model.memory_limits import set_memory_limits
from mondrian.model.provenance import build_recipe
from mondrian.training import distributed
from mondrian.training.plan_report import (
    PreparedFiles,
    build_plan_from_files,
    check_memory_fit,
    describe_machine,
    describe_plans,
    list_prepared_files,
)
from mondrian.training.preferences import check_prompts, read_pairs
from mondrian.training.run import RunPaths, TrainingData, TrainingRun


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a LoRA adapter on a frozen base.")
    full = "--plan" not in sys.argv
    add = parser.add_argument
    add("--train_data", type=Path, required=full)
    add("--val_data", type=Path, required=full)
    add("--preferences", type=Path, help="pairs, for train.method orpo")
    add("--output_dir", type=Path, required=full)
    add("--metrics", type=Path, required=full)
    add("--cache_dir", type=Path, default=Path(".cache"))
    add("--epochs", type=int, help="instead of train.epochs of params.yaml")
    add("--base", help="instead of base.source of params.yaml")
    add("--plan", action="store_true", help="print memory, time and steps, and exit")
    add("--memory_gb", type=float, help="plan for this memory instead of this machine's")
    add("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    if (args.train_data is None) != (args.val_data is None):
        parser.error("--train_data and --val_data go together")
    if args.memory_gb is not None and not 0 < args.memory_gb < 1e6:
        parser.error(f"--memory_gb is {args.memory_gb}; it must be between 0 and 1,000,000")
    return args


def main() -> None:
    args = parse_args()
    params = load_params(args.params)
    train_params = params.train.with_epochs(args.epochs)
    source = params.base.source if args.base is None else args.base
    paths = (args.train_data, args.val_data, args.preferences)
    files = [PreparedFiles(*paths)] if args.train_data else []
    num_processes = params.machine.num_processes
    if args.plan:
        budget = None if args.memory_gb is None else int(args.memory_gb * 1e9)
        files = files or list_prepared_files(params)
        machine = describe_machine(params.machine, budget)
        for text in describe_plans(source, files, train_params, machine):
            print(text)
        return
    check_output_folder(args.output_dir, SAVED_FILES)
    check_output_file(args.metrics)
    world = distributed.join_process_group(params.machine.collective_timeout_seconds)
    if world.rank == 0 and not distributed.is_local_rank():
        plan = build_plan_from_files(source, files[0], train_params)
        check_memory_fit(plan, describe_machine(params.machine))
    if num_processes > world.size:
        distributed.run_local_ranks([sys.executable, *sys.argv], num_processes)
        return
    train, val = read_train_and_val(args.train_data, args.val_data)
    pairs = read_pairs(args.preferences, train_params)
    check_prompts(train, pairs)
    set_memory_limits(params.machine.cache_limit_gb)
    base = vlm.load(source)
    recipe = build_recipe(base.base_id, train, args.train_data, params.image, train_params)
    inputs = {"train data": args.train_data, "val data": args.val_data}
    if pairs:
        inputs["preferences"] = args.preferences
    data = TrainingData(train, val, inputs, pairs)
    run_paths = RunPaths(args.output_dir, args.metrics, args.cache_dir, args.output_dir.name)
    result = TrainingRun(base, train_params, params.machine, world, run_paths).run(data, recipe)
    if world.rank == 0:
        print(result.summary(args.output_dir))


if __name__ == "__main__":
    run_command(main)
