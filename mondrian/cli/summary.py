"""mondrian summary: what the last `dvc repro` gave, as text."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from mondrian.cli.parser import add_params, command_parser
from mondrian.core.files import read_json
from mondrian.core.params import load_params
from mondrian.evaluation.arms import ARMS
from mondrian.evaluation.summary import describe_verdict


def load_arms_table(advisor: str, folder: Path) -> pd.DataFrame:
    """One row an arm: format compliance, score error and bias, cost."""
    metrics = read_json(folder / advisor / "evaluate.json")
    column_titles = {
        "format_compliance": "compliance",
        "scored": "scored",
        "score_mae": "score MAE",
        "score_bias": "bias",
        "quality_index": "index",
        "seconds_per_critique": "s/critique",
        "tokens_per_critique": "tokens",
    }
    known = [arm for arm in (*ARMS, "constant") if arm in metrics]
    table = pd.DataFrame({arm: metrics[arm] for arm in known}).T
    table = table.reindex(columns=list(column_titles)).rename(columns=column_titles).astype(float)
    return table.astype({"scored": int})


def describe_advisor(advisor: str, folder: Path) -> str:
    """The advisor's way through the pipeline, as text."""
    link, prepare, train, evaluate = (
        read_json(folder / advisor / f"{stage}.json")
        for stage in ("link", "prepare", "train", "evaluate")
    )
    stale = evaluate["photographs"] != prepare["val"]["critiques"]
    table = load_arms_table(advisor, folder).to_string(float_format="{:.2f}".format, na_rep="-")
    return "\n".join(
        [
            f"{advisor}: {link['linked']} of {link['finished']} finished jobs linked, "
            f"{prepare['train']['critiques']} train, {prepare['val']['critiques']} val and "
            f"{prepare['test']['critiques']} test critiques",
            f"  trained in {train['seconds']:.0f} s at {train['tokens_per_second']:.0f} tokens/s, "
            f"val loss {train['val_loss']:.3f}, peak {train['peak_memory_gb']:.2f} GB",
            *(f"  {line}" for line in table.splitlines()),
            f"  {describe_verdict(evaluate)}",
            *(["  trained and evaluated on other data than these: run dvc repro"] if stale else []),
        ]
    )


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    params = load_params(args.params)
    print("\n\n".join(describe_advisor(advisor, args.metrics) for advisor in params.advisors))
    print(
        "\nscore MAE: mean distance from the advisor's own scores, 0 to 10; "
        "constant says the mean of the training scores.\n"
        "compliance: share of answers that fit the schema; scored: answers with scores; "
        "bias above 0: too kind; "
        "index: quality, 0 to 100 (docs/evaluation.md)."
    )


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "summary", "Show what the last `dvc repro` gave for each advisor.", "mondrian summary"
    )
    parser.add_argument("--metrics", type=Path, default=Path("metrics"), help="metrics folder")
    add_params(parser)
    return parser.parse_args(argv)
