"""LoRA settings, to and from PEFT's adapter_config.json."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

from mondrian.core.params import Train

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
PROJECTIONS = {"attention": ATTENTION, "mlp": MLP, "both": ATTENTION + MLP}
PROJECTOR = ("linear_fc1", "linear_fc2")  # of the vision tower's merger
_LAYER = re.compile(r"\.language_model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_")


@dataclass(frozen=True)
class LoraConfig:
    """Shape and position of an adapter.

    target_modules   projections of the language layers
    num_layers       adapt only the last so many layers; 0 for all
    train_projector  adapt the vision tower's merger too
    rslora           scale by alpha / sqrt(rank) (arXiv:2312.03732) instead of alpha / rank
    dora             train the norm of each output's weights separately (arXiv:2402.09353)
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    target_modules: tuple[str, ...] = PROJECTIONS["both"]
    num_layers: int = 0
    train_projector: bool = False
    rslora: bool = False
    dora: bool = False

    @property
    def scale(self) -> float:
        """Return the factor of the adapter's output."""
        return self.alpha / (sqrt(self.rank) if self.rslora else self.rank)


def make_lora_config(params: Train) -> LoraConfig:
    return LoraConfig(
        rank=params.lora_r,
        alpha=params.lora_alpha,
        dropout=params.lora_dropout,
        target_modules=PROJECTIONS[params.target_modules],
        num_layers=params.num_layers,
        train_projector=params.train_projector,
        rslora=params.rslora,
        dora=params.dora,
    )


def peft_config(settings: LoraConfig, base: str, layers: int) -> dict[str, Any]:
    """Return adapter_config.json; `layers` is the number of the base's layers."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": _target_modules(settings, layers),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": settings.dora,
        "use_rslora": settings.rslora,
    }


def _target_modules(settings: LoraConfig, layers: int) -> list[str] | str:
    """Return module names, or a pattern of whole paths if names do not suffice."""
    if not settings.train_projector and not settings.num_layers:
        return list(settings.target_modules)
    first = layers - (settings.num_layers or layers)
    indices = "|".join(str(i) for i in range(first, layers))
    pattern = rf".*language_model\.layers\.({indices})\.\w+\.({'|'.join(settings.target_modules)})"
    if settings.train_projector:
        pattern += rf"|.*visual\.merger\.({'|'.join(PROJECTOR)})"
    return pattern


def parse_peft_config(config: Mapping[str, Any], names: Collection[str], layers: int) -> LoraConfig:
    """Return an adapter's settings from its config and the names of its weights.

    Raises KeyError, TypeError or ValueError if the config is not a LoRA's.
    """
    rank, alpha = config["r"], float(config["lora_alpha"])
    dropout = float(config.get("lora_dropout", 0.0))
    if config.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"peft_type is {config['peft_type']!r}")
    if not (isinstance(rank, int) and 0 < rank <= 65_536 and 0 < alpha < inf):
        raise ValueError(f"r is {rank!r} and lora_alpha {alpha!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"lora_dropout is {config['lora_dropout']!r}")
    matches = [match for name in names if (match := _LAYER.search(name))]
    modules = {match[2] for match in matches}
    first = min((int(match[1]) for match in matches), default=0)
    return LoraConfig(
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        target_modules=tuple(name for name in PROJECTIONS["both"] if name in modules),
        num_layers=layers - first if 0 < first < layers else 0,
        train_projector=any(".visual.merger." in name for name in names),
        rslora=bool(config.get("use_rslora", False)),
        dora=bool(config.get("use_dora", False)),
    )
