"""The folder of mondrian-tiny before training: config, tokenizer, templates, processor files.

A Qwen3-VL of true architecture with its own vocabulary of 1,280. Names and layouts are those of
Hugging Face's Qwen3-VL, so that mlx-vlm and transformers both load it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path("models/base/mondrian-tiny")
VOCAB_SIZE = 1280
WIDTH, HEIGHT = 160, 128  # pixels of the pictures it was trained on: 5 x 4 image tokens
PATCH, MERGE = 16, 2
GRID = (HEIGHT // PATCH // MERGE, WIDTH // PATCH // MERGE)
NUM_IMAGE_TOKENS = GRID[0] * GRID[1]  # image tokens
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
HIDDEN_SIZE = 128
TEXT_CONFIG = {
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "mrope_section": [12, 10, 10],
}
VISION_CONFIG = {"depth": 3, "hidden_size": 96, "intermediate_size": 256, "num_heads": 2}
DEEPSTACK = [0, 1]

CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{- message.content }}
{%- else %}
{%- for part in message.content %}
{%- if part.type == 'image' or 'image' in part or 'image_url' in part %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part.type == 'video' or 'video' in part %}
{{- '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif 'text' in part %}{{- part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def write_folder(folder: Path, corpus: Iterable[str]) -> None:
    """Write every file of the base but its weights; the tokenizer is trained on `corpus`."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = _write_tokenizer(folder, corpus)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    _write(folder / "config.json", _config(ids))
    _write(folder / "preprocessor_config.json", _processor() | _IMAGE)
    _write(folder / "video_preprocessor_config.json", _processor() | _VIDEO)
    ends = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    generation = {"eos_token_id": ends, "pad_token_id": ends[1], "do_sample": False}
    _write(folder / "generation_config.json", generation)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def _write_tokenizer(folder: Path, corpus: Iterable[str]) -> dict[str, int | None]:
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
        [AddedToken(s, special=True, normalized=False) for s in SPECIAL_TOKENS]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {text: tokenizer.token_to_id(text) for text in SPECIAL_TOKENS}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "added_tokens_decoder": {
            str(i): {"content": text, "special": True, **plain} for text, i in ids.items()
        },
    }
    _write(folder / "tokenizer_config.json", config)
    return ids


def _config(ids: dict[str, int | None]) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": True,
        "dtype": "float16",
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "vocab_size": VOCAB_SIZE,
        "text_config": _text_config(ids),
        "vision_config": _vision_config(),
    }


def _text_config(ids: dict[str, int | None]) -> dict[str, Any]:
    text = {key: value for key, value in TEXT_CONFIG.items() if key != "mrope_section"}
    rope = {"mrope_interleaved": True, "mrope_section": TEXT_CONFIG["mrope_section"]}
    return {
        "model_type": "qwen3_vl_text",
        "vocab_size": VOCAB_SIZE,
        **text,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "rope_scaling": {**rope, "rope_type": "default"},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": "float16",
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }


def _vision_config() -> dict[str, Any]:
    return {
        "model_type": "qwen3_vl",
        **VISION_CONFIG,
        "in_channels": 3,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": HIDDEN_SIZE,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": DEEPSTACK,
        "hidden_act": "gelu_pytorch_tanh",
        "initializer_range": 0.02,
    }


def _processor() -> dict[str, Any]:
    return {
        # Qwen's names; both are numbers of pixels, least and most.
        "size": {"shortest_edge": 4096, "longest_edge": WIDTH * HEIGHT},
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 3,
        "processor_class": "Qwen3VLProcessor",
    }


_IMAGE = {"image_processor_type": "Qwen2VLImageProcessorFast"}
_VIDEO = {
    "video_processor_type": "Qwen3VLVideoProcessor",
    "fps": 2,
    "min_frames": 4,
    "max_frames": 768,
}
