"""Initial weights of mondrian-tiny, and its weights in Hugging Face's names and layout."""

import json
from math import sqrt
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_vlm.models.qwen3_vl import Model, ModelConfig
from numpy.typing import NDArray

BASE_WEIGHTS_FILE = "model.safetensors"
_DEPTH = {"language_model": 4, "vision_tower": 3}
_RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight", "attn.proj.weight")

Floats = NDArray[np.floating]


def build_model(folder: Path, seed: int) -> Any:
    """Return a new model of the folder's config; all weights are trainable."""
    mx.random.seed(seed)  # MLX draws the biases
    model = Model(ModelConfig.from_dict(json.loads((folder / "config.json").read_text())))
    model.unfreeze()
    initialize_weights(model, seed)
    return model


def initialize_weights(model: Any, seed: int) -> None:
    """Set scaled normal weights; the patch embedding is a bank of cosine filters.

    To learn vision from scratch in minutes, the first filters must already separate light, color
    and fine detail; the merger and the attention keep the usual random initialization.
    """
    rng = np.random.default_rng(seed)

    def initial_weight(path: str, value: mx.array) -> mx.array:
        if value.ndim == 1:
            return value
        scale = 1 / sqrt(value.shape[-1])
        if path.endswith(_RESIDUAL_OUTPUTS):
            scale /= sqrt(2 * _DEPTH[path.split(".")[0]])
        if "embed_tokens" in path or path.endswith("merger.linear_fc2.weight"):
            scale = 0.02
        return mx.array(rng.normal(0, scale, value.shape).astype(np.float32))

    weights = tree_flatten(model.parameters())
    model.load_weights([(path, initial_weight(path, value)) for path, value in weights])
    patch_embed, pos_embed = model.vision_tower.patch_embed.proj, model.vision_tower.pos_embed
    width = patch_embed.weight.shape[0]
    patch_embed.weight = mx.array(cosine_filters(width))
    patch_embed.bias = mx.array(rng.normal(0, 0.5, width).astype(np.float32))
    pos_embed.weight = mx.array(rng.normal(0, 0.3, pos_embed.weight.shape).astype(np.float32))


def cosine_filters(count: int, patch: int = 16) -> Floats:
    """Return DCT-II filters over luminance and two color axes: (count, 2, patch, patch, 3).

    Means first, then coarse structure, then fine luminance detail in a fixed random order; each
    group is scaled so that its response to a landscape has about unit variance.
    """
    k = np.arange(patch)
    basis = np.cos(np.pi * (k[None] + 0.5) * k[:, None] / patch) * sqrt(2 / patch)
    basis[0] /= sqrt(2)
    luminance = np.ones(3) / sqrt(3)
    red, blue = np.array([1, -1, 0]) / sqrt(2), np.array([-0.5, -0.5, 1]) / sqrt(1.5)
    filters = [(luminance, 0, 0, 1 / 8), (red, 0, 0, 0.6), (blue, 0, 0, 0.6)]
    coarse = [(u, v) for u in range(4) for v in range(4) if 0 < u + v < 4]
    filters += [(luminance, u, v, 0.5) for u, v in coarse[:9]]
    filters += [(axis, u, v, 0.5) for axis in (red, blue) for u, v in coarse[:3]]
    fine = [(u, v) for u in range(patch) for v in range(patch) if u + v >= 5]
    order = np.random.default_rng(3).permutation(len(fine))
    filters += [(luminance, *fine[i], 4.0) for i in order[: count - len(filters)]]
    bank = [s * np.outer(basis[u], basis[v])[:, :, None] * axis for axis, u, v, s in filters]
    stacked = np.stack(bank).astype(np.float32)
    return np.repeat(stacked[:, None], 2, axis=1) / 2  # a still image is two equal frames


def load_weights(model: Any, folder: Path) -> None:
    """Load what `save_weights` wrote, in float32."""
    tensors = mx.load(str(folder / BASE_WEIGHTS_FILE))
    assert isinstance(tensors, dict)
    paths = {_hf_name(path): path for path, _ in tree_flatten(model.parameters())}
    weights = []
    for name, value in tensors.items():
        if paths[name].endswith("patch_embed.proj.weight"):
            value = value.transpose(0, 2, 3, 4, 1)
        weights.append((paths[name], value.astype(mx.float32)))
    model.load_weights(weights)


def save_weights(model: Any, folder: Path) -> None:
    """Write model.safetensors in float16, with Hugging Face's names and layout."""
    tensors = {}
    for path, value in tree_flatten(model.parameters()):
        if path.endswith("patch_embed.proj.weight"):
            value = value.transpose(0, 4, 1, 2, 3)
        tensors[_hf_name(path)] = mx.contiguous(value.astype(mx.float16))
    mx.save_safetensors(str(folder / BASE_WEIGHTS_FILE), tensors, metadata={"format": "pt"})


def _hf_name(path: str) -> str:
    name = path.replace("language_model.model.", "model.language_model.", 1)
    return name.replace("vision_tower.", "model.visual.", 1)
