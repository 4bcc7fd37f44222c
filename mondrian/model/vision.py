"""Vision tower forward for one photo: mlx-vlm's modules with this project's kernels on a CPU.

mlx-vlm's own forward gives equal features; on a CPU its softmax and tanh take most of its time.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import mlx.core as mx
from mlx_vlm.models.base import ensure_fused_sdpa
from mlx_vlm.models.rope_utils import rotate_half

from mondrian.model.device import DEVICE
from mondrian.model.kernels import attention, gelu
from mondrian.model.language import Features
from mondrian.model.streams import assign_streams


def extract_features(
    tower: Any,
    photos: Sequence[tuple[mx.array, tuple[int, int]]],
    with_pre_merger: bool = False,
    float_type: Any = None,
) -> list[Features]:
    """Return evaluated features, each photo on its own stream; with the merger's input if set.

    float_type  of the features; None for that of the tower, in which the merger's input stays
    """
    float_type = float_type or tower.patch_embed.proj.weight.dtype
    results, merge = [], tower.spatial_merge_size
    current = [mx.default_stream(mx.default_device())]
    streams = current if len(photos) == 1 else assign_streams(len(photos))
    for (pixels, grid), stream in zip(photos, streams, strict=True):
        with mx.stream(stream):
            pre_merger, merged, deepstack = run_tower(tower, pixels, grid)
            merged, *deepstack = (a.astype(float_type) for a in (merged, *deepstack))
        shape = (grid[0] // merge, grid[1] // merge)
        results.append(
            Features(merged, tuple(deepstack), shape, pre_merger if with_pre_merger else None)
        )
    mx.eval([(f.merged, f.deepstack, f.pre_merger) for f in results])
    return results


def run_tower(
    tower: Any, pixels: mx.array, grid: tuple[int, int]
) -> tuple[mx.array, mx.array, list[mx.array]]:
    """Return the merger's input (patches, width), its output, and every DeepStack level.

    pixels  (patches, values per patch), as the processor returns them
    grid    (rows, columns) of patches; positions are computed on the host
    """
    size = mx.array([[1, *grid]])
    pixels = pixels.astype(tower.patch_embed.proj.weight.dtype)  # and so all that follows
    h = tower.patch_embed(pixels) + tower.fast_pos_embed_interpolate(size)
    half_angles = tower.rot_pos_emb(size)
    angles = mx.concatenate([half_angles, half_angles], axis=-1)
    cos, sin = mx.cos(angles), mx.sin(angles)
    deepstack: list[mx.array] = []
    for i, block in enumerate(tower.blocks):
        h = h + _attend(block.attn, block.norm1(h), cos, sin)
        h = h + block.mlp.linear_fc2(gelu(block.mlp.linear_fc1(block.norm2(h))))
        if i in tower.deepstack_visual_indexes:
            deepstack.append(tower.deepstack_merger_list[len(deepstack)](h))
    return h, tower.merger(h), deepstack


def _attend(attn: Any, x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Attend from every patch to every patch with 2D RoPE; (patches, width)."""
    heads = attn.qkv(x).reshape(x.shape[0], 3, attn.num_heads, -1).transpose(1, 2, 0, 3)
    q, k, v = (part[None] for part in heads)  # (1, heads, patches, width)
    q, k = ((part * cos + rotate_half(part) * sin).astype(x.dtype) for part in (q, k))
    scale = attn.scale
    attend = partial(attention, mask=None) if DEVICE.own_kernels else ensure_fused_sdpa
    attn_out = attend(q, k, v, scale)
    return attn.proj(attn_out[0].transpose(1, 0, 2).reshape(x.shape))
