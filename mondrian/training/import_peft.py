"""Import a PEFT adapter that another trainer made from the prepared rows (docs/cluster.md)."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import mlx.core as mx
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open

from mondrian.core.adapter_folder import CONFIG_FILE, SAVED_FILES, WEIGHTS_FILE
from mondrian.core.errors import AdapterError, one_line
from mondrian.core.files import check_output_file, check_output_folder
from mondrian.core.params import Params
from mondrian.core.validation import format_validation_error
from mondrian.critique.rows import read_train_and_val
from mondrian.model import adapter, lora, vlm
from mondrian.model.memory_limits import set_memory_limits
from mondrian.model.provenance import build_recipe
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.dataset import build_examples
from mondrian.training.loss import Loss, StepSize
from mondrian.training.peft_config import has_same_base, simplify_peft_config
from mondrian.training.progress import NO_TIMING
from mondrian.training.run import AdapterContents, write_metrics, write_verified_adapter
from mondrian.training.torch_file import ForeignFileError, read_torch_file

_TORCH_FILE = "adapter_model.bin"
_STATE_FILE = "trainer_state.json"
_PREFIX = re.compile(r"^(?:(?:base_model|model|language_model)\.)*(?=layers\.)")
_KIND = re.compile(r"\.(lora_A|lora_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?$")
_Number = Annotated[float, Field(ge=-1e30, le=1e30)]  # not NaN, and a sum is not inf


class _LogEntry(BaseModel):
    step: int
    epoch: _Number = 0.0
    loss: _Number | None = None


class TrainerState(BaseModel):
    """What transformers' Trainer writes next to an adapter: steps, epochs and losses."""

    global_step: int | None = None
    epoch: _Number | None = None  # 2.97 is in the third
    num_train_epochs: _Number | None = None
    log_history: list[_LogEntry] = []

    def metrics(self, val_loss: float) -> dict[str, Any]:
        """Return the content of train.json; what the trainer did not write is None."""
        last_epoch = [
            entry.loss
            for entry in self.log_history
            if entry.loss is not None and entry.epoch > (self.epoch or 0.0) - 1
        ]
        return {
            "train_loss": round(fmean(last_epoch), 6) if last_epoch else None,
            "val_loss": round(val_loss, 6),
            "epoch": self.epoch and ceil(self.epoch),
            "epochs": self.num_train_epochs and ceil(self.num_train_epochs),
            "steps": self.global_step,
        }

    def training_log(self, val_loss: float) -> list[dict[str, Any]]:
        """Return the losses that the trainer logged, and last the val loss measured here."""
        log: list[dict[str, Any]] = [
            {"step": entry.step, "loss": entry.loss}
            for entry in self.log_history
            if entry.loss is not None
        ]
        return [*log, {"step": self.global_step or 0, "val_loss": round(val_loss, 6)}]


@dataclass(frozen=True)
class ImportPaths:
    """Files of the train stage: rows that the adapter was trained on, and what it writes."""

    train: Path
    val: Path
    output: Path  # adapter folder
    metrics: Path  # train.json


def normalize_weight_name(name: str) -> str:
    """Return a PEFT name as this project and current transformers write it; older ones differ."""
    match = _KIND.search(name)
    if not match:
        return name
    path = _PREFIX.sub("language_model.", name[: match.start()])
    path = re.sub(r"^base_model\.model\.(?:model\.)?", "", path)
    ending = match[1] if match[1] == "lora_magnitude_vector" else f"{match[1]}.weight"
    return f"base_model.model.model.{path}.{ending}"


def find_weights_file(folder: Path) -> Path:
    for name in (WEIGHTS_FILE, _TORCH_FILE):
        if (folder / name).exists():
            return folder / name
    raise AdapterError(f"{folder} has no {WEIGHTS_FILE} and no {_TORCH_FILE}; copy it again")


def read_peft_weights(path: Path) -> lora.Tensors:
    """Return float32 weights by the names in the file; AdapterError if it cannot be read."""
    if path.name == _TORCH_FILE:
        try:
            return {name: mx.array(value) for name, value in read_torch_file(path).items()}
        except ForeignFileError as error:
            raise AdapterError(
                f"{path} cannot be read: {one_line(error, 160)}; save the adapter again, with PEFT "
                f"as {WEIGHTS_FILE}"
            ) from None
        except (OSError, ValueError) as error:
            raise AdapterError(
                f"{path} cannot be read: {one_line(error, 160)}; convert it with torch, in "
                f'{path.parent}: python -c "import torch, safetensors.torch as s; s.save_file({{k: '
                f"v.contiguous() for k, v in torch.load('{_TORCH_FILE}', weights_only=True)"
                f".items()}}, '{WEIGHTS_FILE}')\""
            ) from None
    try:
        with safe_open(path, "numpy"):  # refuses a truncated file
            weights: Any = mx.load(str(path))  # numpy has no bfloat16
    except (SafetensorError, OSError, RuntimeError) as error:
        raise AdapterError(f"{path} cannot be read: {one_line(error, 160)}") from None
    return {name: value.astype(mx.float32) for name, value in weights.items()}


def read_peft_adapter(folder: Path) -> tuple[lora.Tensors, dict[str, Any]]:
    """Return weights by this project's names and the config; AdapterError if not a plain LoRA."""
    path = folder / CONFIG_FILE
    if not path.exists():
        nested = sorted(file.parent.as_posix() for file in folder.glob(f"*/{CONFIG_FILE}"))
        suggestion = f"; there is {nested[-1]}" if nested else ""
        raise AdapterError(
            f"{folder} has no {CONFIG_FILE}; give the folder that PEFT saved{suggestion}"
        )
    weights = read_peft_weights(find_weights_file(folder))
    normalized = {normalize_weight_name(name): value for name, value in weights.items()}
    if len(normalized) < len(weights):
        raise AdapterError(f"{folder} has one weight under two names; save a single PEFT adapter")
    modules = {_KIND.sub("", name).removeprefix("base_model.model.") for name in weights}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, Mapping):
            raise ValueError("it is not a mapping")
        return normalized, simplify_peft_config(config, modules)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be imported: {one_line(error, 600)}") from None


def read_trainer_state(folder: Path) -> TrainerState:
    """Return what is known of the training; AdapterError if the file is damaged."""
    path = folder / _STATE_FILE
    if not path.exists():
        return TrainerState()
    try:
        return TrainerState.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise AdapterError(
            f"{path} is damaged ({format_validation_error(error)}); delete it to import without "
            "its losses"
        ) from None


def import_adapter(
    folder: Path, paths: ImportPaths, params: Params, cache_dir: Path, same_base: bool = False
) -> str:
    """Write a PEFT adapter and its metrics as the train stage does; return a summary.

    same_base  the base in adapter_config.json is base.source under another name

    Raises AdapterError if it is not a plain LoRA on this base or has no effect.
    """
    _check_outputs(folder, paths)
    weights, config = read_peft_adapter(folder)
    if not same_base:
        _check_base(folder, config.get("base_model_name_or_path"), params)
    state = read_trainer_state(folder)
    train_rows, val_rows = read_train_and_val(paths.train, paths.val)
    set_memory_limits(params.machine.cache_limit_gb)
    base = vlm.load(params.base.source)
    recipe = build_recipe(base.base_id, train_rows, paths.train, params.image, params.train)
    recipe["train"] = {"imported": True, "peft_version": config.get("peft_version")}
    lora_config = _parse_config(folder, config, weights, base)
    options = (params.machine.feature_cache_gb, lora_config.train_projector)
    features = FeatureCache(base, cache_dir / "features", *options)
    examples = build_examples(val_rows, params.train, features)
    try:
        layers = lora.attach(base.model, lora_config)
        filled = fill_modules(layers, weights)
        adapter.check_weights(layers, filled, find_weights_file(folder))
        lora.load_lora_weights(layers, filled)
        sums = Loss(features, layers, params.train).iter_eval_sums(examples)
        val_loss = sum(float(batch[0]) for batch in sums) / StepSize.of(examples).weight
        contents = AdapterContents(filled, lora_config, recipe, state.training_log(val_loss))
        write_verified_adapter(features, contents, examples[0], paths.output)
    except AdapterError as error:
        message = str(error).replace(str(paths.output), str(folder))
        raise AdapterError(message.removesuffix("; train again")) from None
    finally:
        lora.detach(base.model)
    write_metrics(paths.metrics, state.metrics(val_loss), NO_TIMING)
    imported = _describe_imported(len(weights), len(filled), lora_config.rank)
    return f"{imported} into {paths.output}, val loss {val_loss:.3f}"


def _describe_imported(num_imported: int, num_written: int, rank: int) -> str:
    zeros = num_written - num_imported
    note = f" ({zeros} more are zero, of modules without weights)" if zeros else ""
    return f"imported {num_imported} tensors of rank {rank}{note}"


def _check_outputs(folder: Path, paths: ImportPaths) -> None:
    if paths.output.resolve() == folder.resolve():
        raise AdapterError(f"{paths.output} is the adapter itself; give another folder")
    check_output_folder(paths.output, SAVED_FILES)
    check_output_file(paths.metrics)


def _parse_config(
    folder: Path, config: dict[str, Any], weights: lora.Tensors, base: vlm.Vlm
) -> lora.LoraConfig:
    base_layers = len(base.model.language_model.model.layers)
    try:
        return lora.parse_peft_config(config, weights, base_layers)
    except (ValueError, TypeError) as error:
        raise AdapterError(f"{folder / CONFIG_FILE} cannot be imported: {error}") from None


def _check_base(folder: Path, trained_on: Any, params: Params) -> None:
    base = params.base
    if trained_on and not has_same_base(str(trained_on), base.source, base.name):
        raise AdapterError(
            f"{folder / CONFIG_FILE}: base_model_name_or_path is {str(trained_on)!r}, base.source "
            f"of params.yaml is {base.source}; if they are the same model, add --same_base"
        )


def fill_modules(layers: dict[str, lora.LoraLinear], weights: lora.Tensors) -> lora.Tensors:
    """Return weights with those of an adapter without effect for each module that has none.

    So an adapter of some modules in some layers is one of these modules in a range of layers.
    """
    adapted = {name.split(".lora_")[0] for name in weights}
    initial = lora.lora_state_dict(layers)
    return weights | {n: v for n, v in initial.items() if n.split(".lora_")[0] not in adapted}
