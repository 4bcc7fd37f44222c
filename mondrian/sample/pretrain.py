"""Pre-train mondrian-tiny from nothing: `python -m mondrian.sample.pretrain`.

Rendered scenes -> models/base/mondrian-tiny. First the vision tower learns to tell the true
attributes of a scene (warm-up), then the whole model learns to write the plain critique of it, and
at last to get the scores right. The seed fixes scenes, order and first weights, yet two runs are
not bitwise equal (docs/limits.md). Two processes share the work and average their gradients. At the
end the result is measured and its card written.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from math import cos, pi
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.nn.utils import average_gradients
from PIL import Image
from tqdm import tqdm

from mondrian.core.errors import run
from mondrian.core.files import atomic_folder
from mondrian.sample import base_files, corpus, weights
from mondrian.sample.model_card import write_card
from mondrian.sample.pretrain_data import BatchSampler, Pictures, PretrainSettings
from mondrian.sample.pretrain_model import PretrainModel
from mondrian.sample.scene import draw_scene, render
from mondrian.training.distributed import run_local_ranks

RANKS = 2
PHASES = ("write", "refine")
BASE_FILE_PATTERNS = ("*.json", "*.jinja", "*.safetensors", "README.md")


def render_all(settings: PretrainSettings, path: Path) -> None:
    """Render every scene small; uint8 (scenes, height, width, 3)."""
    pictures = np.lib.format.open_memmap(
        path, "w+", np.uint8, (settings.scenes, base_files.HEIGHT, base_files.WIDTH, 3)
    )
    jobs = [(settings.seed, i) for i in range(settings.scenes)]
    with get_context("spawn").Pool(RANKS) as pool:
        images = pool.imap(render_small_image, jobs, chunksize=20)
        for i, picture in enumerate(tqdm(images, "render", len(jobs), unit="scene")):
            pictures[i] = picture


def render_small_image(seed: tuple[int, ...]) -> Pictures:
    """Rendered at twice the size and reduced, as a large photograph would be."""
    large = render(draw_scene(*seed), 2 * base_files.WIDTH, 2 * base_files.HEIGHT)
    return np.asarray(large.resize((base_files.WIDTH, base_files.HEIGHT), Image.Resampling.LANCZOS))


def train_model(
    name: str,
    learner: PretrainModel,
    steps: int,
    rate: float,
    batches: Callable[[int], tuple[Callable[..., mx.array], Any]],
    say: Callable[[str], None],
) -> None:
    """AdamW over `steps` steps, warm-up then cosine, gradients averaged over the ranks."""
    optimizer = optim.AdamW(rate, betas=[0.9, 0.98], weight_decay=0.01, bias_correction=True)
    started, losses = time.perf_counter(), []
    for step in range(steps):
        warm, done = min(1.0, (step + 1) / 40), step / steps
        optimizer.learning_rate = rate * warm * (0.02 + 0.98 * 0.5 * (1 + cos(pi * done)))
        loss_of, batch = batches(step)
        loss, gradients = nn.value_and_grad(learner, loss_of)(*batch)
        gradients, _ = optim.clip_grad_norm(average_gradients(gradients), 1.0)
        optimizer.update(learner, gradients)
        mx.eval(learner.state, optimizer.state, loss)
        losses.append(loss.item())
        if step % 25 == 24:
            pace = (time.perf_counter() - started) / (step + 1)
            say(f"{name} {step + 1}/{steps}  loss {np.mean(losses[-25:]):.4f}  {pace:.2f} s a step")


def train_rank(phase: str, settings: PretrainSettings, pictures: Path, folder: Path) -> None:
    """One of RANKS equal processes of a phase; rank 0 speaks and saves."""
    from transformers import AutoTokenizer

    world = mx.distributed.init()
    say = print_line if world.rank() == 0 else discard_line
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reader = BatchSampler(settings, pictures, tokenizer, world.rank(), phase)
    model = weights.build_model(folder, settings.seed)
    mx.random.seed(settings.seed)
    learner = PretrainModel(model)

    def look(_: int) -> tuple[Callable[..., mx.array], Any]:
        images, picked = reader.draw()
        return learner.probe_loss, (images, reader.truth(picked))

    def critique(step: int) -> tuple[Callable[..., mx.array], Any]:
        if step % settings.prose_every == 1:
            return learner.prose_loss, (reader.draw_prose(),)
        any_voice = step % settings.any_voice_every == 0
        return learner.critique_loss, (reader.draw_critiques(any_voice), phase == "write")

    if phase == "write":
        train_model("see", learner, settings.warmup_steps, settings.warmup_rate, look, say)
        train_model("write", learner, settings.steps, settings.rate, critique, say)
    else:
        weights.restore(model, folder)
        train_model("refine", learner, settings.refine_steps, settings.refine_rate, critique, say)
    if world.rank() == 0:
        weights.save(model, folder)


def print_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def discard_line(_: str) -> None:
    pass


def parse_args() -> argparse.Namespace:
    default = PretrainSettings()
    parser = argparse.ArgumentParser(description="Pre-train mondrian-tiny from rendered scenes.")
    parser.add_argument("--output_dir", type=Path, default=base_files.FOLDER)
    parser.add_argument("--scenes", type=int, default=default.scenes, help="rendered scenes")
    parser.add_argument("--warmup_steps", type=int, default=default.warmup_steps)
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--held_out", type=int, default=default.held_out, help="to measure by")
    parser.add_argument("--refine_steps", type=int, default=default.refine_steps)
    parser.add_argument("--pictures", type=Path, help=argparse.SUPPRESS)  # of a rank
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)  # of a rank
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    settings = replace(
        PretrainSettings(),
        scenes=args.scenes,
        warmup_steps=args.warmup_steps,
        steps=args.steps,
        refine_steps=args.refine_steps,
        held_out=args.held_out,
    )
    if args.pictures:
        train_rank(args.phase, settings, args.pictures, args.output_dir)
        return
    with (
        tempfile.TemporaryDirectory() as scratch,
        atomic_folder(args.output_dir, BASE_FILE_PATTERNS) as beside,
    ):
        pictures = Path(scratch) / "scenes.npy"
        render_all(settings, pictures)
        base_files.write_folder(beside, corpus.tokenizer_corpus(settings.seed))
        for phase in PHASES:
            options = {**vars(args), "output_dir": beside, "pictures": pictures, "phase": phase}
            flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
            run_local_ranks([sys.executable, "-m", "mondrian.sample.pretrain", *flags], RANKS)
        write_card(beside, settings)


if __name__ == "__main__":
    run(main)
