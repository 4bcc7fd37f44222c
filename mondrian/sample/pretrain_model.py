"""mondrian-tiny in pre-training: the model, a probe of its vision tower, and their losses."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mondrian.model.kernels import attention, cross_entropy
from mondrian.model.language import compute_logits, compute_mrope_positions, run_decoder_layers
from mondrian.sample.base_files import (
    DEEPSTACK,
    GRID,
    HIDDEN_SIZE,
    MERGE_SIZE,
    NUM_IMAGE_TOKENS,
    PATCH_SIZE,
)
from mondrian.sample.pretrain_data import CritiqueBatch, Floats, Images, Ints
from mondrian.sample.scene import ATTRIBUTES


def extract_patches(images: Images) -> mx.array:
    """Return pixels in the order of Qwen's image processor: (images x patches, 3 x 2 x 16 x 16)."""
    n, height, width, _ = images.shape
    rows, columns = height // PATCH_SIZE // MERGE_SIZE, width // PATCH_SIZE // MERGE_SIZE
    x = (images.astype(np.float32) / 255 - 0.5) / 0.5
    x = x.reshape(n, rows, MERGE_SIZE, PATCH_SIZE, columns, MERGE_SIZE, PATCH_SIZE, 3)
    x = x.transpose(0, 1, 4, 2, 5, 7, 3, 6)[:, :, :, :, :, :, None]  # n, gy, gx, my, mx, c, t, y, x
    return mx.array(np.repeat(x, 2, axis=6).reshape(-1, 3 * 2 * PATCH_SIZE * PATCH_SIZE))


class AttributeProbe(nn.Module):
    """Predicts the seven attributes from the features of the vision tower; discarded at the end."""

    def __init__(self) -> None:
        super().__init__()
        width = HIDDEN_SIZE * (1 + len(DEEPSTACK))
        self.norm, self.narrow = nn.LayerNorm(width), nn.Linear(width, 24)
        self.hidden = nn.Linear(24 * NUM_IMAGE_TOKENS, 96)
        self.out = nn.Linear(96, len(ATTRIBUTES))

    def __call__(self, merged: mx.array, deepstack: list[mx.array]) -> mx.array:
        x = nn.relu(self.narrow(self.norm(mx.concatenate([merged, *deepstack], axis=-1))))
        return self.out(nn.relu(self.hidden(x.reshape(x.shape[0], -1)))) + 0.5


class MeanProbe(nn.Module):
    """Reads each attribute from the mean of the image tokens, along a fixed direction.

    The directions are orthogonal and the gain is fixed, so the tower must show all attributes
    equally strongly. A probe with weights of its own amplifies what the tower shows faintly, such
    as the depth and the balance; the language model does not learn to read that.
    """

    gain = 4.0  # along a direction, from the lowest to the highest attribute

    def __init__(self, seed: int) -> None:
        super().__init__()
        normal = np.random.default_rng(seed).normal(size=(HIDDEN_SIZE, len(ATTRIBUTES)))
        self._directions = mx.array(np.linalg.qr(normal)[0].astype(np.float32))  # no parameter

    def __call__(self, merged: mx.array, _: list[mx.array]) -> mx.array:
        mean = mx.fast.rms_norm(merged, None, 1e-6).mean(axis=1)
        return mean @ self._directions / self.gain + 0.5


class PretrainModel(nn.Module):
    """The model and its probe as one tree of weights."""

    def __init__(self, model: Any, probe: nn.Module) -> None:
        super().__init__()
        self.model, self.probe = model, probe

    def encode_images(self, images: Images) -> tuple[mx.array, list[mx.array]]:
        """Return merged features and DeepStack levels, each (images, image tokens, width)."""
        n = len(images)
        grid = mx.array([[1, GRID[0] * MERGE_SIZE, GRID[1] * MERGE_SIZE]] * n)
        merged, deepstack = self.model.vision_tower(extract_patches(images), grid)
        deepstack = [level.reshape(n, NUM_IMAGE_TOKENS, -1) for level in deepstack]
        return merged.reshape(n, NUM_IMAGE_TOKENS, -1), deepstack

    def probe_loss(self, images: Images, attributes: Floats) -> mx.array:
        return self._probe_error(*self.encode_images(images), attributes)

    def _probe_error(self, merged: mx.array, deepstack: Any, attributes: Floats) -> mx.array:
        return ((self.probe(merged, deepstack) - mx.array(attributes)) ** 2).mean()

    def critique_loss(self, batch: CritiqueBatch, with_probe: bool) -> mx.array:
        """Return the answers' weighted cross-entropy; with_probe adds twice the probe's error."""
        merged, deepstack = self.encode_images(batch.images)
        hidden, weights = (
            self.answer_states(batch, merged, deepstack),
            mx.array(batch.weights),
        )
        token_loss = cross_entropy(compute_logits(self.model, hidden), mx.array(batch.targets))
        loss = (token_loss * weights).sum() / weights.sum()
        if with_probe:
            loss = loss + 2.0 * self._probe_error(merged, deepstack, batch.attributes)
        return loss

    def answer_states(
        self, batch: CritiqueBatch, merged: mx.array, deepstack: list[mx.array]
    ) -> mx.array:
        """Return the hidden states that predict the answers; the prefix is computed once."""
        text = self.model.language_model.model
        n, start, length = len(batch.input_ids), len(batch.prefix), batch.input_ids.shape[1]
        position_ids = mx.array(compute_mrope_positions(start + length, start, GRID))[:, None]
        caches = [SharedPrefixCache(1) for _ in text.layers]
        prefix = text.embed_tokens(mx.array(batch.prefix)[None])
        run_decoder_layers(text, prefix, position_ids[..., :start], (), caches)
        embedded = text.embed_tokens(mx.array(batch.input_ids[:, NUM_IMAGE_TOKENS:]))
        h = mx.concatenate([merged, embedded], axis=1)
        padding = mx.zeros((n, length - NUM_IMAGE_TOKENS, merged.shape[-1]))
        padded = [mx.concatenate([level, padding], axis=1) for level in deepstack]
        position_ids = mx.broadcast_to(position_ids[..., start:], (3, n, length))
        caches = [SharedPrefixCache(n, cache.keys, cache.values) for cache in caches]
        h = run_decoder_layers(text, h, position_ids, padded, caches)
        return h[:, batch.answer_start - 1 : -1]

    def prose_loss(self, ids: Ints) -> mx.array:
        text = self.model.language_model.model
        position_ids = mx.broadcast_to(mx.arange(ids.shape[1]), (3, *ids.shape))
        h = run_decoder_layers(text, text.embed_tokens(mx.array(ids)), position_ids)
        return cross_entropy(compute_logits(self.model, h[:, :-1]), mx.array(ids[:, 1:])).mean()


class SharedPrefixCache:
    """A differentiable KV cache: keys and values of one prefix, shared by all rows."""

    def __init__(self, rows: int, keys: mx.array | None = None, values: Any = None) -> None:
        self.rows, self.keys, self.values = rows, keys, values

    def attend(self, q: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        if self.keys is None:
            self.keys, self.values = keys, values
        else:
            keys = mx.concatenate([mx.repeat(self.keys, self.rows, axis=0), keys], axis=2)
            values = mx.concatenate([mx.repeat(self.values, self.rows, axis=0), values], axis=2)
        return attention(q, keys, values, scale, "causal")
