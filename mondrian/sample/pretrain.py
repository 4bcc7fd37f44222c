"""Pre-train mondrian-tiny from scratch: `python -m mondrian.sample.pretrain`.

Rendered scenes -> models/base/mondrian-tiny. First the vision tower learns the true attributes of a
scene (warm-up), then the model learns to write the plain critique of it, then to get the scores
right. At last the tower learns to show each attribute in the mean of its tokens, and the model to
name all of them at the start of a critique. The seed determines scenes, order and weights. Two
processes share the work and average their gradients. At the end the result is measured and its
model card is written.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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

from mondrian.core.errors import run_command
from mondrian.core.files import open_atomic_folder
from mondrian.core.terminal import progress_bar
from mondrian.sample import base_files, corpus, weights
from mondrian.sample.model_card import write_card
from mondrian.sample.pretrain_data import PHASES, BatchSampler, Images, PretrainSettings
from mondrian.sample.pretrain_model import AttributeProbe, MeanProbe, PretrainModel
from mondrian.sample.scene import draw_scene, render
from mondrian.training.distributed import run_local_ranks

RANKS = 2
BASE_FILE_PATTERNS = ("*.json", "*.jinja", "*.safetensors", "README.md")
_STEP_FLAGS = ("warmup_steps", "steps", "refine_steps", "tower_steps", "survey_steps")
_SIZE_FLAGS = ("scenes", *_STEP_FLAGS, "held_out")

Step = tuple[Callable[..., mx.array], Any]  # a loss function and its arguments


@dataclass(frozen=True)
class Schedule:
    """Steps of one kind of batch; next_batch returns the loss function of a step and its batch."""

    name: str
    steps: int
    rate: float
    next_batch: Callable[[int], Step]


def render_all(settings: PretrainSettings, path: Path) -> None:
    """Render all scenes small; uint8 (scenes, height, width, 3)."""
    shape = (settings.scenes, base_files.IMAGE_HEIGHT, base_files.IMAGE_WIDTH, 3)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    seeds = [(settings.seed, i) for i in range(settings.scenes)]
    with get_context("spawn").Pool(RANKS) as pool:
        rendered = pool.imap(render_small_image, seeds, chunksize=20)
        for i, image in enumerate(progress_bar(rendered, "render", len(seeds), unit="scene")):
            images[i] = image


def render_small_image(seed: tuple[int, ...]) -> Images:
    """Render at twice the size and reduce, as a large photo would be."""
    width, height = base_files.IMAGE_WIDTH, base_files.IMAGE_HEIGHT
    large = render(draw_scene(*seed), 2 * width, 2 * height)
    return np.asarray(large.resize((width, height), Image.Resampling.LANCZOS))


def train_model(model: PretrainModel, schedule: Schedule, log: Callable[[str], None]) -> None:
    """Train by AdamW with warm-up, then cosine decay; gradients are averaged over the ranks."""
    name, steps, rate = schedule.name, schedule.steps, schedule.rate
    optimizer = optim.AdamW(rate, betas=[0.9, 0.98], weight_decay=0.01, bias_correction=True)
    start, losses = time.perf_counter(), []
    for step in range(steps):
        warmup, progress = min(1.0, (step + 1) / 40), step / steps
        optimizer.learning_rate = rate * warmup * (0.02 + 0.98 * 0.5 * (1 + cos(pi * progress)))
        compute_loss, batch = schedule.next_batch(step)
        loss, gradients = nn.value_and_grad(model, compute_loss)(*batch)
        gradients, _ = optim.clip_grad_norm(average_gradients(gradients), 1.0)
        optimizer.update(model, gradients)
        mx.eval(model.state, optimizer.state, loss)
        losses.append(loss.item())
        if step % 25 == 24:
            seconds = (time.perf_counter() - start) / (step + 1)
            mean = np.mean(losses[-25:])
            log(f"{name} {step + 1}/{steps}  loss {mean:.4f}  {seconds:.2f} s per step")


def train_rank(phase: str, settings: PretrainSettings, images: Path, folder: Path) -> None:
    """Run one of RANKS equal processes of a phase; rank 0 logs and saves."""
    from transformers import AutoTokenizer

    rank = mx.distributed.init().rank()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sampler = BatchSampler(settings, images, tokenizer, rank, phase)
    base = weights.build_model(folder, settings.seed)
    mx.random.seed(settings.seed)
    model = PretrainModel(base, MeanProbe(settings.seed) if phase == "survey" else AttributeProbe())
    if phase != PHASES[0]:
        weights.load_weights(base, folder)

    def log(text: str) -> None:
        if rank == 0:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    for schedule in plan_phase(phase, settings, Batches(model, sampler, phase)):
        train_model(model, schedule, log)
    if rank == 0:
        weights.save_weights(base, folder)


@dataclass(frozen=True)
class Batches:
    """The next batch of each kind, with the loss function that it trains."""

    model: PretrainModel
    sampler: BatchSampler
    phase: str

    def probe(self, _: int) -> Step:
        images, indices = self.sampler.draw_images()
        return self.model.probe_loss, (images, self.sampler.attributes(indices))

    def text(self, step: int) -> Step:
        settings = self.sampler.settings
        if step % settings.prose_every == 1:
            return self.model.prose_loss, (self.sampler.draw_prose(),)
        mixed_styles = step % settings.mixed_styles_every == 0
        batch = self.sampler.draw_critiques(mixed_styles)
        return self.model.critique_loss, (batch, self.phase != "refine")

    def survey(self, step: int) -> Step:
        """Return a batch of surveys, or in every critiques_every-th step one of `text`."""
        settings = self.sampler.settings
        if step % settings.critiques_every == 0:
            return self.text(step // settings.critiques_every)
        return self.model.critique_loss, (self.sampler.draw_surveys(), True)


def plan_phase(phase: str, settings: PretrainSettings, batches: Batches) -> list[Schedule]:
    if phase == "write":
        warmup = Schedule("see", settings.warmup_steps, settings.warmup_rate, batches.probe)
        return [warmup, Schedule("write", settings.steps, settings.rate, batches.text)]
    if phase == "refine":
        return [Schedule("refine", settings.refine_steps, settings.refine_rate, batches.text)]
    tower = Schedule("tower", settings.tower_steps, settings.tower_rate, batches.probe)
    return [tower, Schedule("survey", settings.survey_steps, settings.survey_rate, batches.survey)]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pre-train mondrian-tiny from rendered scenes.")
    parser.add_argument("--output_dir", type=Path, default=base_files.BASE_FOLDER)
    for name in _SIZE_FLAGS:
        default = getattr(PretrainSettings(), name)
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument(
        "--continue_from", type=Path, help="run only the last phase, from the weights of this base"
    )
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)  # of a rank
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)  # of a rank
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    sizes = {name: getattr(args, name) for name in _SIZE_FLAGS}
    settings = replace(PretrainSettings(), **sizes)
    if args.images:
        train_rank(args.phase, settings, args.images, args.output_dir)
        return
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_atomic_folder(args.output_dir, BASE_FILE_PATTERNS) as staging,
    ):
        if args.continue_from:
            shutil.copytree(args.continue_from, staging, dirs_exist_ok=True)
        else:
            base_files.write_base_files(staging, corpus.tokenizer_corpus(settings.seed))
        images = Path(scratch) / "scenes.npy"
        render_all(settings, images)
        for phase in PHASES[-1:] if args.continue_from else PHASES:
            options = {**sizes, "output_dir": staging, "images": images, "phase": phase}
            flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
            run_local_ranks([sys.executable, "-m", "mondrian.sample.pretrain", *flags], RANKS)
        write_card(staging, settings)


if __name__ == "__main__":
    run_command(main)
