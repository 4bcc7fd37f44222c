"""Measure mondrian-tiny on held-out scenes and write its model card."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mondrian.core.errors import run_command
from mondrian.core.files import write_text
from mondrian.core.images import resize_to_fit
from mondrian.core.terminal import progress_bar
from mondrian.critique.prompt import build_row_messages
from mondrian.critique.schema import DIMENSIONS, is_schema_valid, validate_critique
from mondrian.model import vlm
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.generate import generate
from mondrian.sample.base_files import BASE_FOLDER, IMAGE_HEIGHT, IMAGE_WIDTH
from mondrian.sample.corpus import generate_persona
from mondrian.sample.pretrain_data import SURVEY_TOKENS, PretrainSettings
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.scoring import PLAIN_TASTE, score_scene

TEMPLATE = Path(__file__).with_suffix(".md")
HELD_OUT_SEED = 900  # of no training scene and no sample
BATCH_SIZE = 20
MIN_CORRELATION = 0.5  # below it, a dimension counts as not recognized

Scores = NDArray[np.floating[Any]]


def measure_base(folder: Path, count: int) -> tuple[float, float, Scores, Scores]:
    """Return compliance, mean tokens, and predicted and true scores (n, 7) of valid critiques."""
    base = vlm.load(str(folder))
    rng = np.random.default_rng(HELD_OUT_SEED)
    predicted, true, tokens = [], [], 0
    for first in progress_bar(range(0, count, BATCH_SIZE), "held-out scenes", unit="batch"):
        indices = range(first, min(first + BATCH_SIZE, count))
        scenes = [draw_scene(HELD_OUT_SEED, i) for i in indices]
        max_pixels = IMAGE_WIDTH * IMAGE_HEIGHT
        images = [resize_to_fit(render(scene), 4096, max_pixels) for scene in scenes]
        features = [vlm.encode_image(base, image) for image in images]
        messages = build_row_messages(generate_persona(rng), "")[:-1]
        prompts = [vlm.tokenize_prompt(base, messages, image) for image in features]
        answers = generate(base, prompts, features, SamplingParams(600, BATCH_SIZE))
        for scene, answer in zip(scenes, answers, strict=True):
            tokens += answer.num_tokens
            if is_schema_valid(answer.text):
                predicted.append(validate_critique(answer.text).scores())
                true.append(score_scene(PLAIN_TASTE, scene))
    return len(predicted) / count, tokens / count, np.array(predicted), np.array(true)


def _correlations(predicted: Scores, true: Scores) -> list[float]:
    pairs = zip(predicted.T, true.T, strict=True)
    return [float(np.corrcoef(x, y)[0, 1]) for x, y in pairs]


def format_score_table(predicted: Scores, true: Scores) -> str:
    """Return MAE and correlation per dimension, compared with predicting the mean true score."""
    if len(predicted) < 2:
        return "No answer was a critique."
    error = np.abs(predicted - true).mean(axis=0)
    constant = np.abs(true - true.mean(axis=0)).mean(axis=0)
    lines = ["| dimension | MAE | MAE of a constant | correlation |", "|---|---|---|---|"]
    columns = zip(DIMENSIONS, error, constant, _correlations(predicted, true), strict=True)
    lines += [f"| {name} | {e:.2f} | {c:.2f} | {r:.2f} |" for name, e, c, r in columns]
    return "\n".join([*lines, f"| all | {error.mean():.2f} | {constant.mean():.2f} | |"])


def describe_blind_dimensions(predicted: Scores, true: Scores) -> str:
    """Return a sentence on dimensions with scores that hardly depend on the image."""
    correlations = _correlations(predicted, true) if len(predicted) >= 2 else [0.0] * 7
    pairs = zip(DIMENSIONS, correlations, strict=True)
    blind = [name for name, correlation in pairs if not correlation > MIN_CORRELATION]
    if not blind:
        return "Its scores depend on the image in all seven dimensions."
    return f"It does not recognize {', '.join(blind)}: its scores there are guesses."


def write_card(folder: Path, settings: PretrainSettings) -> None:
    """Measure the base in a folder and write its README.md."""
    compliance, tokens, predicted, true = measure_base(folder, settings.held_out)
    card = TEMPLATE.read_text(encoding="utf-8").format(
        width=IMAGE_WIDTH,
        height=IMAGE_HEIGHT,
        rows=2 * settings.batch,
        survey_tokens=SURVEY_TOKENS,
        compliance=compliance,
        tokens=tokens,
        table=format_score_table(predicted, true),
        blind=describe_blind_dimensions(predicted, true),
        **vars(settings),
    )
    write_text(folder / "README.md", card)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure mondrian-tiny and write its model card.")
    parser.add_argument("--base", type=Path, default=BASE_FOLDER)
    write_card(parser.parse_args().base, PretrainSettings())


if __name__ == "__main__":
    run_command(main)
