"""A PEFT adapter that another trainer made of the prepared rows, into models/ with a recipe.

docs/cluster.md has the commands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from safetensors import SafetensorError, safe_open

from mondrian.core.adapter_folder import CONFIG, SAVED_FILES, WEIGHTS
from mondrian.core.errors import AdapterError, one_line
from mondrian.core.files import atomic_folder, read_json
from mondrian.core.params import Params
from mondrian.critique.rows import read_rows
from mondrian.model import adapter, lora, vlm
from mondrian.model.provenance import build_recipe
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.dataset import build_examples
from mondrian.training.plan_report import PreparedFiles
from mondrian.training.save_adapter import check_saved_adapter

_PREFIX = re.compile(r"^(?:(?:base_model|model|language_model)\.)*(?=layers\.)")
_KIND = re.compile(r"\.(lora_A|lora_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?$")
_INITS = (True, False, None, "gaussian", "orthogonal", "eva")  # those that leave the base as it is
_PLAIN: dict[str, Any] = {
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layer_replication": None,
    "lora_bias": False,
    "alora_invocation_tokens": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "use_qalora": False,
    "fan_in_fan_out": False,
}


def normalize_weight_name(name: str) -> str:
    """PEFT's name as this project and current transformers write it; older ones differ."""
    match = _KIND.search(name)
    if not match:
        return name
    path = _PREFIX.sub("language_model.", name[: match.start()])
    path = re.sub(r"^base_model\.model\.(?:model\.)?", "", path)
    ending = match[1] if match[1] == "lora_magnitude_vector" else f"{match[1]}.weight"
    return f"base_model.model.model.{path}.{ending}"


def read_peft_adapter(folder: Path) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """Weights by our names, in float32, and the config.

    Raises AdapterError where the folder is not a plain LoRA of PEFT.
    """
    config = read_json(folder / CONFIG)
    if not isinstance(config, Mapping) or config.get("peft_type") != "LORA":
        raise AdapterError(f"{folder / CONFIG} is not PEFT's of a LoRA")
    changed = config.get("init_lora_weights", True)
    if changed not in _INITS:
        raise AdapterError(
            f"{folder}: init_lora_weights {changed!r} took a part out of the base's weights; make "
            "a plain LoRA of it first (PEFT: path_initial_model_for_weight_conversion)"
        )
    odd = [
        f"{key}: {config[key]!r}"
        for key, plain in _PLAIN.items()
        if config.get(key) not in (plain, None)
    ]
    if odd:
        raise AdapterError(f"{folder}: cannot take an adapter with {', '.join(odd)}; train without")
    try:
        with safe_open(folder / WEIGHTS, "numpy"):  # a cut file is refused here
            weights: Any = mx.load(str(folder / WEIGHTS))
    except (SafetensorError, OSError, RuntimeError) as error:
        first = one_line(error, 160)
        raise AdapterError(f"{folder / WEIGHTS} cannot be read: {first}") from None
    named = {
        normalize_weight_name(name): value.astype(mx.float32) for name, value in weights.items()
    }
    if len(named) < len(weights):
        raise AdapterError(
            f"{folder / WEIGHTS} holds one weight under two names; take one adapter of PEFT alone"
        )
    return named, dict(config)


def import_adapter(
    folder: Path, output: Path, files: PreparedFiles, params: Params, cache_dir: Path
) -> str:
    """Write an adapter of ours from PEFT's, check that it changes the logits, and say what it is.

    Raises MondrianError if adapter, base and rows do not belong together.
    """
    if output.resolve() == folder.resolve():
        raise AdapterError(f"{output} is the adapter itself; name another folder")
    weights, config = read_peft_adapter(folder)
    base = vlm.load(params.base.source)
    rows, val = read_rows(files.train), read_rows(files.val)
    recipe = build_recipe(base.source, base.hash, rows, files.train, params.image, params.train)
    recipe["train"] = {"adopted": True, "peft_version": config.get("peft_version")}
    count = len(base.model.language_model.model.layers)
    settings = adapter.read_settings(folder, weights, count)
    adapter.check_weights(lora.attach(base.model, settings), weights, folder)
    lora.detach(base.model)
    cache = FeatureCache(base, cache_dir / "features", params.machine.feature_cache_gb, True)
    example = build_examples(base, val[:1], params.train, cache)[0]
    with atomic_folder(output, SAVED_FILES) as beside:
        adapter.save(beside, weights, settings, recipe, count)
        check_saved_adapter(cache, beside, example)
    lora.detach(base.model)
    return f"imported {len(weights)} tensors of rank {settings.rank} into {output}"
