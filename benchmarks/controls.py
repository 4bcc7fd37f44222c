"""Test the verdict with control runs: python benchmarks/controls.py

Trains on the sample (`dvc repro prepare` first), for each advisor: adapters with several seeds, one
on the critiques of other photos, and one on critiques that all have the scores of a template. The
answers of the first ones are judged again with the base's scores: they have the voice alone. The
last weights are kept, so that val only evaluates and selects nothing. Writes all runs to
benchmarks/results/controls.json; an interrupted run continues from .cache/controls.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.measurement import ROOT, write_results
from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.params import Params, load_params
from mondrian.critique.rows import ChatRow, read_train_and_val
from mondrian.critique.schema import serialize_critique, validate_critique
from mondrian.evaluation.calibration import calibrate_report
from mondrian.evaluation.crossvalidation import train_and_evaluate
from mondrian.evaluation.evaluate import EvalData
from mondrian.evaluation.verdict import build_evaluation
from mondrian.model import vlm
from mondrian.sample.corruptions import EXAMPLE_SCORES, replace_scores

SEEDS = (1, 2, 3)
CACHE = ROOT / ".cache"


@dataclass(frozen=True)
class ControlRun:
    control: str
    seed: int
    train: list[ChatRow]
    val: list[ChatRow]


def make_runs(train: list[ChatRow], val: list[ChatRow]) -> list[ControlRun]:
    return [
        *(ControlRun("none", seed, train, val) for seed in SEEDS),
        ControlRun("critiques of other photographs", 1, swap_critiques(train), val),
        ControlRun("template scores", 1, use_template_scores(train), use_template_scores(val)),
    ]


def swap_critiques(rows: Sequence[ChatRow]) -> list[ChatRow]:
    """Give every photo the critique of another one."""
    indices = pick_other_photos(rows)
    return [
        replace_answer(row, rows[i].messages[-1]["content"], rows[i].derived)
        for row, i in zip(rows, indices, strict=True)
    ]


def pick_other_photos(rows: Sequence[ChatRow]) -> list[int]:
    """Return for each row a row with another photo, each about once."""
    count = len(rows)
    others = []
    for i, row in enumerate(rows):
        candidates = ((i + count // 2 + k) % count for k in range(count))
        others.append(next(j for j in candidates if rows[j].photo_group != row.photo_group))
    return others


def use_template_scores(rows: Sequence[ChatRow]) -> list[ChatRow]:
    """Give every critique the scores of the example in the prompt."""
    overall = round(float(np.mean(EXAMPLE_SCORES)), 1)
    critiques = [replace_scores(row.reference_critique(), EXAMPLE_SCORES, overall) for row in rows]
    return [
        replace_answer(row, serialize_critique(critique), row.derived)
        for row, critique in zip(rows, critiques, strict=True)
    ]


def replace_answer(row: ChatRow, answer: str, derived: list[str]) -> ChatRow:
    messages = [*row.messages[:-1], {"role": "assistant", "content": answer}]
    return row.model_copy(update={"messages": messages, "derived": derived})


def keep_base_scores(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report of an adapter with the base's scores in the words of this adapter."""
    photos = []
    for photo in report["photographs"]:
        base, tuned = (photo[f"{arm}_constrained"] for arm in ("base", "fine_tuned"))
        critique = validate_critique(tuned["text"])
        overall = round(float(np.mean(base["scores"])), 1)
        text = serialize_critique(replace_scores(critique, tuple(base["scores"]), overall))
        answer = tuned | {"text": text, "scores": base["scores"]}
        photos.append(photo | {"fine_tuned_constrained": answer})
    return report | {"photographs": photos}


def summarize(
    advisor: str, run: ControlRun, report: dict[str, Any], params: Params
) -> dict[str, Any]:
    metrics = build_evaluation(calibrate_report(report, params.evaluate.calibrate), params.evaluate)
    comparisons = metrics["comparisons"]
    return {
        "advisor": advisor,
        "control": run.control,
        "seed": run.seed,
        "verdict": metrics["verdict"],
        "index_gain": comparisons["index"]["mean"],
        "manner": comparisons["manner"]["mean"],
        "judgement": comparisons["judgement"]["mean"],
        "judgement_low": comparisons["judgement"]["low"],
        "score_mae": metrics["fine_tuned"].get("score_mae"),
        "constant_mae": metrics["constant"]["score_mae"],
        "shuffled_mae": metrics["shuffled"].get("score_mae"),
        "base_mae": metrics["base"].get("score_mae"),
    }


def main() -> None:
    params = load_params(ROOT / "params.yaml")
    base, results = vlm.load(params.base.source), []
    files = read_stage_flags("train", ["train_data", "val_data"], params)
    for advisor, (train_file, val_file) in zip(params.advisors, files, strict=True):
        for run in make_runs(*read_train_and_val(train_file, val_file)):
            train_params = params.train.model_copy(
                update={"seed": run.seed, "save_weights": "last", "early_stopping_patience": 0}
            )
            run_params = params.model_copy(update={"train": train_params})
            folder = CACHE / "controls" / f"{advisor}-{run.control.replace(' ', '-')}-{run.seed}"
            report = train_and_evaluate(
                base, run_params, EvalData(run.val, run.train), folder, CACHE
            )
            results.append(summarize(advisor, run, report, run_params))
            print(json.dumps(results[-1]), flush=True)
            if run.control == "none":
                voice = replace(run, control="voice only")
                results.append(summarize(advisor, voice, keep_base_scores(report), run_params))
                print(json.dumps(results[-1]), flush=True)
    write_results("controls.json", results)


if __name__ == "__main__":
    main()
