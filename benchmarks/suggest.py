"""Suggested against random photographs: python benchmarks/suggest.py

For each seed a pool of 200 rendered scenes is drawn as a photographer's are: 160 of one kind (blue
sky, meadow, no sun, no mist, all attributes from 0.4 to 0.6) and 40 drawn as the sample's are, with
attributes from 0 to 1. Ansel critiques 30 of them, or 30 more after 30 random ones: chosen by the
k-center of `mondrian suggest`, by facility location, or at random. Each choice trains an adapter
with the settings of params.yaml. The error is that of the scores of critiques generated with the
grammar for 60 new scenes drawn as the sample's are (balanced), and for 30 as the pool's (alike).
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)

import numpy as np

from mondrian.core.fields import FloatArray
from mondrian.core.files import write_json
from mondrian.core.params import Params, load_params
from mondrian.critique.rows import ChatRow
from mondrian.critique.schema import validate_critique
from mondrian.evaluation.score_metrics import score_error
from mondrian.inference.photo_coverage import choose_photos, standardize
from mondrian.model import lora, vlm
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.generate import generate
from mondrian.model.photo_summary import summarize_features
from mondrian.model.vision_cache import FeatureCache
from mondrian.sample.chat_row import build_chat_row
from mondrian.sample.scene import ATTRIBUTES, Scene, draw_scene, render
from mondrian.sample.writing_style import write_critique
from mondrian.training.dataset import build_examples
from mondrian.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
ADVISOR, WIDTH, HEIGHT = "ansel", 160, 128
POOL, BALANCED, ALIKE = 200, 60, 30
COMMON_PART = 0.8
LOW, SPAN = 0.4, 0.2  # of the attributes of the common kind
Choose = Callable[[FloatArray, list[int], int], list[int]]


def draw_pool_scenes(seed: int, part: int, count: int) -> list[Scene]:
    """Return scenes of which COMMON_PART are of one kind; those are first."""
    scenes = [draw_scene(seed, part, number) for number in range(count)]
    num_common = round(COMMON_PART * count)
    return [make_common(scene) for scene in scenes[:num_common]] + scenes[num_common:]


def make_common(scene: Scene) -> Scene:
    attributes: dict[str, Any] = {name: LOW + SPAN * getattr(scene, name) for name in ATTRIBUTES}
    return replace(scene, **attributes, sky="blue", ground="meadow", lamp="none", mist=False)


def write_row(scene: Scene, persona: str, folder: Path) -> ChatRow:
    path = folder / f"{'-'.join(map(str, scene.seed))}.png"
    render(scene, WIDTH, HEIGHT).save(path)
    return build_chat_row(write_critique(ADVISOR, scene), path, persona)


@dataclass(frozen=True)
class Photos:
    pool: list[ChatRow]
    balanced: list[ChatRow]
    alike: list[ChatRow]

    @classmethod
    def render(cls, seed: int, persona: str, folder: Path) -> "Photos":
        folder.mkdir(parents=True, exist_ok=True)
        parts = (
            draw_pool_scenes(seed, 7, POOL),
            [draw_scene(seed, 8, number) for number in range(BALANCED)],
            draw_pool_scenes(seed, 9, ALIKE),
        )
        return cls(*([write_row(scene, persona, folder) for scene in part] for part in parts))


def choose_by_k_center(points: FloatArray, known: list[int], count: int) -> list[int]:
    candidates = [i for i in range(len(points)) if i not in known]
    choices = choose_photos(points[candidates], points[known], count)
    return [candidates[choice.index] for choice in choices]


def choose_by_facility_location(points: FloatArray, known: list[int], count: int) -> list[int]:
    """Return the photos that lower the sum of all distances to the nearest one most, greedily."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    chosen = list(known)
    for _ in range(count):
        nearest = distances[:, chosen].min(axis=1) if chosen else distances.max(axis=1)
        sums = np.minimum(nearest[:, None], distances).sum(axis=0)
        sums[chosen] = np.inf
        chosen.append(int(sums.argmin()))
    return chosen[len(known) :]


METHODS: dict[str, Choose] = {
    "k-center": choose_by_k_center,
    "facility": choose_by_facility_location,
}
ARMS = ("random", *METHODS)


def choose(points: FloatArray, arm: str, seed: int, num_known: int, count: int) -> list[int]:
    """Return the photos to train on: random ones that are critiqued, then those of the arm."""
    order: list[int] = np.random.default_rng(seed).permutation(len(points)).tolist()
    if arm == "random":
        return order[: num_known + count]
    known = order[:num_known]
    return known + METHODS[arm](points, known, count)


def measure_error(features: FeatureCache, rows: Sequence[ChatRow], params: Params) -> float:
    """Return the mean absolute error of the scores of constrained critiques."""
    base, max_tokens = features.vlm, params.evaluate.max_new_tokens
    photos = [features.get(row.images[0]) for row in rows]
    prompts = [
        vlm.tokenize_prompt(base, row.messages[:-1], photo)
        for row, photo in zip(rows, photos, strict=True)
    ]
    size = base.model.config.text_config.vocab_size
    grammar = CritiqueGrammar(base.processor.tokenizer, size, max_tokens)
    sampling_params = SamplingParams(max_tokens, params.evaluate.batch_size, grammar)
    answers = generate(base, prompts, photos, sampling_params)
    return fmean(
        score_error(validate_critique(a.text).scores(), row.reference_critique().scores())
        for a, row in zip(answers, rows, strict=True)
    )


def run_arm(
    features: FeatureCache, photos: Photos, chosen: Sequence[int], params: Params, seed: int
) -> dict[str, Any]:
    settings = params.train.model_copy(update={"seed": seed, "val_samples": 0})
    train = build_examples([photos.pool[i] for i in chosen], settings, features)
    val = build_examples(photos.balanced[:2], settings, features)
    try:
        Trainer(features, train, val, settings).run()
        return {
            "rare": sum(i >= COMMON_PART * POOL for i in chosen),
            "balanced_error": round(measure_error(features, photos.balanced, params), 4),
            "alike_error": round(measure_error(features, photos.alike, params), 4),
        }
    finally:
        lora.detach(features.vlm.model)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--critiqued", type=int, nargs="+", default=[0, 30], help="at first")
    parser.add_argument("--count", type=int, default=30, help="photographs to critique")
    results = Path(__file__).parent / "results/suggest.json"
    parser.add_argument("--output", type=Path, default=results)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(ROOT / "params.yaml")
    cache = ROOT / ".cache"
    features = FeatureCache(vlm.load(str(ROOT / params.base.source)), cache / "features", 20)
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        photos = Photos.render(seed, params.persona(ADVISOR), cache / "suggest" / str(seed))
        pool = [row.images[0] for row in photos.pool]
        features.precompute(pool)
        points = standardize(np.array([summarize_features(features.get(path)) for path in pool]))
        for num_known, arm in product(args.critiqued, args.arms):
            chosen = choose(points, arm, seed, num_known, args.count)
            run = {"seed": seed, "critiqued": num_known, "arm": arm}
            runs.append(run | run_arm(features, photos, chosen, params, seed))
            print(json.dumps(runs[-1]), flush=True)
            write_json(args.output, runs)
    print_table(runs)


def print_table(runs: Sequence[dict[str, Any]]) -> None:
    """Print the errors by seed, their mean, and in how many seeds an arm was better than random."""
    metrics = ("balanced_error", "alike_error")
    for num_known, metric in product(sorted({run["critiqued"] for run in runs}), metrics):
        errors: dict[str, list[float]] = {}
        for run in runs:
            if run["critiqued"] == num_known:
                errors.setdefault(run["arm"], []).append(run[metric])
        print(f"{metric}, {num_known} critiqued at first")
        for arm, values in errors.items():
            pairs = zip(values, errors.get("random", values), strict=True)
            columns = "".join(f"{value:8.3f}" for value in values)
            wins = sum(value < at_random for value, at_random in pairs)
            print(f"  {arm:10}{columns}   mean {fmean(values):.3f}, better in {wins}")


if __name__ == "__main__":
    main()
