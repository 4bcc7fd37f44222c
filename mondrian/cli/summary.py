"""mondrian summary: the results of the last `dvc repro` as text."""

from pathlib import Path
from typing import Any

from mondrian.cli.parser import add_params, command_parser
from mondrian.core.files import read_json
from mondrian.core.params import load_params
from mondrian.evaluation.summary import describe_verdict, format_arms_table

_LEGEND = """
score MAE: mean distance from the advisor's own scores, 0 to 10; constant predicts the mean of the \
training scores.
compliance: share of schema-valid answers; scored: answers with scores; bias above 0: too kind; \
index: quality, 0 to 100 (docs/evaluation.md)."""


def main(argv: list[str]) -> None:
    parser = command_parser("summary", "mondrian summary")
    parser.add_argument("--metrics", type=Path, default=Path("metrics"), help="metrics folder")
    add_params(parser)
    args = parser.parse_args(argv)
    params = load_params(args.params)
    print("\n\n".join(describe_advisor(advisor, args.metrics) for advisor in params.advisors))
    print(_LEGEND)


def describe_advisor(advisor: str, folder: Path) -> str:
    """Return counts of data, training figures, metrics and verdict of an advisor."""
    link, prepare, train, evaluate = (
        read_json(folder / advisor / f"{stage}.json")
        for stage in ("link", "prepare", "train", "evaluate")
    )
    lines = [
        f"{advisor}: {link['linked']} of {link['finished']} finished jobs linked, "
        f"{prepare['train']['critiques']} train, {prepare['val']['critiques']} val and "
        f"{prepare['test']['critiques']} test critiques",
        describe_training(train),
        *format_arms_table(evaluate),
        describe_verdict(evaluate),
    ]
    if evaluate["photographs"] != prepare["val"]["critiques"]:
        lines.append("the training and evaluation are of other data: run dvc repro")
    return "\n  ".join(lines)


def describe_training(train: dict[str, Any]) -> str:
    """Return val loss, time and memory; an imported adapter has no time and memory."""
    if "seconds" not in train:
        return f"adapter imported, val loss {train['val_loss']:.3f}"
    return (
        f"trained in {train['seconds']:.0f} s at {train['tokens_per_second']:.0f} tokens/s, "
        f"val loss {train['val_loss']:.3f}, peak {train['peak_memory_gb']:.2f} GB"
    )
