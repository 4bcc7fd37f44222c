"""mondrian import-adapter: import a PEFT adapter that was trained elsewhere."""

from pathlib import Path

from mondrian.cli.parser import add_params, command_parser, path_name
from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import ParamsError
from mondrian.core.params import Params, load_params
from mondrian.training.import_peft import ImportPaths, import_adapter


def main(argv: list[str]) -> None:
    parser = command_parser(
        "import-adapter",
        "mondrian import-adapter out/checkpoint-111 --advisor ansel",
        "It is checked against base.source and the advisor's prepared rows, and must change the\n"
        "base's logits. It replaces what the train stage of dvc.yaml writes: the adapter folder,\n"
        "with the losses of trainer_state.json as its log, train.json and train_timing.json.",
    )
    parser.add_argument(
        "adapter", type=path_name, help="folder with adapter_config.json, as PEFT saved it"
    )
    parser.add_argument("--advisor", help="not needed if params.yaml has only one")
    parser.add_argument("--base", help="base to use instead of base.source of params.yaml")
    parser.add_argument(
        "--same_base",
        action="store_true",
        help="adapter_config.json has another name for the same base: import it all the same",
    )
    parser.add_argument(
        "--cache_dir", type=path_name, default=Path(".cache"), help="vision features"
    )
    add_params(parser)
    args = parser.parse_args(argv)
    params = load_params(args.params)
    if args.base:
        base = params.base.model_copy(update={"source": args.base})
        params = params.model_copy(update={"base": base})
    advisor, paths = find_paths(args.advisor, params)
    print(import_adapter(args.adapter, paths, params, args.cache_dir, args.same_base))
    print(f"next: dvc commit --force train@{advisor} && dvc repro evaluate@{advisor}")


def find_paths(advisor: str | None, params: Params) -> tuple[str, ImportPaths]:
    """Return the advisor and the paths of its train stage, or raise ParamsError."""
    advisors = list(params.advisors)
    if advisor is None and len(advisors) == 1:
        advisor = advisors[0]
    if advisor not in advisors:
        problem = f"--advisor is {advisor}" if advisor else "--advisor is missing"
        raise ParamsError(f"{problem}; params.yaml has {', '.join(advisors)}")
    flags = ("train_data", "val_data", "output_dir", "metrics")
    paths = read_stage_flags("train", flags, params)[advisors.index(advisor)]
    return advisor, ImportPaths(*paths)
