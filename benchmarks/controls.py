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

from mondrian.core.dvc_paths import flags_of  # noqa: E402
from mondrian.core.params import Params, load_params  # noqa: E402
from mondrian.critique.rows import Row, read_together  # noqa: E402
from mondrian.critique.schema import canonical  # noqa: E402
from mondrian.evaluation.arms import another_photograph  # noqa: E402
from mondrian.evaluation.train_and_evaluate import trial  # noqa: E402
from mondrian.evaluation.verdict import metrics  # noqa: E402
from mondrian.model import vlm  # noqa: E402
from mondrian.sample.corruptions import EXAMPLE_SCORES, with_scores  # noqa: E402

SEEDS = (1, 2, 3)
CACHE = ROOT / ".cache"


def with_answer(row: Row, answer: str, derived: list[str]) -> Row:
    """The same row with another critique, and what of that is derived."""
    messages = [*row.messages[:-1], {"role": "assistant", "content": answer}]
    return row.model_copy(update={"messages": messages, "derived": derived})


def of_others(rows: Sequence[Row]) -> list[Row]:
    """Every photograph with the critique of another."""
    places = another_photograph(rows)
    assert places is not None
    return [
        with_answer(row, rows[place].messages[-1]["content"], rows[place].derived)
        for row, place in zip(rows, places, strict=True)
    ]


def of_template(rows: Sequence[Row]) -> list[Row]:
    """Every critique with the scores of the prompt's own example."""
    overall = round(float(np.mean(EXAMPLE_SCORES)), 1)
    return [
        with_answer(row, canonical(with_scores(row.answer(), EXAMPLE_SCORES, overall)), row.derived)
        for row in rows
    ]


def runs(rows: list[Row], val: list[Row]) -> list[tuple[str, int, Any, Any]]:
    """What is trained: the control, its seed, rows to learn from and to judge by."""
    out: list[tuple[str, int, Any, Any]] = [("none", seed, rows, val) for seed in SEEDS]
    out.append(("critiques of other photographs", 1, of_others(rows), val))
    out.append(("template scores", 1, of_template(rows), of_template(val)))
    return out


def line(advisor: str, control: str, seed: int, report: dict[str, Any], params: Params) -> Any:
    """What is told of one run."""
    found = metrics(report, params.evaluate)
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
    files = flags_of("train", ["train_data", "val_data"], params)
    for advisor, (train, held) in zip(params.advisors, files, strict=True):
        for control, seed, rows, val in runs(*read_together(train, held)):
            settings = params.train.model_copy(update={"seed": seed, "keep": "last", "patience": 0})
            own = params.model_copy(update={"train": settings})
            folder = CACHE / "controls" / f"{advisor}-{control.replace(' ', '-')}-{seed}"
            report = trial(base, own, rows, val, folder, CACHE)
            results.append(line(advisor, control, seed, report, own))
            print(json.dumps(results[-1]), flush=True)
    out = ROOT / "benchmarks/results/controls.json"
    out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
