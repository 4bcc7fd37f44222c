"""Pre-train mondrian-tiny from nothing: `python -m mondrian.sample.pretrain`.

Rendered scenes -> models/base/mondrian-tiny. First the vision tower learns to tell the true
attributes of a scene (warm-up), then the whole model learns to write the plain critique of it. The
settings below and the seed fix the result on one kind of machine; two processes share the work and
average their gradients. `python -m mondrian.sample.card` measures what comes out.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, pi
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.nn.utils import average_gradients
from numpy.typing import NDArray
from PIL import Image

from mondrian.critique import canonical
from mondrian.forward import layers, logits, positions
from mondrian.kernels import cpu_kernels, cross_entropy
from mondrian.prompt import chat_messages, row_messages
from mondrian.sample import corpus, tiny, weights
from mondrian.sample.scene import ATTRIBUTES, draw_scene, render
from mondrian.sample.voice import write

FOLDER = Path("models/base/mondrian-tiny")
GRID = (tiny.HEIGHT // tiny.PATCH // tiny.MERGE, tiny.WIDTH // tiny.PATCH // tiny.MERGE)
SEEN = GRID[0] * GRID[1]  # image tokens
RANKS = 2


@dataclass(frozen=True)
class Settings:
    seed: int = 1
    scenes: int = 12_000
    batch: int = 16  # scenes a rank and step
    warmup_steps: int = 600
    warmup_rate: float = 1.0e-3
    steps: int = 1100
    rate: float = 1.0e-3
    prose_every: int = 8  # one step of so many is prose without a picture
    any_voice_every: int = 4  # one step of so many mixes the voices, where the prompt allows it
    digit_weight: float = 4.0
    survey_weight: float = 3.0


def render_all(settings: Settings, path: Path) -> None:
    """Render every scene small; uint8 (scenes, height, width, 3)."""
    pictures = np.lib.format.open_memmap(
        path, "w+", np.uint8, (settings.scenes, tiny.HEIGHT, tiny.WIDTH, 3)
    )
    jobs = [(settings.seed, i) for i in range(settings.scenes)]
    with get_context("spawn").Pool(RANKS) as pool:
        for i, picture in enumerate(pool.imap(small_picture, jobs, chunksize=50)):
            pictures[i] = picture


def small_picture(seed: tuple[int, ...]) -> NDArray[np.uint8]:
    """Rendered at twice the size and reduced, as a large photograph would be."""
    large = render(draw_scene(*seed), 2 * tiny.WIDTH, 2 * tiny.HEIGHT)
    return np.asarray(large.resize((tiny.WIDTH, tiny.HEIGHT), Image.Resampling.LANCZOS))


def patches(pictures: NDArray[np.uint8]) -> mx.array:
    """Pixels in the order of Qwen's image processor: (pictures x patches, 3 x 2 x 16 x 16)."""
    n, height, width, _ = pictures.shape
    p, m = tiny.PATCH, tiny.MERGE
    x = (pictures.astype(np.float32) / 255 - 0.5) / 0.5
    x = x.reshape(n, height // p // m, m, p, width // p // m, m, p, 3)
    x = x.transpose(0, 1, 4, 2, 5, 7, 3, 6)[:, :, :, :, :, :, None]  # n, gy, gx, my, mx, c, t, y, x
    return mx.array(np.repeat(x, 2, axis=6).reshape(-1, 3 * 2 * p * p))


class Probe(nn.Module):
    """Reads the seven attributes from what the vision tower gives; thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        width = tiny.HIDDEN * (1 + len(tiny.DEEPSTACK))
        self.norm, self.narrow = nn.LayerNorm(width), nn.Linear(width, 24)
        self.hidden, self.out = nn.Linear(24 * SEEN, 96), nn.Linear(96, len(ATTRIBUTES))

    def __call__(self, merged: mx.array, deep: list[mx.array]) -> mx.array:
        x = nn.relu(self.narrow(self.norm(mx.concatenate([merged, *deep], axis=-1))))
        return self.out(nn.relu(self.hidden(x.reshape(x.shape[0], -1)))) + 0.5


class Learner(nn.Module):
    """The model and its probe as one tree of weights."""

    def __init__(self, model: Any, image_id: int) -> None:
        super().__init__()
        self.model, self.probe = model, Probe()
        self._image_id = image_id

    def see(self, pictures: NDArray[np.uint8]) -> tuple[mx.array, list[mx.array]]:
        """Merged features and DeepStack levels, each (pictures, image tokens, width)."""
        n = len(pictures)
        grid = mx.array([[1, GRID[0] * tiny.MERGE, GRID[1] * tiny.MERGE]] * n)
        merged, deep = self.model.vision_tower(patches(pictures), grid)
        return merged.reshape(n, SEEN, -1), [d.reshape(n, SEEN, -1) for d in deep]

    def probe_loss(self, pictures: NDArray[np.uint8], truth: mx.array) -> mx.array:
        return ((self.probe(*self.see(pictures)) - truth) ** 2).mean()

    def critique_loss(self, batch: Critiques) -> mx.array:
        """Weighted cross-entropy of the answers, and what the probe still misses."""
        merged, deep = self.see(batch.pictures)
        missed = ((self.probe(merged, deep) - batch.truth) ** 2).mean()
        hidden = self.answer_states(batch, merged, deep)
        told = cross_entropy(logits(self.model, hidden), batch.targets)
        return (told * batch.weights).sum() / batch.weights.sum() + 2.0 * missed

    def answer_states(self, batch: Critiques, merged: mx.array, deep: list[mx.array]) -> mx.array:
        """Hidden states that predict the answers; the common prefix is computed once a batch."""
        text = self.model.language_model.model
        n, start, length = len(batch.rows), len(batch.prefix), batch.rows.shape[1]
        where = mx.array(positions(start + length, start, GRID))[:, None]
        prefix = [Shared(1) for _ in text.layers]
        layers(
            text, text.embed_tokens(mx.array(batch.prefix)[None]), where[..., :start], (), prefix
        )
        embedded = text.embed_tokens(mx.array(batch.rows[:, SEEN:]))
        h = mx.concatenate([merged, embedded], axis=1)
        nothing = mx.zeros((n, length - SEEN, merged.shape[-1]))
        padded = [mx.concatenate([d, nothing], axis=1) for d in deep]
        where = mx.broadcast_to(where[..., start:], (3, n, length))
        h = layers(text, h, where, padded, [Shared(n, p.keys, p.values) for p in prefix])
        return h[:, batch.first - 1 : -1]

    def reading_loss(self, ids: NDArray[np.int32]) -> mx.array:
        text = self.model.language_model.model
        where = mx.broadcast_to(mx.arange(ids.shape[1]), (3, *ids.shape))
        h = layers(text, text.embed_tokens(mx.array(ids)), where)
        return cross_entropy(logits(self.model, h[:, :-1]), mx.array(ids[:, 1:])).mean()


class Shared:
    """A key-value cache with a gradient: keys and values of one prefix, seen by every row."""

    def __init__(self, rows: int, keys: mx.array | None = None, values: Any = None) -> None:
        self.rows, self.keys, self.values = rows, keys, values

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        if self.keys is None:
            self.keys, self.values = keys, values
            return keys, values
        past = [mx.repeat(p, self.rows, axis=0) for p in (self.keys, self.values)]
        return mx.concatenate([past[0], keys], axis=2), mx.concatenate([past[1], values], axis=2)


@dataclass(frozen=True)
class Critiques:
    """prefix (tokens,), rows (batch, image tokens + rest), targets and weights (batch, answer)."""

    pictures: NDArray[np.uint8]
    truth: mx.array
    prefix: NDArray[np.int32]
    rows: NDArray[np.int32]
    first: int  # where the answer begins in a row
    targets: mx.array
    weights: mx.array


class Reader:
    """Draws batches; each rank draws its own."""

    def __init__(self, settings: Settings, pictures: Path, tokenizer: Any, rank: int) -> None:
        self.settings, self.tokenizer = settings, tokenizer
        self.pictures = np.load(pictures, mmap_mode="r")
        self.rng = np.random.default_rng((settings.seed, 2, rank))
        self.image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.digits = set(tokenizer.convert_tokens_to_ids(list("0123456789")))

    def draw(self) -> tuple[NDArray[np.uint8], list[int]]:
        picked = self.rng.integers(self.settings.scenes, size=self.settings.batch)
        return self.pictures[picked], [int(i) for i in picked]

    def truth(self, picked: list[int]) -> mx.array:
        return mx.array(np.stack([draw_scene(self.settings.seed, i).attributes() for i in picked]))

    def critiques(self, any_voice: bool = False) -> Critiques:
        pictures, picked = self.draw()
        persona = corpus.ANY_VOICE if any_voice else corpus.persona(self.rng)
        messages = chat_messages(row_messages(persona, ""))[:-1]
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(text)["input_ids"]
        start = ids.index(self.image_id)
        head = [self.image_id] * SEEN + ids[start + 1 :]
        answers = [self._answer(i, any_voice) for i in picked]
        longest = max(len(a) for a in answers)
        rows = np.zeros((len(answers), len(head) + longest), np.int32)
        weight = np.zeros((len(answers), longest), np.float32)
        for k, answer in enumerate(answers):
            rows[k] = head + answer + [0] * (longest - len(answer))
            weight[k, : len(answer)] = self._weights(answer)
        return Critiques(
            pictures, self.truth(picked), np.array(ids[:start], np.int32), rows, len(head),
            mx.array(rows[:, len(head) :]), mx.array(weight),
        )  # fmt: skip

    def _answer(self, index: int, any_voice: bool) -> list[int]:
        scene = draw_scene(self.settings.seed, index)
        said = corpus.any_voice(scene, self.rng) if any_voice else write("plain", scene)
        text = canonical(said)
        return list(self.tokenizer(text + "<|im_end|>")["input_ids"])

    def _weights(self, answer: list[int]) -> list[float]:
        """Scores and the survey that opens a critique say most of what was seen."""
        s = self.settings
        return [
            s.digit_weight if token in self.digits else s.survey_weight if k < 60 else 1.0
            for k, token in enumerate(answer)
        ]

    def prose(self) -> NDArray[np.int32]:
        texts = [corpus.prose(self.rng) for _ in range(self.settings.batch)]
        rows = [self.tokenizer(text)["input_ids"] for text in texts]
        shortest = min(len(row) for row in rows)
        return np.array([row[:shortest] for row in rows], np.int32)


def learn(
    name: str,
    learner: Learner,
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


def train_rank(settings: Settings, pictures: Path, folder: Path) -> None:
    """One of RANKS equal processes; rank 0 speaks and saves."""
    from transformers import AutoTokenizer

    world = mx.distributed.init()
    say = print_line if world.rank() == 0 else silent
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reader = Reader(settings, pictures, tokenizer, world.rank())
    model = weights.build(folder, settings.seed)
    mx.random.seed(settings.seed)
    learner = Learner(model, reader.image_id)

    def look(_: int) -> tuple[Callable[..., mx.array], Any]:
        shown, picked = reader.draw()
        return learner.probe_loss, (shown, reader.truth(picked))

    def critique(step: int) -> tuple[Callable[..., mx.array], Any]:
        if step % 200 == 0 and world.rank() == 0:
            weights.save(model, folder)  # to look at while it learns
        if step % settings.prose_every == 1:
            return learner.reading_loss, (reader.prose(),)
        any_voice = step % settings.any_voice_every == 0
        return learner.critique_loss, (reader.critiques(any_voice),)

    with cpu_kernels():
        learn("see", learner, settings.warmup_steps, settings.warmup_rate, look, say)
        learn("write", learner, settings.steps, settings.rate, critique, say)
    if world.rank() == 0:
        weights.save(model, folder)


def print_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def silent(_: str) -> None:
    pass


def start_ranks(settings: Settings, pictures: Path, folder: Path, work: Path) -> None:
    """Start RANKS copies of this module over mlx's ring on loopback and wait for them."""
    hosts = [[f"127.0.0.1:{port}"] for port in free_ports(RANKS)]
    (work / "hosts.json").write_text(json.dumps(hosts))
    processes = []
    for rank in range(RANKS):
        env = os.environ | {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(work / "hosts.json")}
        command = [sys.executable, "-m", "mondrian.sample.pretrain", "--rank_pictures", pictures]
        command += ["--output_dir", folder]
        processes.append(subprocess.Popen([str(c) for c in command], env=env))
    try:
        failed = [p.wait() for p in processes]
    finally:
        for process in processes:
            process.kill()
    if any(failed):
        sys.exit(f"error: pre-training ranks ended with {failed}")


def free_ports(count: int) -> Iterator[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    yield from [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pre-train mondrian-tiny from rendered scenes.")
    parser.add_argument("--output_dir", type=Path, default=FOLDER)
    parser.add_argument("--work_dir", type=Path, help="keep the rendered pictures here")
    parser.add_argument("--rank_pictures", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args, settings = parse_args(), Settings()
    if args.rank_pictures:
        train_rank(settings, args.rank_pictures, args.output_dir)
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work_dir or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        pictures = work / "scenes.npy"
        if not pictures.exists():
            print_line(f"rendering {settings.scenes} scenes")
            render_all(settings, pictures)
        tiny.write_folder(args.output_dir, corpus.tokenizer_corpus(settings.seed))
        start_ranks(settings, pictures, args.output_dir, work)


if __name__ == "__main__":
    main()
