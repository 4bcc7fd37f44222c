"""A Qwen3-VL's proportions by its config.json alone: weights, bytes, work. Nothing is loaded.

The published sizes are known by name, so that one can plan before anything is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mondrian.core.errors import BaseModelError
from mondrian.core.files import read_json
from mondrian.model.lora_config import LoraConfig

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_SIZES = {  # hidden, MLP, layers, heads, tied; vision: depth, hidden, MLP (Qwen's own)
    "2B": (2048, 6144, 28, 16, True, 24, 1024, 4096),
    "4B": (2560, 9728, 36, 32, True, 24, 1024, 4096),
    "8B": (4096, 12288, 36, 32, False, 27, 1152, 4304),
}
_NAME = re.compile(r"(?:^|/)Qwen3-VL-(\d+B)-(?:Instruct|Thinking)(?:-([48])bit|-bf16)?$")


@dataclass(frozen=True)
class Architecture:
    """The language model, the vision tower, and how weights are stored.

    heads        (queries, keys and values, width of each)
    deepstack_levels         levels of DeepStack
    vision       (depth, width, MLP width, position embeddings)
    patch        (side in pixels, sides merged, numbers a patch)
    bits         of packed weights; 0 where they are not packed
    group        weights that share a scale, where packed
    float_bytes  of a weight that is not packed, as stored
    """

    width: int
    mlp_width: int
    layers: int
    heads: tuple[int, int, int]
    vocabulary: int
    has_tied_embeddings: bool
    deepstack_levels: int
    vision: tuple[int, int, int, int]
    patch: tuple[int, int, int]
    image_id: int
    bits: int
    group: int
    float_bytes: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture:
        """Of what config.json holds.

        Raises KeyError or TypeError where it is no Qwen3-VL's.
        """
        text, sight = config["text_config"], config["vision_config"]
        packed = config.get("quantization") or {}
        stored = str(config.get("dtype") or text.get("dtype") or "bfloat16")
        merged, side = sight["spatial_merge_size"], sight["patch_size"]
        heads = text["num_attention_heads"]
        return cls(
            width=text["hidden_size"],
            mlp_width=text["intermediate_size"],
            layers=text["num_hidden_layers"],
            heads=(heads, text["num_key_value_heads"], text["head_dim"]),
            vocabulary=text["vocab_size"],
            has_tied_embeddings=bool(
                config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
            ),
            deepstack_levels=len(sight["deepstack_visual_indexes"]),
            vision=(
                sight["depth"],
                sight["hidden_size"],
                sight["intermediate_size"],
                sight["num_position_embeddings"],
            ),
            patch=(side, merged, sight["in_channels"] * sight["temporal_patch_size"] * side**2),
            image_id=config["image_token_id"],
            bits=packed.get("bits", 0),
            group=packed.get("group_size", 64),
            float_bytes=_BYTES.get(stored.removeprefix("torch."), 2),
        )

    def projection_shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear layer of a language layer."""
        queries, keys = self.heads[0] * self.heads[2], self.heads[1] * self.heads[2]
        d, m = self.width, self.mlp_width
        return {
            "q_proj": (d, queries),
            "k_proj": (d, keys),
            "v_proj": (d, keys),
            "o_proj": (queries, d),
            "gate_proj": (d, m),
            "up_proj": (d, m),
            "down_proj": (m, d),
        }

    def merger_shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) of what hands the picture to the language model."""
        wide = self.vision[1] * self.patch[1] ** 2
        return {"linear_fc1": (wide, wide), "linear_fc2": (wide, self.width)}

    def num_linear_weights(self) -> int:
        """Of the language layers' projections."""
        return self.layers * sum(i * o for i, o in self.projection_shapes().values())

    def num_head_weights(self) -> int:
        """Of lm_head, which a tied base shares with its embeddings."""
        return self.vocabulary * self.width

    def num_vision_weights(self) -> int:
        """Of the tower and its mergers, biases and norms included."""
        depth, wide, mlp, places = self.vision
        block = 4 * wide**2 + 4 * wide + 2 * wide * mlp + wide + mlp + 4 * wide
        mergers = sum(i * o + o for i, o in self.merger_shapes().values()) * (
            1 + self.deepstack_levels
        )
        norms = 2 * wide + self.deepstack_levels * 2 * self.merger_shapes()["linear_fc1"][0]
        return depth * block + mergers + norms + places * wide + (self.patch[2] + 1) * wide

    def num_weights(self) -> int:
        """All of them."""
        norms = self.layers * (2 * self.width + 2 * self.heads[2]) + self.width
        heads = self.num_head_weights() * (1 if self.has_tied_embeddings else 2)
        return self.num_linear_weights() + heads + norms + self.num_vision_weights()

    def stored_bytes(self, float_bytes: int) -> int:
        """Memory of the weights: what is packed as it is, the rest at `float_bytes` each.

        mlx-vlm packs the language model and leaves the vision tower as it is.
        """
        if not self.bits:
            return self.num_weights() * float_bytes
        packed = self.num_linear_weights() + self.num_head_weights() * (
            1 if self.has_tied_embeddings else 2
        )
        scales = packed // self.group * 2 * float_bytes
        return packed * self.bits // 8 + scales + (self.num_weights() - packed) * float_bytes

    def num_lora_weights(self, settings: LoraConfig) -> int:
        """Weights of an adapter."""
        return sum(
            settings.rank * (i + o) + (o if settings.dora else 0)
            for i, o in self.adapted_shapes(settings)
        )

    def adapted_shapes(self, settings: LoraConfig) -> list[tuple[int, int]]:
        """(in, out) of each layer that an adapter is on."""
        layers = min(settings.num_layers or self.layers, self.layers)
        shapes = [self.projection_shapes()[name] for name in settings.target_modules] * layers
        return shapes + (list(self.merger_shapes().values()) if settings.train_projector else [])


def find_base(source: str) -> Path | None:
    """A base's folder, given or in the hub's cache; None where it is not on this machine."""
    if source and Path(source).is_dir():
        return Path(source)
    if source.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        config_path = try_to_load_from_cache(source, "config.json")
    except ValueError:  # no name that the hub could have
        return None
    return Path(config_path).parent if isinstance(config_path, str) else None


def read_architecture(source: str) -> Architecture:
    """Of a base on this machine, or one of the published sizes by its name.

    Raises BaseModelError where it is neither.
    """
    folder = find_base(source)
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise BaseModelError(f"{folder} has no config.json: not a base model")
        config = read_json(folder / "config.json")
        try:
            return _validate_sizes(Architecture.from_config(config))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BaseModelError(f"{folder}/config.json is not a Qwen3-VL's: {error!r}") from None
    match = _NAME.search(source)
    if match is None or match[1] not in _SIZES:
        raise BaseModelError(
            f"no base model at {source}; a plan needs a folder with config.json, or the name of a "
            f"published size: Qwen/Qwen3-VL-4B-Instruct ({', '.join(_SIZES)}; -4bit, -8bit)"
        )
    return Architecture.from_config(_published_config(match[1], int(match[2] or 0)))


def _validate_sizes(arch: Architecture) -> Architecture:
    """Raise ValueError unless every size is a whole number above 0."""
    sizes = [
        arch.width,
        arch.mlp_width,
        arch.layers,
        *arch.heads,
        arch.vocabulary,
        *arch.vision,
        *arch.patch,
        arch.group,
    ]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"a size is no whole number above 0: {sizes}")
    return arch


def _published_config(size: str, bits: int) -> dict[str, Any]:
    hidden, mlp, layers, heads, tied, depth, wide, vision_mlp = _SIZES[size]
    text = {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
    }
    vision = {
        "depth": depth,
        "hidden_size": wide,
        "intermediate_size": vision_mlp,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    packed = {"quantization": {"bits": bits, "group_size": 64}} if bits else {}
    return {
        "text_config": text,
        "vision_config": vision,
        "tie_word_embeddings": tied,
        "dtype": "bfloat16",
        "image_token_id": 151_655,
        **packed,
    }


@dataclass(frozen=True)
class Device:
    """How a machine computes.

    float_bytes  of an activation, and of a weight that is not packed
    query_block        queries whose scores exist together, keys behind them left out; 0 for all
    of a row
    """

    float_bytes: int
    query_block: int
