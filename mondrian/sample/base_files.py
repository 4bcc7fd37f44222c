"""The files of mondrian-tiny except its weights: config, tokenizer, chat template, processor.

A complete Qwen3-VL architecture with its own vocabulary of 1,280 tokens. Names and layout are those
of Hugging Face's Qwen3-VL, so mlx-vlm and transformers both load it.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

_SOURCE = Path(__file__).parent
_CONFIGS = yaml.safe_load((_SOURCE / "base_config.yaml").read_text(encoding="utf-8"))
_TEXT, _VISION = (_CONFIGS["config.json"][name] for name in ("text_config", "vision_config"))
BASE_FOLDER = Path("models/base/mondrian-tiny")
VOCAB_SIZE, HIDDEN_SIZE = _TEXT["vocab_size"], _TEXT["hidden_size"]
PATCH_SIZE, MERGE_SIZE = _VISION["patch_size"], _VISION["spatial_merge_size"]
DEEPSTACK = _VISION["deepstack_visual_indexes"]
IMAGE_WIDTH, IMAGE_HEIGHT = 160, 128  # pixels of its training images: 5 x 4 image tokens
GRID = (IMAGE_HEIGHT // PATCH_SIZE // MERGE_SIZE, IMAGE_WIDTH // PATCH_SIZE // MERGE_SIZE)
NUM_IMAGE_TOKENS = GRID[0] * GRID[1]
SPECIAL_TOKENS = tuple(
    f"<|{name}|>"
    for name in (
        "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start "
        "quad_end vision_start vision_end vision_pad image_pad video_pad"
    ).split()
)


def write_base_files(folder: Path, corpus: Iterable[str]) -> None:
    """Write all files of the base except its weights; the tokenizer is trained on `corpus`."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = _write_tokenizer(folder, corpus)
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    tokens = {
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "added_tokens_decoder": {
            str(id): {"content": token, "special": True, **plain} for token, id in ids.items()
        },
    }
    _write(folder / "tokenizer_config.json", _CONFIGS["tokenizer_config.json"] | tokens)
    for name in ("config.json", "generation_config.json"):
        _write(folder / name, _replace_tokens(_CONFIGS[name], ids))
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        _write(folder / name, _CONFIGS[name])
    shutil.copyfile(_SOURCE / "chat_template.jinja", folder / "chat_template.jinja")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def _replace_tokens(value: Any, ids: Mapping[str, int | None]) -> Any:
    """Replace special tokens by their ids, at any depth."""
    if isinstance(value, dict):
        return {key: _replace_tokens(item, ids) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_tokens(item, ids) for item in value]
    return ids.get(value, value) if isinstance(value, str) else value


def _write_tokenizer(folder: Path, corpus: Iterable[str]) -> dict[str, int | None]:
    """Train and write tokenizer.json; return the ids of the special tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
    from tokenizers import pre_tokenizers as pre
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    byte_level = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
