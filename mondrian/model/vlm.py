"""Load a base model with mlx-vlm, encode photos, tokenize prompts.

MLX streams belong to a thread: evaluate an array before another thread uses it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from PIL import Image

from mondrian.core.base_source import is_hub_id
from mondrian.core.errors import BaseModelError, one_line
from mondrian.core.files import files_hash, is_junk, read_json, suggest_path
from mondrian.model.architecture import read_architecture, refuse_unusable_base
from mondrian.model.cpu.packed import unpack_in_products
from mondrian.model.device import DEVICE
from mondrian.model.language import Features, compute_logits, hidden_states, make_batch
from mondrian.model.packed_probe import unpack_refused_layers
from mondrian.model.provenance import BaseId
from mondrian.model.tokenizer import ChatTokenizer, check_chat_template
from mondrian.model.vision import extract_features


@dataclass(frozen=True)
class Vlm:
    """A loaded base. `hash` is sha256 over its weights, config and tokenizer."""

    model: Any
    processor: Any
    source: str
    hash: str
    image_id: int
    end_ids: frozenset[int]

    @property
    def float_type(self) -> Any:
        """Return the type of activations, which norms have too; packed weights are integers."""
        return self.model.language_model.model.norm.weight.dtype

    @property
    def base_id(self) -> BaseId:
        return BaseId(source=self.source, sha256=self.hash)

    @property
    def tokenizer(self) -> ChatTokenizer:
        return ChatTokenizer(self.processor.tokenizer, self.image_id)


@dataclass(frozen=True)
class Generation:
    text: str
    ids: tuple[int, ...]
    seconds: float  # its share of the steps that it was generated in, together with others
    ended: bool  # with an end token, not at the token limit
    passes: int  # forward passes: one for the prompt, then one for each token that was not forced

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


def load(source: str) -> Vlm:
    """Load a Qwen3-VL in the type that the device asks for; or raise BaseModelError."""
    folder = fetch_base_folder(source)
    config = read_json(folder / "config.json")
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != "qwen3_vl":
        raise BaseModelError(f"{source} has model_type {model_type!r}; a dense qwen3_vl is needed")
    required = ("preprocessor_config.json", "tokenizer_config.json")
    missing = [name for name in required if not (folder / name).is_file()]
    if missing:
        raise BaseModelError(f"{source} lacks {', '.join(missing)}; copy the whole model")
    if not any(folder.glob("*.safetensors")):
        raise BaseModelError(f"{source} has no weights (*.safetensors); hf download {source}")
    import mlx_vlm

    try:
        model, processor = mlx_vlm.load(str(folder))
    except Exception as error:  # mlx-vlm and transformers raise many types for a damaged file
        raise BaseModelError(
            f"{source} cannot be loaded as a base model: {one_line(error, 200)}"
        ) from None
    check_chat_template(processor.tokenizer, source)
    _adapt_to_device(model, read_architecture(str(folder)).num_weights())
    model.freeze()
    model.eval()
    eos_ids = model.config.eos_token_id
    eos_ids = [eos_ids] if isinstance(eos_ids, int) else eos_ids or []
    return Vlm(
        model=model,
        processor=processor,
        source=source,
        hash=base_hash(folder),
        image_id=model.config.image_token_id,
        end_ids=frozenset({*eos_ids, processor.tokenizer.eos_token_id}),
    )


def _adapt_to_device(model: Any, num_weights: int) -> None:
    """Cast the weights to the device's type, and let it multiply with packed ones."""
    if float_type := DEVICE.for_base(num_weights).float_type:
        model.update(tree_map(partial(_cast, float_type=float_type), model.parameters()))
    if DEVICE.kind == "cuda":
        unpack_refused_layers(model, model.language_model.model.norm.weight.dtype)
    if DEVICE.own_kernels:
        unpack_in_products(model)


def base_hash(folder: Path) -> str:
    """Return the sha256 of what determines a base's output: weights, config and tokenizer."""
    patterns = ("*.safetensors", "*.json", "*.jinja", "merges.txt")
    names = {file.name for pattern in patterns for file in folder.glob(pattern)}
    return files_hash(folder, (name for name in names if not is_junk(name)))


def encode_image(vlm: Vlm, image: Image.Image, with_pre_merger: bool = False) -> Features:
    """Run the vision tower on one image that `images.resize_to_fit` made."""
    return encode_images(vlm, [image], with_pre_merger)[0]


def encode_images(
    vlm: Vlm, images: Sequence[Image.Image], with_pre_merger: bool = False
) -> list[Features]:
    patches = [_extract_patches(vlm, image) for image in images]
    return extract_features(vlm.model.vision_tower, patches, with_pre_merger, vlm.float_type)


def _extract_patches(vlm: Vlm, image: Image.Image) -> tuple[mx.array, tuple[int, int]]:
    inputs = vlm.processor.image_processor([image])
    patch = vlm.model.config.vision_config.patch_size
    _, rows, columns = (int(n) for n in np.array(inputs["image_grid_thw"])[0])
    if (columns * patch, rows * patch) != image.size:
        raise BaseModelError(
            f"{vlm.source} resizes {image.width}x{image.height} to {columns * patch}x"
            f"{rows * patch}; keep image.min_pixels and max_pixels within its own bounds"
        )
    return mx.array(np.array(inputs["pixel_values"])), (rows, columns)


def tokenize_prompt(vlm: Vlm, messages: list[dict[str, str]], features: Features) -> list[int]:
    """Tokenize the prompt, with one image token per feature."""
    return vlm.tokenizer.tokenize_prompt(messages, features.merged.shape[0])


def next_logits(vlm: Vlm, prompt: Sequence[int], features: Features) -> mx.array:
    """Return the logits (vocabulary,) of the first token after the prompt."""
    batch = make_batch([prompt], [features], vlm.image_id)
    return compute_logits(vlm.model, hidden_states(vlm.model, batch)[:, -1])[0]


def _cast(value: mx.array, float_type: Any) -> mx.array:
    return value.astype(float_type) if mx.issubdtype(value.dtype, mx.floating) else value


def fetch_base_folder(source: str) -> Path:
    """Return the folder of a base, downloaded from the hub if it is not a local folder."""
    refuse_unusable_base(source)
    folder = Path(source)
    if not folder.is_dir():
        if not is_hub_id(source):
            hint = suggest_path(folder)
            raise BaseModelError(f"no base model at {source}{hint}; see base.source in params.yaml")
        from mlx_vlm.utils import get_model_path

        try:
            folder = Path(get_model_path(source))
        except Exception as error:
            raise BaseModelError(
                f"{source} is neither a folder nor on the hub: {one_line(error, 160)}"
            ) from None
    if not (folder / "config.json").is_file():
        raise BaseModelError(f"{folder} has no config.json: not a base model")
    return folder
