"""A random base with the widths of Qwen3-VL-4B and few layers, made in memory.

Hidden 2,560, 32 heads of 128 over 8, MLP 9,728, three DeepStack levels. The vision tower is small:
its output is given. The vocabulary is a parameter, because lm_head is as large as four layers.
"""

import json
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from benchmarks.large_base import TINY_FOLDER
from mondrian.model import vlm
from mondrian.model.architecture import Architecture
from mondrian.model.vlm import Vlm

WIDE = "true-width"
_TEXT = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
_VISION = {"depth": 6, "out_hidden_size": 2560, "deepstack_visual_indexes": [1, 3, 5]}


def make_config(layers: int, vocabulary: int, bits: int) -> dict[str, Any]:
    config = json.loads((TINY_FOLDER / "config.json").read_text())
    config["text_config"] |= _TEXT | {"num_hidden_layers": layers, "vocab_size": vocabulary}
    config["text_config"]["rope_scaling"]["mrope_section"] = [24, 20, 20]
    config["vision_config"] |= _VISION
    config |= {"vocab_size": vocabulary}
    return config | ({"quantization": {"bits": bits, "group_size": 64}} if bits else {})


def make_true_width_base(
    layers: int, vocabulary: int, bits: int, float_type: Any
) -> tuple[Vlm, Architecture]:
    """Return a base with random weights of this type, packed if `bits` is not 0, and its sizes."""
    from mlx_vlm.models.qwen3_vl import Model, ModelConfig

    config = make_config(layers, vocabulary, bits)
    model = Model(ModelConfig.from_dict(config))
    block = 0.02 * mx.random.normal((1 << 20,), key=mx.random.key(0))

    def fill(value: mx.array) -> mx.array:
        if value.ndim < 2:
            return mx.ones(value.shape, float_type)
        repeated = mx.broadcast_to(block, (-(-value.size // block.size), block.size)).flatten()
        return repeated[: value.size].reshape(value.shape).astype(float_type)

    text = model.language_model.model
    for part in (*text.layers, text.norm, text.embed_tokens, model.vision_tower):
        part.update(tree_map(fill, part.parameters()))
        if bits and part in text.layers:  # a layer at a time: less memory
            nn.quantize(part, 64, bits)
        mx.eval(part.parameters())
    if bits:
        text.embed_tokens = text.embed_tokens.to_quantized(64, bits)
    mx.eval(model.parameters())
    model.eval()
    base = replace(vlm.load(str(TINY_FOLDER)), model=model)  # with the tokenizer of mondrian-tiny
    return base, Architecture.from_config(config)
