"""Import a PEFT adapter that another trainer made from the prepared rows (docs/cluster.md)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from safetensors import SafetensorError, safe_open

from mondrian.core.adapter_folder import CONFIG_FILE, SAVED_FILES, WEIGHTS_FILE
from mondrian.core.errors import AdapterError, one_line
from mondrian.core.files import open_atomic_folder, read_json
from mondrian.core.params import Params
from mondrian.critique.rows import read_rows
from mondrian.model import adapter, lora, vlm
from mondrian.model.provenance import build_recipe
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.dataset import build_examples
from mondrian.training.plan_report import PreparedFiles

_PREFIX = re.compile(r"^(?:(?:base_model|model|language_model)\.)*(?=layers\.)")
_KIND = re.compile(r"\.(lora_A|lora_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?$")
_INITS_KEEPING_BASE = (True, False, None, "gaussian", "orthogonal", "eva")  # init_lora_weights
_PLAIN_LORA: dict[str, Any] = {  # values that a plain LoRA may have besides None
    "bias": "none",
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), {}),
    **dict.fromkeys(("lora_bias", "use_qalora", "fan_in_fan_out"), False),
    **dict.fromkeys(("modules_to_save", "layer_replication", "alora_invocation_tokens")),
    **dict.fromkeys(("trainable_token_indices", "target_parameters")),
}


def normalize_weight_name(name: str) -> str:
    """Return a PEFT name as this project and current transformers write it; older ones differ."""
    match = _KIND.search(name)
    if not match:
        return name
    path = _PREFIX.sub("language_model.", name[: match.start()])
    path = re.sub(r"^base_model\.model\.(?:model\.)?", "", path)
    ending = match[1] if match[1] == "lora_magnitude_vector" else f"{match[1]}.weight"
    return f"base_model.model.model.{path}.{ending}"


def read_peft_adapter(folder: Path) -> tuple[lora.Tensors, dict[str, Any]]:
    """Return float32 weights and the config; raise AdapterError if it is not a plain PEFT LoRA."""
    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config, Mapping) or config.get("peft_type") != "LORA":
        raise AdapterError(f"{folder / CONFIG_FILE} is not of a PEFT LoRA")
    init = config.get("init_lora_weights", True)
    if init not in _INITS_KEEPING_BASE:
        raise AdapterError(
            f"{folder}: init_lora_weights {init!r} changed the base's weights; convert it to a "
            "plain LoRA first (PEFT: path_initial_model_for_weight_conversion)"
        )
    unsupported = [
        f"{key}: {config[key]!r}"
        for key, plain in _PLAIN_LORA.items()
        if config.get(key) not in (plain, None)
    ]
    if unsupported:
        raise AdapterError(
            f"{folder}: an adapter with {', '.join(unsupported)} cannot be imported; train without"
        )
    try:
        with safe_open(folder / WEIGHTS_FILE, "numpy"):  # refuses a truncated file
            weights: Any = mx.load(str(folder / WEIGHTS_FILE))  # numpy has no bfloat16
    except (SafetensorError, OSError, RuntimeError) as error:
        raise AdapterError(
            f"{folder / WEIGHTS_FILE} cannot be read: {one_line(error, 160)}"
        ) from None
    normalized = {
        normalize_weight_name(n): value.astype(mx.float32) for n, value in weights.items()
    }
    if len(normalized) < len(weights):
        raise AdapterError(
            f"{folder / WEIGHTS_FILE} has one weight under two names; save a single PEFT adapter"
        )
    return normalized, dict(config)


def import_adapter(
    folder: Path, output: Path, files: PreparedFiles, params: Params, cache_dir: Path
) -> str:
    """Write a PEFT adapter as one of this project, verify it, and return a summary."""
    if output.resolve() == folder.resolve():
        raise AdapterError(f"{output} is the adapter itself; give another folder")
    weights, config = read_peft_adapter(folder)
    base = vlm.load(params.base.source)
    rows, val = read_rows(files.train), read_rows(files.val)
    recipe = build_recipe(base.base_id, rows, files.train, params.image, params.train)
    recipe["train"] = {"adopted": True, "peft_version": config.get("peft_version")}
    base_layers = len(base.model.language_model.model.layers)
    lora_config = adapter.read_lora_config(folder, weights, base_layers)
    adapter.check_weights(lora.attach(base.model, lora_config), weights, folder)
    lora.detach(base.model)
    features = FeatureCache(
        base, cache_dir / "features", params.machine.feature_cache_gb, with_pre_merger=True
    )
    example = build_examples(val[:1], params.train, features)[0]
    prompt = example.ids[: example.start]
    with open_atomic_folder(output, SAVED_FILES) as staging:
        adapter.save(staging, weights, lora_config, recipe, base_layers)
        adapter.load_and_verify(base, staging, prompt, features.get(example.photo))
    lora.detach(base.model)
    return f"imported {len(weights)} tensors of rank {lora_config.rank} into {output}"
