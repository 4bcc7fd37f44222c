"""LoRA: config to and from PEFT's adapter_config.json; layers and their weights by PEFT's names.

A layer keeps its base linear unchanged, packed or not, and never merges into it: after `detach` the
base is bitwise the same. mondrian/model/adapter.py reads and writes adapter folders.
"""

import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mondrian.core.params import TrainParams
from mondrian.model.projections import (
    AdaptedLinear,
    DropoutLowRank,
    LowRank,
    LowRankUpdate,
    Projections,
    dequantize,
    round_keep_prob,
)

Tensors = dict[str, mx.array]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
PROJECTIONS = {"attention": ATTENTION, "mlp": MLP, "both": ATTENTION + MLP}
PROJECTOR = ("linear_fc1", "linear_fc2")  # of the vision tower's merger
_LAYER = re.compile(r"\.language_model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_")


@dataclass(frozen=True)
class LoraConfig:
    rank: int
    alpha: float
    dropout: float = 0.0
    target_modules: tuple[str, ...] = PROJECTIONS["both"]  # of the language layers
    num_layers: int = 0  # how many of the last layers to adapt; 0 for all
    train_projector: bool = False  # adapt the vision tower's merger too
    rslora: bool = False  # scale by alpha / sqrt(rank) (arXiv:2312.03732), not alpha / rank
    dora: bool = False  # train the norm of each output's weights separately (arXiv:2402.09353)

    @property
    def scale(self) -> float:
        return self.alpha / (sqrt(self.rank) if self.rslora else self.rank)


def make_lora_config(params: TrainParams) -> LoraConfig:
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


def build_peft_config(config: LoraConfig, base: str, base_layers: int) -> dict[str, Any]:
    """Return adapter_config.json; base_layers is the number of the base's layers."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": _target_modules(config, base_layers),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": config.dora,
        "use_rslora": config.rslora,
    }


def _target_modules(config: LoraConfig, base_layers: int) -> list[str] | str:
    """Return module names, or a pattern of whole paths if names do not suffice."""
    if not config.train_projector and not config.num_layers:
        return list(config.target_modules)
    first = base_layers - (config.num_layers or base_layers)
    indices = "|".join(str(i) for i in range(first, base_layers))
    pattern = rf".*language_model\.layers\.({indices})\.\w+\.({'|'.join(config.target_modules)})"
    if config.train_projector:
        pattern += rf"|.*visual\.merger\.({'|'.join(PROJECTOR)})"
    return pattern


def parse_peft_config(
    config: Mapping[str, Any], names: Collection[str], base_layers: int
) -> LoraConfig:
    """Parse adapter_config.json; raise KeyError, TypeError or ValueError if it is not a LoRA's."""
    rank, alpha = config["r"], float(check_number("lora_alpha", config["lora_alpha"]))
    dropout = float(check_number("lora_dropout", config.get("lora_dropout", 0.0)))
    if config.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"peft_type is {config['peft_type']!r}")
    if not (isinstance(rank, int) and 0 < rank <= 65_536 and alpha > 0):
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
        num_layers=base_layers - first if 0 < first < base_layers else 0,
        train_projector=any(".visual.merger." in name for name in names),
        rslora=_check_bool("use_rslora", config.get("use_rslora", False)),
        dora=_check_bool("use_dora", config.get("use_dora", False)),
    )


def check_number(key: str, value: Any) -> float:
    """Return a value of adapter_config.json, or raise ValueError unless a float can hold it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{key} is {value!r}; it must be a finite number")
    return value


def _check_bool(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}; it must be true or false")
    return value


class LoraLinear(AdaptedLinear):
    """A frozen linear layer plus scale * dropout(x) A B (Hu et al. 2021, arXiv:2106.09685, eq. 3).

    lora_a     (in, rank)   initialized uniform in +-1/sqrt(in), like PEFT
    lora_b     (rank, out)  initialized to zero
    magnitude  (out,)       with DoRA: the row norms of the base's weight
    """

    def __init__(self, linear: nn.Module, config: LoraConfig, key: mx.array | None) -> None:
        super().__init__()
        out, inner = linear_shape(linear)
        self.linear = linear
        self.keep_prob = 1 - config.dropout
        self.scale = config.scale
        self._dropout_key: mx.array | None = None  # of this step; None outside training
        bound, shape = 1 / sqrt(inner), (inner, config.rank)
        self.lora_a = mx.zeros(shape)
        if key is not None:
            self.lora_a = mx.random.uniform(-bound, bound, shape, key=key)
        self.lora_b = mx.zeros((config.rank, out))
        if config.dora:
            self._squared_norms = mx.square(dequantize(linear)).sum(1)
            self.magnitude = mx.sqrt(self._squared_norms)

    def __call__(self, x: mx.array) -> mx.array:
        rows = x.reshape(-1, x.shape[-1])
        return self.join([self], x.dtype)(rows)[0].reshape(*x.shape[:-1], -1)

    def join(self, linears: Sequence[Any], dtype: Any) -> Projections:
        layers = [(i, layer) for i, layer in enumerate(linears) if isinstance(layer, LoraLinear)]
        bases = [x.linear if isinstance(x, LoraLinear) else x for x in linears]
        return Projections(bases, _join_updates(layers, dtype))

    def make_update(self, index: int, dtype: Any) -> LowRankUpdate:
        """Return the update of projection `index`, cast to the compute type."""
        lora_b = self.lora_b.astype(dtype)
        if "magnitude" not in self:
            return LowRankUpdate(index, lora_b, self.scale)
        factor = self.magnitude / self._weight_norm()
        shift = (self.linear.bias * (1 - factor)).astype(dtype) if "bias" in self.linear else None
        return LowRankUpdate(index, lora_b, self.scale, factor.astype(dtype), shift)

    def _weight_norm(self) -> mx.array:
        """Return the row norms (out,) of W + scale B A, without gradient (DoRA, section 4.3).

        |W + sBA|^2 = |W|^2 + 2s (W A).B + s^2 B'(A'A)B, which never computes the sum itself.
        """
        a, b, s = mx.stop_gradient(self.lora_a), mx.stop_gradient(self.lora_b), self.scale
        linear = self.linear
        wa = linear(a.T) - (linear.bias if "bias" in linear else 0)  # (rank, out)
        cross = (wa.astype(mx.float32) * b).sum(0)
        square = (b * ((a.T @ a) @ b)).sum(0)
        return mx.stop_gradient(mx.sqrt(self._squared_norms + 2 * s * cross + s * s * square))

    def delta_weight(self) -> mx.array:
        """Return what the adapter adds to the base's weight, (out, in), in float32."""
        delta = self.scale * (self.lora_a @ self.lora_b).T
        if "magnitude" not in self:
            return delta
        weight = dequantize(self.linear)
        return (weight + delta) * (self.magnitude / self._weight_norm())[:, None] - weight


def _join_updates(layers: Sequence[tuple[int, LoraLinear]], dtype: Any) -> LowRank:
    """Join LoRA layers with the same input, each with the index of its projection."""
    updates = tuple(layer.make_update(i, dtype) for i, layer in layers)
    lora_a = [layer.lora_a.astype(dtype) for _, layer in layers]
    key, keep_prob = layers[0][1]._dropout_key, round_keep_prob(layers[0][1].keep_prob)
    if key is not None and keep_prob < 1:
        return DropoutLowRank(mx.stack(lora_a) * (1 / keep_prob), updates, key, keep_prob)
    return LowRank(mx.concatenate(lora_a, axis=1), updates)


def linear_shape(linear: Any) -> tuple[int, int]:
    """Return (out, in) of a linear layer, packed or not."""
    out, inner = linear.weight.shape
    return out, inner * 32 // linear.bits if hasattr(linear, "bits") else inner


def attach(model: Any, config: LoraConfig, key: mx.array | None = None) -> dict[str, LoraLinear]:
    """Attach an adapter; return its layers by PEFT's names. `key` seeds lora_a, else it is zero."""
    layers = {}
    targets = list(_iter_target_layers(model, config))
    keys: Any = mx.random.split(key, len(targets)) if key is not None else [None] * len(targets)
    for (path, parent, name), layer_key in zip(targets, keys, strict=True):
        layers[path] = LoraLinear(getattr(parent, name), config, layer_key)
        setattr(parent, name, layers[path])
    return layers


def detach(model: Any) -> None:
    """Remove the adapter; the base is bitwise what it was."""
    for _, parent, name in _iter_target_layers(model, None):
        layer = getattr(parent, name)
        if isinstance(layer, LoraLinear):
            setattr(parent, name, layer.linear)


@contextmanager
def disable_lora(model: Any) -> Iterator[None]:
    targets = _iter_target_layers(model, None)
    saved_layers = [(parent, name, getattr(parent, name)) for _, parent, name in targets]
    detach(model)
    try:
        yield
    finally:
        for parent, name, layer in saved_layers:
            setattr(parent, name, layer)


def unfreeze_lora(layers: dict[str, LoraLinear]) -> None:
    for layer in layers.values():
        layer.unfreeze(keys=["lora_a", "lora_b", "magnitude"], recurse=False)


def set_dropout_key(layers: dict[str, LoraLinear], key: mx.array | None) -> None:
    """Set the random key of the next pass's dropout; None disables dropout."""
    keys: Any = [None] * len(layers) if key is None else mx.random.split(key, len(layers))
    for layer, layer_key in zip(layers.values(), keys, strict=True):
        layer._dropout_key = layer_key


def lora_state_dict(layers: dict[str, LoraLinear]) -> Tensors:
    """Return weights by PEFT's names in its layout: lora_A (rank, in), lora_B (out, rank)."""
    state = {}
    for path, layer in layers.items():
        for name, value in _weights_by_peft_name(path, layer).items():
            transposed = value.T if value.ndim == 2 else value
            state[name] = mx.contiguous(transposed.astype(mx.float32))
    return state


def load_lora_weights(layers: dict[str, LoraLinear], weights: Tensors) -> None:
    """Load the weights of a `lora_state_dict`; none may be missing."""
    for path, layer in layers.items():
        a, b, *magnitude = (weights[name] for name in _weights_by_peft_name(path, layer))
        layer.lora_a, layer.lora_b = mx.contiguous(a.T), mx.contiguous(b.T)
        if magnitude:
            layer.magnitude = magnitude[0]


def _weights_by_peft_name(path: str, layer: LoraLinear) -> Tensors:
    prefix = f"base_model.model.model.{path}"
    weights = {f"{prefix}.lora_A.weight": layer.lora_a, f"{prefix}.lora_B.weight": layer.lora_b}
    if "magnitude" in layer:
        weights[f"{prefix}.lora_magnitude_vector"] = layer.magnitude
    return weights


def _iter_target_layers(model: Any, config: LoraConfig | None) -> Iterator[tuple[str, Any, str]]:
    """Yield PEFT's path, the parent and the name of each target layer; None for all possible."""
    layers = model.language_model.model.layers
    count = config.num_layers if config and config.num_layers else len(layers)
    names = config.target_modules if config else PROJECTIONS["both"]
    for i in range(len(layers) - count, len(layers)):
        for block in ("self_attn", "mlp"):
            parent = getattr(layers[i], block)
            for name in names:
                if name in parent:
                    yield f"language_model.layers.{i}.{block}.{name}", parent, name
    if config is None or config.train_projector:
        for name in PROJECTOR:
            yield f"visual.merger.{name}", model.vision_tower.merger, name
