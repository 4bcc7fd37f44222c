"""mondrian-tiny while it learns: the model, a probe of what it sees, and the losses of both."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mondrian.model.kernels import attention, cross_entropy
from mondrian.model.language import compute_logits, compute_mrope_positions, run_decoder_layers
from mondrian.sample import base_files
from mondrian.sample.pretrain_data import CritiqueBatch, Floats, Ints, Pictures
from mondrian.sample.scene import ATTRIBUTES


def extract_patches(pictures: Pictures) -> mx.array:
    """Pixels in the order of Qwen's image processor: (pictures x patches, 3 x 2 x 16 x 16)."""
    n, height, width, _ = pictures.shape
    p, m = base_files.PATCH, base_files.MERGE
    x = (pictures.astype(np.float32) / 255 - 0.5) / 0.5
    x = x.reshape(n, height // p // m, m, p, width // p // m, m, p, 3)
    x = x.transpose(0, 1, 4, 2, 5, 7, 3, 6)[:, :, :, :, :, :, None]  # n, gy, gx, my, mx, c, t, y, x
    return mx.array(np.repeat(x, 2, axis=6).reshape(-1, 3 * 2 * p * p))


class AttributeProbe(nn.Module):
    """Reads the seven attributes from what the vision tower gives; thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        width = base_files.HIDDEN_SIZE * (1 + len(base_files.DEEPSTACK))
        self.norm, self.narrow = nn.LayerNorm(width), nn.Linear(width, 24)
        self.hidden, self.out = (
            nn.Linear(24 * base_files.NUM_IMAGE_TOKENS, 96),
            nn.Linear(96, len(ATTRIBUTES)),
        )

    def __call__(self, merged: mx.array, deep: list[mx.array]) -> mx.array:
        x = nn.relu(self.narrow(self.norm(mx.concatenate([merged, *deep], axis=-1))))
        return self.out(nn.relu(self.hidden(x.reshape(x.shape[0], -1)))) + 0.5


class PretrainModel(nn.Module):
    """The model and its probe as one tree of weights."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.probe = model, AttributeProbe()

    def encode_images(self, pictures: Pictures) -> tuple[mx.array, list[mx.array]]:
        """Merged features and DeepStack levels, each (pictures, image tokens, width)."""
        n = len(pictures)
        grid = mx.array(
            [[1, base_files.GRID[0] * base_files.MERGE, base_files.GRID[1] * base_files.MERGE]] * n
        )
        merged, deep = self.model.vision_tower(extract_patches(pictures), grid)
        return merged.reshape(n, base_files.NUM_IMAGE_TOKENS, -1), [
            d.reshape(n, base_files.NUM_IMAGE_TOKENS, -1) for d in deep
        ]

    def probe_loss(self, pictures: Pictures, truth: Floats) -> mx.array:
        return ((self.probe(*self.encode_images(pictures)) - mx.array(truth)) ** 2).mean()

    def critique_loss(self, batch: CritiqueBatch, probing: bool) -> mx.array:
        """Weighted cross-entropy of the answers and, while probing, what the probe misses."""
        merged, deep = self.encode_images(batch.pictures)
        hidden, weights = self.answer_states(batch, merged, deep), mx.array(batch.weights)
        token_loss = cross_entropy(compute_logits(self.model, hidden), mx.array(batch.targets))
        loss = (token_loss * weights).sum() / weights.sum()
        if probing:
            loss = loss + 2.0 * ((self.probe(merged, deep) - mx.array(batch.truth)) ** 2).mean()
        return loss

    def answer_states(
        self, batch: CritiqueBatch, merged: mx.array, deep: list[mx.array]
    ) -> mx.array:
        """Hidden states that predict the answers; the common prefix is computed once a batch."""
        text = self.model.language_model.model
        n, start, length = len(batch.input_ids), len(batch.prefix), batch.input_ids.shape[1]
        position_ids = mx.array(compute_mrope_positions(start + length, start, base_files.GRID))[
            :, None
        ]
        prefix = [SharedPrefixCache(1) for _ in text.layers]
        run_decoder_layers(
            text,
            text.embed_tokens(mx.array(batch.prefix)[None]),
            position_ids[..., :start],
            (),
            prefix,
        )
        embedded = text.embed_tokens(mx.array(batch.input_ids[:, base_files.NUM_IMAGE_TOKENS :]))
        h = mx.concatenate([merged, embedded], axis=1)
        nothing = mx.zeros((n, length - base_files.NUM_IMAGE_TOKENS, merged.shape[-1]))
        padded = [mx.concatenate([d, nothing], axis=1) for d in deep]
        position_ids = mx.broadcast_to(position_ids[..., start:], (3, n, length))
        h = run_decoder_layers(
            text, h, position_ids, padded, [SharedPrefixCache(n, p.keys, p.values) for p in prefix]
        )
        return h[:, batch.answer_start - 1 : -1]

    def prose_loss(self, ids: Ints) -> mx.array:
        text = self.model.language_model.model
        position_ids = mx.broadcast_to(mx.arange(ids.shape[1]), (3, *ids.shape))
        h = run_decoder_layers(text, text.embed_tokens(mx.array(ids)), position_ids)
        return cross_entropy(compute_logits(self.model, h[:, :-1]), mx.array(ids[:, 1:])).mean()


class SharedPrefixCache:
    """A key-value cache with a gradient: keys and values of one prefix, seen by every row."""

    def __init__(self, rows: int, keys: mx.array | None = None, values: Any = None) -> None:
        self.rows, self.keys, self.values = rows, keys, values

    def attend(self, q: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        if self.keys is None:
            self.keys, self.values = keys, values
        else:
            past = [mx.repeat(p, self.rows, axis=0) for p in (self.keys, self.values)]
            keys = mx.concatenate([past[0], keys], axis=2)
            values = mx.concatenate([past[1], values], axis=2)
        return attention(q, keys, values, scale, "causal")
