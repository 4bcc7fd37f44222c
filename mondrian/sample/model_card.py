"""Measure mondrian-tiny on scenes it never saw and write its card."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mondrian.core.errors import run
from mondrian.core.files import write_text
from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import row_messages
from mondrian.critique.schema import DIMENSIONS, is_schema_valid, validate_critique
from mondrian.model import vlm
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.generate import generate
from mondrian.sample import base_files
from mondrian.sample.corpus import generate_persona
from mondrian.sample.pretrain_data import PretrainSettings
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.scoring import PLAIN_TASTE, score_scene

HELD_OUT_SEED = 900  # of no training scene and of no sample
BATCH = 20
MIN_CORRELATION = 0.5  # a lower correlation counts as blind

Scores = NDArray[np.floating[Any]]


def measure(folder: Path, count: int) -> tuple[float, float, Scores, Scores]:
    """Compliance, tokens an answer, scores told and true scores of compliant answers (n, 7)."""
    base = vlm.load(str(folder))
    rng = np.random.default_rng(HELD_OUT_SEED)
    predicted, true, tokens = [], [], 0
    for first in tqdm(range(0, count, BATCH), "held-out scenes", unit="batch"):
        scenes = [draw_scene(HELD_OUT_SEED, i) for i in range(first, min(first + BATCH, count))]
        features = [
            vlm.encode_image(
                base, resize_to_fit(render(s), 4096, base_files.WIDTH * base_files.HEIGHT)
            )
            for s in scenes
        ]
        messages = row_messages(generate_persona(rng), "")[:-1]
        prompts = [vlm.prompt_ids(base, messages, s) for s in features]
        answers = generate(base, prompts, features, SamplingParams(600, BATCH))
        for scene, answer in zip(scenes, answers, strict=True):
            tokens += answer.num_tokens
            if is_schema_valid(answer.text):
                predicted.append(validate_critique(answer.text).scores())
                true.append(score_scene(PLAIN_TASTE, scene))
    return len(predicted) / count, tokens / count, np.array(predicted), np.array(true)


def format_score_table(predicted: Scores, true: Scores) -> str:
    """MAE and correlation a dimension, beside a predictor that says the mean of the true scores."""
    if len(predicted) < 2:
        return "No answer was a critique."
    error = np.abs(predicted - true).mean(axis=0)
    constant = np.abs(true - true.mean(axis=0)).mean(axis=0)
    lines = ["| dimension | MAE | MAE of a constant | correlation |", "|---|---|---|---|"]
    for i, name in enumerate(DIMENSIONS):
        correlation = np.corrcoef(predicted[:, i], true[:, i])[0, 1]
        lines.append(f"| {name} | {error[i]:.2f} | {constant[i]:.2f} | {correlation:.2f} |")
    lines.append(f"| all | {error.mean():.2f} | {constant.mean():.2f} | |")
    return "\n".join(lines)


TEMPLATE = Path(__file__).with_suffix(".md")


def describe_blind_dimensions(predicted: Scores, true: Scores) -> str:
    """The dimensions whose scores hardly follow the picture, in words."""
    poor = [
        name
        for i, name in enumerate(DIMENSIONS)
        if len(predicted) < 2
        or not np.corrcoef(predicted[:, i], true[:, i])[0, 1] > MIN_CORRELATION
    ]
    if not poor:
        return "It sees something of all seven."
    return f"It does not see {', '.join(poor)}: its scores there are guesses."


def write_card(folder: Path, settings: PretrainSettings) -> None:
    """Measure the base in a folder and write its README.md."""
    compliance, tokens, predicted, true = measure(folder, settings.held_out)
    card = TEMPLATE.read_text(encoding="utf-8").format(
        width=base_files.WIDTH,
        height=base_files.HEIGHT,
        rows=2 * settings.batch,
        count=settings.held_out,
        compliance=compliance,
        tokens=tokens,
        table=format_score_table(predicted, true),
        blind=describe_blind_dimensions(predicted, true),
        **vars(settings),
    )
    write_text(folder / "README.md", card)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure mondrian-tiny and write its card.")
    parser.add_argument("--base", type=Path, default=base_files.FOLDER)
    write_card(parser.parse_args().base, PretrainSettings())


if __name__ == "__main__":
    run(main)
