"""adapter_config.json of another trainer: the settings of a plain LoRA, or why it is not one."""

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import StringConstraints, TypeAdapter
from pydantic_core import SchemaError

from mondrian.model.lora import check_number

_INITS_KEEPING_BASE = (True, False, None, "gaussian", "orthogonal", "eva")  # init_lora_weights
_KNOWN_KEYS = frozenset(
    {
        *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern"),
        *("use_rslora", "use_dora", "init_lora_weights", "base_model_name_or_path"),
        # no effect on trained weights, which say themselves of which modules they are
        *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode"),
        *("lora_dropout", "target_modules", "exclude_modules", "layers_to_transform"),
        *("layers_pattern", "megatron_config", "megatron_core", "qalora_group_size"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"),
    }
)
_COPY_SUFFIX = re.compile(r"(?:-(?:unsloth|bnb|mlx|awq|gptq|fp8|fp16|bf16|int\d|\d+bit))+$")


def simplify_peft_config(config: Mapping[str, Any], modules: Collection[str]) -> dict[str, Any]:
    """Return a copy with one int `r`, one `lora_alpha` and no patterns.

    modules  paths in the base of the modules that have weights

    Raises ValueError that names all settings that are more than a plain LoRA.
    """
    problems = []
    if config.get("peft_type") != "LORA":
        problems.append(f"peft_type is {config.get('peft_type')!r}; only LORA can be imported")
    init = config.get("init_lora_weights")
    if init not in _INITS_KEEPING_BASE:
        problems.append(
            f"init_lora_weights {init!r} changed the base's weights; convert it to a plain LoRA "
            "first (PEFT: path_initial_model_for_weight_conversion)"
        )
    problems += [
        f"{key if key.isidentifier() else repr(key)} is {value!r}; train without"
        for key, value in config.items()
        if key not in _KNOWN_KEYS and value and (key, value) != ("bias", "none")
    ]
    simple = {**config, "rank_pattern": {}, "alpha_pattern": {}}
    for key, pattern_key in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        try:
            simple[key] = _resolve(config, key, pattern_key, modules)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems))
    return simple


def _resolve(
    config: Mapping[str, Any], key: str, pattern_key: str, modules: Collection[str]
) -> float:
    """Return the one value that `key` and its pattern give to all modules."""
    patterns = config.get(pattern_key) or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"{pattern_key} is {patterns!r}; it must be a mapping")
    matchers = [(_compile(pattern_key, pattern), value) for pattern, value in patterns.items()]
    values: dict[float, str] = {}
    for module in sorted(modules) or [""]:
        matching = (v for matcher, v in matchers if matcher.validator.isinstance_python(module))
        values.setdefault(_to_number(key, next(matching, config.get(key))), module)
    if len(values) > 1:
        described = " and ".join(
            f"{value} for {name!r}" for value, name in list(values.items())[:2]
        )
        raise ValueError(
            f"{pattern_key} gives {key} {described}; train with one {key} for all modules"
        )
    return next(iter(values))


def _compile(pattern_key: str, pattern: str) -> TypeAdapter[str]:
    """Return a type of the modules that a key of rank_pattern or alpha_pattern names for PEFT.

    pydantic matches in linear time; `re` never ends on some patterns.
    """
    whole = StringConstraints(pattern=rf"^(.*\.)?({pattern})$")
    try:
        return TypeAdapter(Annotated[str, whole])
    except (SchemaError, UnicodeError):
        raise ValueError(
            f"{pattern_key} has the pattern {pattern!r}; it must be a regular expression without "
            "lookaround and backreferences"
        ) from None


def _to_number(key: str, value: Any) -> float:
    """Return a positive number; of `r` an int, though JSON may have it as 16.0."""
    if check_number(key, value) <= 0:
        raise ValueError(f"{key} is {value!r}; it must be a number above 0")
    if key == "r" and (value != int(value) or value > 65_536):
        raise ValueError(f"r is {value!r}; it must be a whole number up to 65,536")
    return int(value) if key == "r" else value


def has_same_base(trained_on: str, *names: str) -> bool:
    """Return whether a base_model_name_or_path is one of these folders, hub ids or names.

    Compared are the last parts, without what names a packed copy: `/data/Qwen3-VL-4B-Instruct` and
    `mlx-community/Qwen3-VL-4B-Instruct-4bit` are the same.
    """
    return _model_name(trained_on) in map(_model_name, names)


def _model_name(name: str) -> str:
    """Return the model's own name in a hub id, a folder or a folder of the hub's cache."""
    parts = re.split(r"[/\\]", name.strip().rstrip("/\\").lower())
    cached = [part for part in parts if part.startswith("models--")]
    return _COPY_SUFFIX.sub("", (cached or parts)[-1].split("--")[-1])
