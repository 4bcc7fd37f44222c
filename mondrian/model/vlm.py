"""The door to mlx-vlm: load a base, encode a photograph, tokenise a row.

MLX streams belong to a thread: what another thread is to use has to be evaluated before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from PIL import Image

from mondrian.core.errors import BaseModelError, one_line
from mondrian.core.files import files_hash, read_json
from mondrian.model.language import Features, compute_logits, hidden_states, make_batch
from mondrian.model.tokenizer import ChatTokenizer
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
    def tokens(self) -> ChatTokenizer:
        """What makes tokens of a row."""
        return ChatTokenizer(self.processor.tokenizer, self.image_id)


@dataclass(frozen=True)
class Generation:
    """A generated text.

    seconds  its share of the steps that it was generated in, with others
    passes   of the model: one for the prompt, then one for each token that was not forced
    """

    text: str
    ids: tuple[int, ...]
    seconds: float
    ended: bool  # by itself, not at the token limit
    passes: int

    @property
    def num_tokens(self) -> int:
        """How many it took."""
        return len(self.ids)


def load(source: str) -> Vlm:
    """Load a base from a folder or from the hub's cache, in float32 where only that is quick.

    Raises BaseModelError where there is no such base or it is no Qwen3-VL.
    """
    folder = base_folder(source)
    _check_config(source, folder)
    import mlx_vlm

    try:
        model, processor = mlx_vlm.load(str(folder))
    except Exception as error:  # of other people's code, for whatever is wrong with a file
        first = one_line(error, 200)
        raise BaseModelError(f"{source} cannot be loaded as a base model: {first}") from None
    if sys.platform == "linux":
        model.update(tree_map(_float32, model.parameters()))
    model.freeze()
    model.eval()
    ends = model.config.eos_token_id
    return Vlm(
        model=model,
        processor=processor,
        source=source,
        hash=base_hash(folder),
        image_id=model.config.image_token_id,
        end_ids=frozenset([ends] if isinstance(ends, int) else ends or [])
        | {processor.tokenizer.eos_token_id},
    )


def base_hash(folder: Path) -> str:
    """sha256 over what decides a base's answers: weights, config, tokenizer and template."""
    kinds = ("*.safetensors", "*.json", "*.jinja", "merges.txt")
    return files_hash(folder, {file.name for kind in kinds for file in folder.glob(kind)})


def encode_image(vlm: Vlm, picture: Image.Image, raw: bool = False) -> Features:
    """Run the vision tower on a picture that `images.fit` made.

    raw  keep what enters the merger too, for an adapter that is on it

    Raises BaseModelError where the base's processor would resize it once more.
    """
    return encode_images(vlm, [picture], raw)[0]


def encode_images(vlm: Vlm, pictures: Sequence[Image.Image], raw: bool = False) -> list[Features]:
    """The same for some pictures together."""
    return extract_features(
        vlm.model.vision_tower, [_patches(vlm, picture) for picture in pictures], raw
    )


def _patches(vlm: Vlm, picture: Image.Image) -> tuple[mx.array, tuple[int, int]]:
    inputs = vlm.processor.image_processor([picture])
    patch = vlm.model.config.vision_config.patch_size
    _, rows, columns = (int(n) for n in np.array(inputs["image_grid_thw"])[0])
    if (columns * patch, rows * patch) != picture.size:
        raise BaseModelError(
            f"{vlm.source} resizes {picture.width}x{picture.height} to {columns * patch}x"
            f"{rows * patch}; keep image.min_pixels and max_pixels within its own bounds"
        )
    return mx.array(np.array(inputs["pixel_values"])), (rows, columns)


def prompt_ids(vlm: Vlm, messages: list[dict[str, str]], features: Features) -> list[int]:
    """Tokens of everything before the answer, one image token a feature."""
    return vlm.tokens.prompt(messages, features.merged.shape[0])


def next_logits(vlm: Vlm, prompt: Sequence[int], features: Features) -> mx.array:
    """Logits of the first token of an answer; shape (vocabulary,)."""
    batch = make_batch([prompt], [features], vlm.image_id)
    return compute_logits(vlm.model, hidden_states(vlm.model, batch)[:, -1])[0]


def _check_config(source: str, folder: Path) -> None:
    """Raise BaseModelError unless the folder is of a Qwen3-VL with all the files it needs."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "qwen3_vl":
        raise BaseModelError(f"{source} is of type {kind!r}; a dense Qwen3-VL (qwen3_vl) is needed")
    missing = [
        n
        for n in ("preprocessor_config.json", "tokenizer_config.json")
        if not (folder / n).is_file()
    ]
    if missing:
        raise BaseModelError(f"{source} lacks {', '.join(missing)}; copy the whole model")


def _float32(value: mx.array) -> mx.array:
    """The only quick float type on a CPU; packed weights stay as they are."""
    return value.astype(mx.float32) if mx.issubdtype(value.dtype, mx.floating) else value


def base_folder(source: str) -> Path:
    folder = Path(source)
    if not folder.is_dir():
        if source.count("/") != 1 or source.startswith((".", "models/")):
            raise BaseModelError(f"no base model at {source}; see base.source in params.yaml")
        from mlx_vlm.utils import get_model_path

        try:
            folder = Path(get_model_path(source))
        except Exception as error:
            first = one_line(error, 160)
            raise BaseModelError(
                f"{source} is neither a folder nor to be had from the hub: {first}"
            ) from None
    if not (folder / "config.json").is_file():
        raise BaseModelError(f"{folder} has no config.json: not a base model")
    return folder
