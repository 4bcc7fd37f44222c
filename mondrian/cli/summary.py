"""mondrian summary: the results of the last `dvc repro` as text."""

from pathlib import Path
from textwrap import fill, indent
from typing import Any

from mondrian.cli.parser import add_params, command_parser
from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import DataError
from mondrian.core.files import read_json
from mondrian.core.params import load_params
from mondrian.core.terminal import LINE_WIDTH
from mondrian.evaluation.headline import can_crossvalidate
from mondrian.evaluation.preference import VOTES_FILE, read_preference
from mondrian.evaluation.summary import (
    describe_calibration,
    describe_failed_gates,
    describe_verdicts,
    format_arms_table,
)
from mondrian.evaluation.timing import format_overhead_warning

_COMMITTED = ("params.yaml", "dvc.lock", "data/sample/dvc.lock", "metrics")
_LEGEND = """\
quality: 100 is the advisor's own critique, 0 chance, below 0 worse (docs/evaluation.md). Score MAE:
mean distance from the advisor's scores, of 10; raw: before calibration.
constant: predicts the median scores of the training critiques. Score bias above 0: too kind."""


def main(argv: list[str]) -> None:
    parser = command_parser("summary", "mondrian summary")
    add_params(parser)
    params = load_params(parser.parse_args(argv).params)
    reports = read_stage_flags("evaluate", ["details", "html"], params)
    folders = [details.parent for details, _ in reports]
    try:
        texts = [
            describe_advisor(advisor, folder, params.train.method)
            for advisor, folder in zip(params.advisors, folders, strict=True)
        ]
        next_step = _next_step(folders)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"a file in {', '.join(map(str, folders))} is damaged or of another version "
            f"({type(error).__name__}: {error}); dvc checkout brings it back, dvc repro computes it"
        ) from None
    print("\n\n".join([*texts, _LEGEND]))
    print(f"reports: {', '.join(str(html) for _, html in reports)}")
    print(f"commit:  git add {' '.join(_COMMITTED)} && git commit")
    print(f"next:    {next_step}")


def _next_step(folders: list[Path]) -> str:
    metrics = [read_json(folder / "metrics.json") for folder in folders]
    if any(m["verdict"] != "BETTER" or m["failed_gates"] for m in metrics):
        return "read the reports; docs/guide.md, chapter 6, says what to do about each verdict"
    return "make serve, which lets you compare base and adapters in a browser"


def describe_advisor(advisor: str, folder: Path, method: str) -> str:
    """Return verdict, counts, training figures, metrics and failed gates of an advisor.

    method  train.method
    """
    link, prepare, train, train_timing, evaluation, timing = (
        read_json(folder / f"{name}.json")
        for name in ("link", "prepare", "train", "train_timing", "evaluate", "evaluate_timing")
    )
    critiques = prepare["train"]["critiques"] + prepare["val"]["critiques"]
    is_imported = train_timing["seconds"] is None
    suggests_folds = can_crossvalidate(critiques, None if is_imported else method)
    headline, *others = describe_verdicts(evaluation, suggests_folds)
    lines = [
        f"{advisor}: {headline}",
        *others,
        f"{link['linked']} of {link['finished']} finished jobs linked: "
        f"{prepare['train']['critiques']} train, {prepare['val']['critiques']} val and "
        f"{prepare['test']['critiques']} test critiques",
        describe_training(train, train_timing),
        *format_arms_table(evaluation),
        *describe_calibration(evaluation),
        *describe_failed_gates(evaluation),
    ]
    if (folder / VOTES_FILE).is_file():
        version = read_json(folder / "comparison_report.json")["adapter"]["version"]
        preference = read_preference(folder, version)
        lines.append(preference.describe() if preference else "no blind votes on this adapter")
    if warning := format_overhead_warning(timing):
        lines.append(warning)
    if evaluation["photographs"] != prepare["val"]["critiques"]:
        lines.append("training and evaluation are of other data: run dvc repro")
    return indent("\n".join(map(_wrap, lines)), "  ").lstrip()


def describe_training(train: dict[str, Any], timing: dict[str, Any]) -> str:
    """Return steps, time, memory and val loss; an imported adapter has no times."""
    if timing["seconds"] is None:
        return f"adapter imported, val loss {train['val_loss']:.3f}"
    return (
        f"{train['steps']} steps in {timing['seconds']:.0f} s, "
        f"{timing['tokens_per_second']:.0f} tokens/s, peak {timing['peak_memory_gb']:.2f} GB; "
        f"val loss {train['val_loss']:.3f} in epoch {train['epoch']} of {train['epochs']}"
        f"{describe_pairs(train)}"
    )


def describe_pairs(train: dict[str, Any]) -> str:
    """Return what training learned from preference pairs; "" without pairs."""
    if "train_pairs" not in train:
        return ""
    text = f"; {train['train_pairs']} preference pairs"
    if train["val_pairs"]:
        base, trained = train["base_preference_accuracy"], train["val_preference_accuracy"]
        text += (
            f", the better of two is the more likely in {trained:.0%} of {train['val_pairs']} val "
            f"pairs (base: {base:.0%}), odds-ratio loss {train['val_odds_ratio_loss']:.3f}"
        )
    return text


def _wrap(line: str) -> str:
    width = LINE_WIDTH - 2
    return line if len(line) <= width else fill(line, width, subsequent_indent="  ")
