"""Sizes of a Qwen3-VL from its config.json: weights, bytes, shapes. No weights are loaded.

The published sizes are known by name, so that a run can be planned before anything is downloaded.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mondrian.core.base_source import check_base_source, is_hub_id
from mondrian.core.errors import BaseModelError
from mondrian.core.files import read_json
from mondrian.model.lora import LoraConfig

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_SIZES = {  # hidden, MLP, layers, heads, tied; vision: depth, hidden, MLP (from Qwen's configs)
    "2B": (2048, 6144, 28, 16, True, 24, 1024, 4096),
    "4B": (2560, 9728, 36, 32, True, 24, 1024, 4096),
    "8B": (4096, 12288, 36, 32, False, 27, 1152, 4304),
}
_PACKED_BITS = (0, 2, 3, 4, 5, 6, 8)  # 0 for floats; mlx-vlm packs to no other
_NAME = re.compile(r"(?:^|/)Qwen3-VL-(\d+B)-Instruct(?:-([48])bit|-bf16)?$")


@dataclass(frozen=True)
class Architecture:
    width: int
    mlp_width: int
    layers: int
    heads: tuple[int, int, int]  # queries, keys and values, width of each
    vocabulary: int
    has_tied_embeddings: bool
    deepstack_levels: int
    vision: tuple[int, int, int, int]  # depth, width, MLP width, position embeddings
    patch: tuple[int, int, int]  # side in pixels, sides merged, values per patch
    image_id: int
    bits: int  # of packed weights; 0 if they are not packed
    group: int  # packed weights that share a scale
    float_bytes: int  # of a weight that is not packed, as stored

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read a config.json, or raise KeyError or TypeError if it is not a Qwen3-VL's."""
        text, vision = config["text_config"], config["vision_config"]
        packed = config.get("quantization") or {}
        stored = str(config.get("dtype") or text.get("dtype") or "bfloat16")
        side = vision["patch_size"]
        patch_values = vision["in_channels"] * vision["temporal_patch_size"] * side**2
        tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
        return cls(
            width=text["hidden_size"],
            mlp_width=text["intermediate_size"],
            layers=text["num_hidden_layers"],
            heads=(text["num_attention_heads"], text["num_key_value_heads"], text["head_dim"]),
            vocabulary=text["vocab_size"],
            has_tied_embeddings=bool(tied),
            deepstack_levels=len(vision["deepstack_visual_indexes"]),
            vision=(
                vision["depth"],
                vision["hidden_size"],
                vision["intermediate_size"],
                vision["num_position_embeddings"],
            ),
            patch=(side, vision["spatial_merge_size"], patch_values),
            image_id=config["image_token_id"],
            bits=packed.get("bits", 0),
            group=packed.get("group_size", 64),
            float_bytes=_BYTES.get(stored.removeprefix("torch."), 2),
        )

    def projection_shapes(self) -> dict[str, tuple[int, int]]:
        """Return (in, out) of each linear layer of a language layer."""
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
        """Return (in, out) of each linear layer of the vision tower's merger."""
        wide = self.vision[1] * self.patch[1] ** 2
        return {"linear_fc1": (wide, wide), "linear_fc2": (wide, self.width)}

    def num_linear_weights(self) -> int:
        """Count the weights of all language layers' projections."""
        return self.layers * sum(i * o for i, o in self.projection_shapes().values())

    def num_head_weights(self) -> int:
        """Count the weights of lm_head, which a tied base shares with its embeddings."""
        return self.vocabulary * self.width

    def num_packable_weights(self) -> int:
        """Count projections, embeddings and lm_head, which mlx-vlm packs; it packs nothing else."""
        num_matrices = 1 if self.has_tied_embeddings else 2
        return self.num_linear_weights() + self.num_head_weights() * num_matrices

    def num_vision_weights(self) -> int:
        """Count the weights of the vision tower and its mergers, with biases and norms."""
        depth, wide, mlp, positions = self.vision
        block = 4 * wide**2 + 4 * wide + 2 * wide * mlp + wide + mlp + 4 * wide
        merger = sum(i * o + o for i, o in self.merger_shapes().values())
        norms = 2 * wide + self.deepstack_levels * 2 * self.merger_shapes()["linear_fc1"][0]
        embeddings = positions * wide + (self.patch[2] + 1) * wide
        return depth * block + merger * (1 + self.deepstack_levels) + norms + embeddings

    def num_weights(self) -> int:
        norms = self.layers * (2 * self.width + 2 * self.heads[2]) + self.width
        return self.num_packable_weights() + norms + self.num_vision_weights()

    def stored_bytes(self, float_bytes: int) -> int:
        """Return the memory of the weights: packed ones as they are, others at `float_bytes`."""
        if not self.bits:
            return self.num_weights() * float_bytes
        packed = self.num_packable_weights()
        scales = packed // self.group * 2 * float_bytes
        return packed * self.bits // 8 + scales + (self.num_weights() - packed) * float_bytes

    def num_lora_weights(self, config: LoraConfig) -> int:
        layers = min(config.num_layers or self.layers, self.layers)
        shapes = [self.projection_shapes()[name] for name in config.target_modules] * layers
        shapes += self.merger_shapes().values() if config.train_projector else []
        return sum(config.rank * (i + o) + (o if config.dora else 0) for i, o in shapes)


def find_base_folder(source: str) -> Path | None:
    """Return the folder of a base on this machine, local or in the hub's cache, if there is one."""
    if source and Path(source).is_dir():
        return Path(source)
    if not is_hub_id(source):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        config_path = try_to_load_from_cache(source, "config.json")
    except ValueError:  # not a valid hub name
        return None
    return Path(config_path).parent if isinstance(config_path, str) else None


def refuse_unusable_base(source: str) -> None:
    """Raise BaseModelError if the name of a base says that it cannot be used."""
    try:
        check_base_source(source)
    except ValueError as error:
        raise BaseModelError(str(error)) from None


def read_architecture(source: str) -> Architecture:
    """Read the sizes of a local base or a published size, or raise BaseModelError."""
    refuse_unusable_base(source)
    folder = find_base_folder(source)
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise BaseModelError(f"{folder} has no config.json: not a base model")
        config = read_json(folder / "config.json")
        try:
            arch = Architecture.from_config(config)
            sizes = [arch.width, arch.mlp_width, arch.layers, *arch.heads, arch.vocabulary]
            sizes += [*arch.vision, *arch.patch, arch.group, arch.image_id]
            if not all(isinstance(size, int) and size > 0 for size in sizes):
                raise ValueError(f"sizes must be whole numbers above 0: {sizes}")
            if arch.bits not in _PACKED_BITS or not isinstance(arch.bits, int):
                raise ValueError(f"quantization.bits is {arch.bits!r}; it may be 2 to 6, or 8")
            return arch
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BaseModelError(f"{folder}/config.json is not a Qwen3-VL's: {error!r}") from None
    match = _NAME.search(source)
    if match is None or match[1] not in _SIZES:
        raise BaseModelError(
            f"no base model at {source}; a plan needs a folder with config.json, or the name of a "
            f"published size: Qwen/Qwen3-VL-4B-Instruct ({', '.join(_SIZES)}; -4bit, -8bit)"
        )
    return _published_architecture(match[1], int(match[2] or 0))


def _published_architecture(size: str, bits: int) -> Architecture:
    width, mlp_width, layers, heads, tied, depth, vision_width, vision_mlp = _SIZES[size]
    return Architecture(
        width=width,
        mlp_width=mlp_width,
        layers=layers,
        heads=(heads, 8, 128),
        vocabulary=151_936,
        has_tied_embeddings=tied,
        deepstack_levels=3,
        vision=(depth, vision_width, vision_mlp, 2304),
        patch=(16, 2, 3 * 2 * 16**2),
        image_id=151_655,
        bits=bits,
        group=64,
        float_bytes=2,
    )
