"""Is the verdict to be trusted? python benchmarks/controls.py

On the sample (`dvc repro prepare` first), for each advisor: adapters of several training seeds, an
adapter trained on the critiques of other photographs, and one trained where every critique gives
the scores of a template. The last weights are kept, so that val judges and chooses nothing. Writes
benchmarks/results/controls.json: a line for every run, none left out. Goes on where it was stopped
(.cache/controls).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import mondrian.model  # noqa: E402,F401  # isort: skip  (before mlx)
import numpy as np  # noqa: E402

from mondrian.core.dvc_paths import read_stage_flags  # noqa: E402
from mondrian.core.params import Params, load_params  # noqa: E402
from mondrian.critique.rows import ChatRow, read_train_and_val  # noqa: E402
from mondrian.critique.schema import serialize_critique  # noqa: E402
from mondrian.evaluation.arms import pick_other_photographs  # noqa: E402
from mondrian.evaluation.crossvalidation import train_and_evaluate  # noqa: E402
from mondrian.evaluation.evaluate import EvalDataset  # noqa: E402
from mondrian.evaluation.verdict import build_metrics  # noqa: E402
from mondrian.model import vlm  # noqa: E402
from mondrian.sample.corruptions import EXAMPLE_SCORES, replace_scores  # noqa: E402

SEEDS = (1, 2, 3)
CACHE = ROOT / ".cache"


def with_answer(row: ChatRow, answer: str, derived: list[str]) -> ChatRow:
    """The same row with another critique, and what of that is derived."""
    messages = [*row.messages[:-1], {"role": "assistant", "content": answer}]
    return row.model_copy(update={"messages": messages, "derived": derived})


def of_others(rows: Sequence[ChatRow]) -> list[ChatRow]:
    """Every photograph with the critique of another."""
    places = pick_other_photographs(rows)
    assert places is not None
    return [
        with_answer(row, rows[place].messages[-1]["content"], rows[place].derived)
        for row, place in zip(rows, places, strict=True)
    ]


def of_template(rows: Sequence[ChatRow]) -> list[ChatRow]:
    """Every critique with the scores of the prompt's own example."""
    overall = round(float(np.mean(EXAMPLE_SCORES)), 1)
    return [
        with_answer(
            row,
            serialize_critique(replace_scores(row.reference_critique(), EXAMPLE_SCORES, overall)),
            row.derived,
        )
        for row in rows
    ]


def runs(rows: list[ChatRow], val: list[ChatRow]) -> list[tuple[str, int, Any, Any]]:
    """What is trained: the control, its seed, rows to learn from and to judge by."""
    out: list[tuple[str, int, Any, Any]] = [("none", seed, rows, val) for seed in SEEDS]
    out.append(("critiques of other photographs", 1, of_others(rows), val))
    out.append(("template scores", 1, of_template(rows), of_template(val)))
    return out


def line(advisor: str, control: str, seed: int, report: dict[str, Any], params: Params) -> Any:
    """What is told of one run."""
    found = build_metrics(report, params.evaluate)
    return {
        "advisor": advisor,
        "control": control,
        "seed": seed,
        "verdict": found["verdict"],
        "index_gain": found["comparisons"]["index"]["mean"],
        "index_gain_low": found["comparisons"]["index"]["low"],
        "score_mae": found["fine_tuned"].get("score_mae"),
        "constant_mae": found["constant"]["score_mae"],
        "shuffled_mae": found["shuffled"].get("score_mae"),
        "base_mae": found["base"].get("score_mae"),
    }


def main() -> None:
    params = load_params(ROOT / "params.yaml")
    base, results = vlm.load(params.base.source), []
    files = read_stage_flags("train", ["train_data", "val_data"], params)
    for advisor, (train, held) in zip(params.advisors, files, strict=True):
        for control, seed, rows, val in runs(*read_train_and_val(train, held)):
            settings = params.train.model_copy(
                update={"seed": seed, "save_weights": "last", "early_stopping_patience": 0}
            )
            own = params.model_copy(update={"train": settings})
            folder = CACHE / "controls" / f"{advisor}-{control.replace(' ', '-')}-{seed}"
            report = train_and_evaluate(base, own, EvalDataset(val, rows), folder, CACHE)
            results.append(line(advisor, control, seed, report, own))
            print(json.dumps(results[-1]), flush=True)
    out = ROOT / "benchmarks/results/controls.json"
    out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
