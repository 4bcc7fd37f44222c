"""The vision tower over one photograph: mlx-vlm's modules, with this project's kernels on a CPU.

mlx-vlm's own forward is equal to it; its softmax and tanh take most of its time on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_vlm.models.base import ensure_fused_sdpa
from mlx_vlm.models.rope_utils import rotate_half

from mondrian.model.device import ON_GPU
from mondrian.model.kernels import attention, gelu
from mondrian.model.language import Features
from mondrian.model.streams import assign_streams


def extract_features(
    tower: Any, photos: Sequence[tuple[mx.array, tuple[int, int]]], raw: bool = False
) -> list[Features]:
    """Features of some photographs, each in a lane of its own, one in the thread's own; evaluated.

    photos  pixels and grid of each, as `run_tower` takes them
    raw     keep what enters the merger too
    """
    features, merge = [], tower.spatial_merge_size
    own = [mx.default_stream(mx.default_device())]
    streams = own if len(photos) == 1 else assign_streams(len(photos))
    for (pixels, grid), stream in zip(photos, streams, strict=True):
        with mx.stream(stream):
            before, merged, deep = run_tower(tower, pixels, grid)
        shape = (grid[0] // merge, grid[1] // merge)
        features.append(Features(merged, tuple(deep), shape, before if raw else None))
    mx.eval([(f.merged, f.deep, f.pre_merger) for f in features])
    return features


def run_tower(
    tower: Any, pixels: mx.array, grid: tuple[int, int]
) -> tuple[mx.array, mx.array, list[mx.array]]:
    """What enters the merger (patches, width), what leaves it, and every level of DeepStack.

    pixels  (patches, numbers a patch), as the processor gives them
    grid    (rows, columns) of patches

    Positions are computed on the host; nothing else is evaluated.
    """
    size = mx.array([[1, *grid]])
    h = tower.patch_embed(pixels) + tower.fast_pos_embed_interpolate(size)
    angles = tower.rot_pos_emb(size)
    turn = mx.concatenate([angles, angles], axis=-1)
    cos, sin = mx.cos(turn), mx.sin(turn)
    deep: list[mx.array] = []
    for i, block in enumerate(tower.blocks):
        h = h + _attend(block.attn, block.norm1(h), cos, sin)
        h = h + block.mlp.linear_fc2(gelu(block.mlp.linear_fc1(block.norm2(h))))
        if i in tower.deepstack_visual_indexes:
            deep.append(tower.deepstack_merger_list[len(deep)](h))
    return h, tower.merger(h), deep


def _attend(attn: Any, x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Every patch sees every patch, turned to its place; (patches, width)."""
    heads = attn.qkv(x).reshape(x.shape[0], 3, attn.num_heads, -1).transpose(1, 2, 0, 3)
    q, k, v = (part[None] for part in heads)  # (1, heads, patches, width)
    q, k = ((part * cos + rotate_half(part) * sin).astype(x.dtype) for part in (q, k))
    attn_out = (
        ensure_fused_sdpa(q, k, v, attn.scale) if ON_GPU else attention(q, k, v, attn.scale, None)
    )
    return attn.proj(attn_out[0].transpose(1, 0, 2).reshape(x.shape))
