"""A random Qwen3-VL with the real vocabulary, and rows of realistic lengths, for benchmarks.

Hidden 512, 8 layers, 4 heads of 128 over 2, MLP 1,536 (the proportions of Qwen3-VL-2B), vision
depth 8 with DeepStack at 1, 3 and 5, vocabulary 151,936, float32. The tokenizer is mondrian-tiny's,
filled up to that size with random words that no text is split into. Rows are token ids, so that
every system reads the same input.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

LARGE, TINY = "large-vocabulary", "mondrian-tiny"
TINY_FOLDER = Path(__file__).parents[1] / "models/base" / TINY
VOCABULARY_SIZE = 151_936
GRID = (30, 40)  # patches: 640x480 pixels, 300 image tokens
TEXT_CONFIG = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": VOCABULARY_SIZE,
    "dtype": "float32",
}
VISION_CONFIG = {
    "depth": 8,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_heads": 6,
    "out_hidden_size": 512,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [1, 3, 5],
}


def make_config() -> dict[str, Any]:
    """Return config.json of the base."""
    fields = json.loads((TINY_FOLDER / "config.json").read_text())
    fields["text_config"] |= TEXT_CONFIG
    fields["text_config"]["rope_scaling"]["mrope_section"] = [24, 20, 20]
    fields["vision_config"] |= VISION_CONFIG
    return fields | {"vocab_size": VOCABULARY_SIZE, "dtype": "float32"}


def write_base(folder: Path) -> None:
    """Write the base into a folder: config, random weights in Hugging Face's layout, the rest."""
    from mlx.utils import tree_flatten
    from mlx_vlm.models.qwen3_vl import Model, ModelConfig

    shutil.copytree(TINY_FOLDER, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "config.json").write_text(json.dumps(make_config()))
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    processor["size"] = {"shortest_edge": 4096, "longest_edge": 640 * 480}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    fill_tokenizer(folder / "tokenizer.json")
    rng = np.random.default_rng(0)
    weights = {}
    for path, value in tree_flatten(Model(ModelConfig.from_dict(make_config())).parameters()):
        shape = value.shape
        if path.endswith("patch_embed.proj.weight"):
            shape = (shape[0], shape[4], *shape[1:4])
        weight = 0.02 * rng.standard_normal(shape, np.float32)
        if path.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
            weight = np.ones(shape, np.float32)
        name = path.replace("language_model.model.", "model.language_model.", 1)
        weights[name.replace("vision_tower.", "model.visual.", 1)] = weight
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def fill_tokenizer(file: Path) -> None:
    """Add words of two to nine letters, half of them after a space, up to VOCABULARY_SIZE."""
    tokenizer = json.loads(file.read_text())
    vocabulary, rng = tokenizer["model"]["vocab"], np.random.default_rng(4)
    vocabulary |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    while (token_id := len(vocabulary)) < VOCABULARY_SIZE:
        letters = "".join(chr(97 + n) for n in rng.integers(0, 26, rng.integers(2, 10)))
        word = letters if rng.integers(2) else f"\u0120{letters}"
        vocabulary.setdefault(word, token_id)
    file.write_text(json.dumps(tokenizer))


@dataclass(frozen=True)
class RowShape:
    """Sizes of a row; image tokens are a quarter of the grid's patches."""

    prompt: int  # text tokens before the photo
    grid: tuple[int, int]  # patches
    answer: int
    token_ids: tuple[int, int] = (2000, VOCABULARY_SIZE)  # of text, the second excluded

    @property
    def image_tokens(self) -> int:
        return self.grid[0] * self.grid[1] // 4


ROW_SHAPE = RowShape(798, GRID, 300)


@dataclass(frozen=True)
class TokenRow:
    ids: list[int]
    prompt_length: int  # tokens before the answer
    pixels: NDArray[np.float32]  # (patches, 3 x 2 x 16 x 16)


def make_rows(
    count: int, shared_prompt: bool, shape: RowShape = ROW_SHAPE, config_folder: Path = TINY_FOLDER
) -> list[TokenRow]:
    """Return rows of 1,400 tokens: 798 prompt, 300 photo and 2 around it, 300 answer.

    shared_prompt  all rows begin with the same prompt, like those of one advisor
    shape          of rows of another length
    config_folder  base with the ids of image tokens
    """
    special = json.loads((config_folder / "config.json").read_text())
    image = [
        special["vision_start_token_id"],
        *[special["image_token_id"]] * shape.image_tokens,
        special["vision_end_token_id"],
    ]
    prompt_length = shape.prompt + len(image)
    rng = np.random.default_rng(1)
    rows = []
    for i in range(count):
        prompt_rng = np.random.default_rng(2) if shared_prompt else rng
        prompt = prompt_rng.integers(*shape.token_ids, shape.prompt)
        answer = np.random.default_rng((3, i)).integers(*shape.token_ids, shape.answer)
        pixels = rng.standard_normal((shape.grid[0] * shape.grid[1], 1536), np.float32)
        ids = [*map(int, prompt), *image, *map(int, answer)]
        rows.append(TokenRow(ids, prompt_length, pixels))
    return rows
