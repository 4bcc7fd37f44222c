"""SFT and ORPO on the sample with simulated corrections: python benchmarks/preferences.py

Reads data/prepared/ansel (`dvc repro prepare`). A correction is a pair: the advisor's critique, and
the same with one score a point off or one comment about another photo. Each train photo has one,
which ORPO learns from; each val photo has one per dimension and kind, which measure preferences.
Both methods train on the same critiques with the same seeds and settings.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)

import numpy as np

from mondrian.core.files import write_json
from mondrian.core.params import TrainParams, load_params
from mondrian.critique.preference_rows import PreferenceRow
from mondrian.critique.rows import ChatRow, read_train_and_val, row_path
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.model import lora, vlm
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.dataset import Example, build_examples
from mondrian.training.loss import Loss
from mondrian.training.preferences import merge_pairs
from mondrian.training.progress import mean_preferences
from mondrian.training.run import evaluate_samples
from mondrian.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
ADVISOR, METHODS = "ansel", ("sft", "orpo")
METRICS = ("val_loss", "val_score_mae", "val_compliance")
Run = dict[str, Any]


def move_score(critique: Critique, _: Critique, i: int, rng: Random) -> Critique:
    """Return the critique with the score of a dimension a point higher or lower."""
    score = critique.dimensions[i].score
    shifts = [shift for shift in (-1, 1) if 0 <= score + shift <= 10]
    return change_dimension(critique, i, {"score": score + rng.choice(shifts)})


def take_comment(critique: Critique, other: Critique, i: int, _: Random) -> Critique:
    """Return the critique with comment and recommendation of another photo in a dimension."""
    names = ("comment", "recommendation")
    return change_dimension(
        critique, i, {name: getattr(other.dimensions[i], name) for name in names}
    )


def change_dimension(critique: Critique, i: int, update: dict[str, Any]) -> Critique:
    dimensions = list(critique.dimensions)
    dimensions[i] = dimensions[i].model_copy(update=update)
    return critique.model_copy(update={"dimensions": tuple(dimensions)})


KINDS = (move_score, take_comment)


def make_pairs(
    row: ChatRow, rows: Sequence[ChatRow], kind: Any, rng: Random
) -> list[PreferenceRow]:
    """Return a pair for each dimension, in random order; none for one with equal comments."""
    other = rng.choice([r for r in rows if r.photo_group != row.photo_group]).reference_critique()
    critique = row.reference_critique()
    changed = [kind(critique, other, i, rng) for i in range(len(critique.dimensions))]
    rng.shuffle(changed)
    return [PreferenceRow.prefer(row, serialize_critique(c)) for c in changed if c != critique]


def measure_preferences(loss: Loss, pairs: Sequence[Example]) -> Run:
    _, odds_ratio_loss, preferred = np.sum(list(loss.iter_eval_sums(pairs)), axis=0)
    metrics = mean_preferences(odds_ratio_loss, preferred, len(pairs))
    return {name: round(float(value), 4) for name, value in metrics.items()}


def run_method(
    features: FeatureCache, train: Sequence[ChatRow], val: Sequence[ChatRow], params: TrainParams
) -> Run:
    """Train and return the metrics of the last epoch, with the score error of greedy critiques."""
    examples = [build_examples(part, params, features) for part in (train, val)]
    rows = [example for example in examples[1] if not example.rejected]
    pairs = [example for example in examples[1] if example.rejected]
    base = measure_preferences(Loss(features, {}, params), pairs)
    trainer = Trainer(features, examples[0], rows, params)
    metrics = trainer.run().metrics() | evaluate_samples(features, rows, params.max_seq_length)
    measured = measure_preferences(trainer.loss, pairs)
    lora.detach(features.vlm.model)
    return metrics | {"val_pairs": len(pairs), "base": base, "val": measured}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--beta", type=float, help="instead of train.orpo_beta")
    results = Path(__file__).parent / "results/preferences.json"
    parser.add_argument("--output", type=Path, default=results)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(ROOT / "params.yaml")
    folder = ROOT / "data/prepared" / ADVISOR
    train, val = read_train_and_val(*(row_path(folder, ADVISOR, part) for part in ("train", "val")))
    features = FeatureCache(vlm.load(str(ROOT / params.base.source)), ROOT / ".cache/features", 20)
    beta = args.beta or params.train.orpo_beta
    runs: list[Run] = []
    for seed in args.seeds:
        rng = Random(seed)
        pairs = [make_pairs(row, train, KINDS[i % 2], rng)[0] for i, row in enumerate(train)]
        measured = [
            pair for row in val for kind in KINDS for pair in make_pairs(row, val, kind, rng)
        ]
        for method in args.methods:
            update = {"method": method, "seed": seed, "orpo_beta": beta}
            settings = params.train.model_copy(update=update)
            rows = merge_pairs(train, pairs) if method == "orpo" else train
            runs.append(update | run_method(features, rows, [*val, *measured], settings))
            print(json.dumps(runs[-1]), flush=True)
    write_json(args.output, runs)
    print_table(runs)


def print_table(runs: Sequence[Run]) -> None:
    """Print the means over seeds."""
    names = ("preference_accuracy", "odds_ratio_loss")
    print(f"{'':6}" + "".join(f"{name:>22}" for name in (*names, *METRICS)))
    print("base  " + "".join(f"{fmean(run['base'][name] for run in runs):22.3f}" for name in names))
    for method in METHODS:
        chosen = [run for run in runs if run["method"] == method]
        columns = [[run["val"][name] for run in chosen] for name in names]
        columns += [[run[name] for run in chosen] for name in METRICS]
        if chosen:
            print(f"{method:6}" + "".join(f"{fmean(column):22.3f}" for column in columns))


if __name__ == "__main__":
    main()
