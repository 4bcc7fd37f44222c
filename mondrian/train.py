"""train: prepared rows -> a LoRA adapter on a frozen base.

The vision tower runs once a photograph; the loss counts the answer's tokens alone, and lm_head runs
at those positions alone. Every row is seen in every epoch, in an order that the seed fixes. The
weights of the last epoch are kept: val judges, so it chooses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from time import perf_counter
from typing import Any

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from tqdm import tqdm

from mondrian import lora
from mondrian.errors import TrainingError
from mondrian.files import whole_folder
from mondrian.forward import Features, hidden_states, logits, make_batch
from mondrian.kernels import cpu_kernels, cross_entropy
from mondrian.params import Train
from mondrian.recipe import RECIPE
from mondrian.rows import Row
from mondrian.supervision import token_weights
from mondrian.vlm import Vlm, answer_ids, next_logits, prompt_ids, see

LOG = "training_log.jsonl"


@dataclass(frozen=True)
class Example:
    """One row ready to learn from: its tokens, where the answer begins, what the tower saw.

    weights  one a token of the answer: how many times it counts in the loss
    """

    ids: list[int]
    start: int
    features: Features
    weights: list[float]


@dataclass
class Run:
    """What a training run leaves behind besides the weights."""

    log: list[dict[str, float | int]] = field(default_factory=list)
    weights: dict[str, mx.array] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0

    def metrics(self) -> dict[str, Any]:
        """What metrics/<advisor>/train.json holds; the losses are those of the last epoch."""
        last = self.log[-1]
        return {
            "train_loss": last["train_loss"],
            "val_loss": last["val_loss"],
            "steps": last["step"],
            "tokens_per_second": round(self.tokens / self.seconds, 1),
            "peak_memory_gb": round(mx.get_peak_memory() / 1e9, 3),
            "seconds": round(self.seconds, 1),
        }

    def curve(self, part: str) -> str:
        """Loss against step as CSV; part is train_loss or val_loss."""
        key = "loss" if part == "train_loss" else part
        lines = [f"{e['step']},{e[key]}" for e in self.log if key in e]
        return "\n".join(["step,loss", *lines]) + "\n"

    def log_text(self) -> str:
        """training_log.jsonl: no times in it, so that equal runs are equal bytes."""
        return "".join(json.dumps(entry) + "\n" for entry in self.log)

    def summary(self, folder: Path) -> str:
        """What a person wants to know, in one line."""
        m = self.metrics()
        return (
            f"train {folder}: val loss {m['val_loss']:.3f} after {m['steps']} steps "
            f"in {m['seconds']:.0f} s, {m['tokens_per_second']:.0f} tokens/s, "
            f"peak {m['peak_memory_gb']:.2f} GB"
        )


def examples(vlm: Vlm, rows: Sequence[Row], params: Train) -> list[Example]:
    """Tokenise rows and look at their photographs, each once.

    Raises TrainingError that names every row longer than train.max_tokens.
    """
    seen: dict[str, Features] = {}
    out, long = [], []
    for row in tqdm(rows, desc="photographs", unit="photo", leave=False):
        path = row.images[0]
        if path not in seen:
            seen[path] = see(vlm, path)
        prompt = prompt_ids(vlm, row.messages[:-1], seen[path])
        text = row.messages[-1]["content"]
        answer, spans = answer_ids(vlm, text)
        ids = prompt + answer
        weights = token_weights(text, spans, row.derived, params.score_weight)
        out.append(Example(ids, len(prompt), seen[path], weights))
        if len(ids) > params.max_tokens:
            long.append(f"{row.id} ({len(ids)})")
    if long:
        raise TrainingError(
            f"{len(long)} rows have more than train.max_tokens ({params.max_tokens}) tokens: "
            f"{', '.join(long[:5])}; raise it, or lower image.max_pixels"
        )
    return out


def train(vlm: Vlm, rows: Sequence[Example], val: Sequence[Example], params: Train) -> Run:
    """Train an adapter; the run holds its weights.

    Raises TrainingError where the loss is no longer a number.
    """
    mx.random.seed(params.seed)
    settings = lora.LoraSettings(params.lora_r, params.lora_alpha, params.lora_dropout)
    vlm.model.freeze()
    layers = lora.attach(vlm.model, settings, mx.random.key(params.seed))
    for layer in layers.values():
        layer.unfreeze(keys=["lora_a", "lora_b"], recurse=False)
    mx.reset_peak_memory()
    with cpu_kernels():
        run = _epochs(vlm, layers, rows, val, params)
    return run


def loss(model: Any, batch: Sequence[Example], image_id: int) -> tuple[mx.array, mx.array]:
    """Weighted sum of cross-entropy over the answers' tokens, and the sum of weights."""
    inputs = make_batch([e.ids[:-1] for e in batch], [e.features for e in batch], image_id)
    hidden = hidden_states(model, inputs)
    width, length = hidden.shape[-1], hidden.shape[1]
    places = [
        i * length + t for i, e in enumerate(batch) for t in range(e.start - 1, len(e.ids) - 1)
    ]
    targets = [token for e in batch for token in e.ids[e.start :]]
    told = logits(model, hidden.reshape(-1, width)[mx.array(places)])  # (supervised, vocabulary)
    weights = mx.array([w for e in batch for w in e.weights])
    each = cross_entropy(told.astype(mx.float32), mx.array(targets))
    return (each * weights).sum(), weights.sum()


def _epochs(
    vlm: Vlm, layers: dict[str, Any], rows: Sequence[Example], val: Sequence[Example], params: Train
) -> Run:
    run, step = Run(), 0
    optimizer = optim.AdamW(
        params.learning_rate, weight_decay=params.weight_decay, bias_correction=True
    )
    steps = params.epochs * -(-len(rows) // params.batch_size)
    bar = tqdm(total=steps, desc="train", unit="step", mininterval=0.5)
    started = perf_counter()
    for epoch in range(1, params.epochs + 1):
        total, count = 0.0, 0.0
        for batch in _batches(rows, params, epoch):
            optimizer.learning_rate = _rate(params, step, steps)
            value, norm = _step(vlm, optimizer, batch, params)
            step += 1
            _finite(f"the loss at step {step}", value, params)
            _finite(f"the gradient at step {step}", norm, params)
            weight = sum(sum(e.weights) for e in batch)
            total, count = total + value * weight, count + weight
            run.tokens += sum(len(e.ids) for e in batch)
            rate = scalar(optimizer.learning_rate)
            run.log.append({"step": step, "epoch": epoch, "loss": round(value, 6), "rate": rate})
            pace = run.tokens / (perf_counter() - started)
            memory = mx.get_peak_memory() / 1e9
            told = f"loss {value:.3f}, {pace:.0f} tokens/s, {memory:.1f} GB"
            bar.set_postfix_str(told, refresh=False)
            bar.update()
        entry = {"step": step, "epoch": epoch, "train_loss": round(total / count, 6)}
        entry["val_loss"] = round(validate(vlm, val, params.batch_size), 6)
        _finite(f"the val loss of epoch {epoch}", entry["val_loss"], params)
        run.log.append(entry)
    bar.close()
    run.seconds = perf_counter() - started
    run.weights = lora.tensors(layers)
    return run


def _step(vlm: Vlm, optimizer: Any, batch: Sequence[Example], params: Train) -> tuple[float, float]:
    """One update; the mean loss before it, and the length of its gradient before clipping."""

    def mean_loss(model: Any) -> mx.array:
        total, count = loss(model, batch, vlm.image_id)
        return total / count

    vlm.model.language_model.train()
    value, gradients = nn.value_and_grad(vlm.model, mean_loss)(vlm.model)
    gradients, norm = optim.clip_grad_norm(gradients, params.clip_norm)
    optimizer.update(vlm.model, gradients)
    mx.eval(vlm.model.trainable_parameters(), optimizer.state, value, norm)
    return scalar(value), scalar(norm)


def scalar(value: mx.array) -> float:
    """The number an array of one element holds."""
    return float(np.array(value))


def validate(vlm: Vlm, rows: Sequence[Example], batch_size: int) -> float:
    """Mean cross-entropy over every supervised token of the rows, weighted, without dropout."""
    vlm.model.eval()
    total, count = 0.0, 0.0
    for i in range(0, len(rows), batch_size):
        part, supervised = loss(vlm.model, rows[i : i + batch_size], vlm.image_id)
        total, count = total + scalar(part), count + scalar(supervised)
    return total / count


def _batches(rows: Sequence[Example], params: Train, epoch: int) -> Iterator[list[Example]]:
    """Every row once, the last batch as small as it comes out."""
    order = np.random.default_rng((params.seed, epoch)).permutation(len(rows))
    for i in range(0, len(rows), params.batch_size):
        yield [rows[k] for k in order[i : i + params.batch_size]]


def _rate(params: Train, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to a tenth."""
    warm = max(1, round(params.warmup_share * steps))
    if step < warm:
        return params.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return params.learning_rate * (0.1 + 0.9 * 0.5 * (1 + cos(pi * done)))


def _finite(what: str, value: float, params: Train) -> None:
    if not np.isfinite(value):
        raise TrainingError(
            f"{what} is {value}; lower train.learning_rate ({params.learning_rate}) or "
            f"train.lora_alpha ({params.lora_alpha}) in params.yaml"
        )


def save(vlm: Vlm, run: Run, canary: Example, recipe: dict[str, Any], folder: Path) -> None:
    """Write the adapter beside, load it afresh, prove that it is applied, and only then rename.

    Raises AdapterError where it is not applied.
    """
    train = recipe["train"]
    settings = lora.LoraSettings(train["lora_r"], train["lora_alpha"], train["lora_dropout"])
    with whole_folder(folder, (lora.CONFIG, lora.WEIGHTS, RECIPE, LOG)) as beside:
        lora.save(beside, run.weights, settings, recipe)
        (beside / LOG).write_text(run.log_text())
        check_saved(vlm, beside, canary)


def check_saved(vlm: Vlm, folder: Path, canary: Example) -> None:
    """Load a saved adapter afresh and prove that it is applied.

    Raises AdapterError where it is not.
    """
    prompt = canary.ids[: canary.start]
    lora.detach(vlm.model)
    vlm.model.eval()
    plain = next_logits(vlm, prompt, canary.features)
    lora.load(vlm.model, vlm.hash, folder)
    vlm.model.eval()
    lora.prove_applied(next_logits(vlm, prompt, canary.features), plain, folder)
