"""The first weights of mondrian-tiny, and its weights back into Hugging Face's layout."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_vlm.models.qwen3_vl import Model, ModelConfig
from numpy.typing import NDArray

FILE = "model.safetensors"

Floats = NDArray[np.floating]


def build_model(folder: Path, seed: int) -> Any:
    """A fresh model of the folder's config, every weight free to learn."""
    model = Model(ModelConfig.from_dict(json.loads((folder / "config.json").read_text())))
    model.unfreeze()
    initialise(model, seed)
    return model


def initialise(model: Any, seed: int) -> None:
    """Scaled normal weights; the patch embedding begins as a bank of cosine filters.

    Learning to see from nothing in minutes needs first filters that already tell light, colour
    and fine detail apart; the merger and the attention keep their usual random start.
    """
    rng = np.random.default_rng(seed)
    depth = {"language_model": 4, "vision_tower": 3}

    def fresh(path: str, value: mx.array) -> mx.array:
        if value.ndim == 1:
            return value
        scale = 1 / sqrt(value.shape[-1])
        if path.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight")):
            scale /= sqrt(2 * depth[path.split(".")[0]])
        if "embed_tokens" in path or path.endswith("merger.linear_fc2.weight"):
            scale = 0.02
        return mx.array(rng.normal(0, scale, value.shape).astype(np.float32))

    flat = tree_flatten(model.parameters())
    model.load_weights([(path, fresh(path, value)) for path, value in flat], strict=True)
    tower = model.vision_tower
    width = tower.patch_embed.proj.weight.shape[0]
    tower.patch_embed.proj.weight = mx.array(cosine_filters(width))
    tower.patch_embed.proj.bias = mx.array(rng.normal(0, 0.5, width).astype(np.float32))
    places = tower.pos_embed.weight.shape
    tower.pos_embed.weight = mx.array(rng.normal(0, 0.3, places).astype(np.float32))


def cosine_filters(count: int, patch: int = 16) -> Floats:
    """DCT-II filters over luminance and two colour axes; shape (count, 2, patch, patch, 3).

    Means first, then coarse structure, then fine luminance detail in a fixed random order, each
    group scaled so that its response to a landscape has about unit variance.
    """
    k = np.arange(patch)
    basis = np.cos(np.pi * (k[None] + 0.5) * k[:, None] / patch) * sqrt(2 / patch)
    basis[0] /= sqrt(2)
    luminance, red, blue = (
        np.ones(3) / sqrt(3),
        np.array([1, -1, 0]) / sqrt(2),
        np.array([-0.5, -0.5, 1]) / sqrt(1.5),
    )
    plan = [(luminance, 0, 0, 1 / 8), (red, 0, 0, 0.6), (blue, 0, 0, 0.6)]
    coarse = [(u, v) for u in range(4) for v in range(4) if 0 < u + v < 4]
    plan += [(luminance, u, v, 0.5) for u, v in coarse[:9]]
    plan += [(axis, u, v, 0.5) for axis in (red, blue) for u, v in coarse[:3]]
    fine = [(u, v) for u in range(patch) for v in range(patch) if u + v >= 5]
    order = np.random.default_rng(3).permutation(len(fine))
    plan += [(luminance, *fine[i], 4.0) for i in order[: count - len(plan)]]
    bank = [s * np.outer(basis[u], basis[v])[:, :, None] * axis for axis, u, v, s in plan]
    filters = np.stack(bank).astype(np.float32)
    return np.repeat(filters[:, None], 2, axis=1) / 2  # a still picture is two equal frames


def restore(model: Any, folder: Path) -> None:
    """Take back what `save` wrote, in float32."""
    tensors = mx.load(str(folder / FILE))
    assert isinstance(tensors, dict)
    names = {_hf_name(path): path for path, _ in tree_flatten(model.parameters())}
    weights = []
    for name, value in tensors.items():
        path = names[name]
        if path.endswith("patch_embed.proj.weight"):
            value = value.transpose(0, 2, 3, 4, 1)
        weights.append((path, value.astype(mx.float32)))
    model.load_weights(weights, strict=True)


def save(model: Any, folder: Path) -> None:
    """Write model.safetensors in float16 and Hugging Face's names and layout."""
    tensors = {}
    for path, value in tree_flatten(model.parameters()):
        if path.endswith("patch_embed.proj.weight"):
            value = value.transpose(0, 4, 1, 2, 3)
        tensors[_hf_name(path)] = mx.contiguous(value.astype(mx.float16))
    mx.save_safetensors(str(folder / FILE), tensors, metadata={"format": "pt"})


def _hf_name(path: str) -> str:
    name = path.replace("language_model.model.", "model.language_model.", 1)
    return name.replace("vision_tower.", "model.visual.", 1)
