"""Plan a run before anything is loaded: examples, steps, memory by parts, time.

Every batch of every epoch is laid out like in training, from its tokens only. Peak memory and FLOPs
are estimated from sizes. Activations are what the gradient needs again: each layer keeps the inputs
of its norms, adapters, attention and SwiGLU; the head has a chunk of logits at a time.
benchmarks/memory.py compares the sum with what MLX measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
from PIL import Image

from mondrian.core.errors import TrainingError
from mondrian.core.params import TrainParams
from mondrian.critique.rows import ChatRow
from mondrian.model.architecture import Architecture
from mondrian.model.device import Device
from mondrian.model.hardware import Throughput
from mondrian.model.kernels import AttentionSpan
from mondrian.model.language import Features
from mondrian.model.lora import LoraConfig, make_lora_config
from mondrian.model.streams import split_over_streams
from mondrian.model.tokenizer import RowTokenizer
from mondrian.model.vision_cache import MAX_MEMORY_BYTES
from mondrian.training.dataset import Example, build_example, check_sequence_lengths
from mondrian.training.packing import pack
from mondrian.training.schedule import select_micro_batches, steps_per_epoch

_MAX_EPOCHS = 10  # epochs with laid-out batches; further ones are similar
_ELEMENTWISE_FACTOR = 1.1  # softmax's time per stored element: measured on a CPU with two bases

# Measured on a CPU:
_LOGITS_COPIES = 2  # copies of a chunk's logits at the same time
_NEXT_LOGITS_COPIES = 3  # and of the next chunk's
_STREAM_OVERLAP = 0.8  # of them with two streams: their logits rarely exist at the same time
_BACKWARD_LAYERS = 1.35  # memory of the backward pass through a layer, in activations of a layer
_RECOMPUTE_LAYERS = 4.0  # the same with gradient checkpointing
_MERGER_COPIES = 6  # vectors as wide as the merger that its forward and backward pass keep

_SHARED_INPUT = {"q_proj": "v_proj", "k_proj": "v_proj", "gate_proj": "up_proj"}
QueryKeyCounts = tuple[tuple[int, int], ...]  # queries and the keys they attend to, of each row


@dataclass(frozen=True)
class BatchShape:
    tokens: int  # positions that every layer computes
    pairs: QueryKeyCounts  # of every layer but the last
    last_layer_pairs: QueryKeyCounts
    supervised_positions: int  # positions with computed logits
    image_tokens: int
    num_streams: int = 1  # parts that are computed at the same time


@dataclass(frozen=True)
class RunSetup:
    base: Architecture
    lora: LoraConfig
    params: TrainParams
    device: Device

    @property
    def backward_layers(self) -> int:
        """Return how many layers the gradient passes: all if the projector is trained."""
        num_layers = 0 if self.lora.train_projector else self.lora.num_layers
        return min(num_layers or self.base.layers, self.base.layers)


def memory_breakdown(setup: RunSetup, batch: BatchShape) -> dict[str, int]:
    """Return the bytes of each part of the peak; their sum is the peak."""
    base, float_bytes, positions = setup.base, setup.device.float_bytes, batch.supervised_positions
    activations, backward = _activations(setup, batch)
    chunk = min(batch.num_streams * setup.params.loss_chunk_size, positions)
    copies = _LOGITS_COPIES * chunk + _NEXT_LOGITS_COPIES * min(chunk, positions - chunk)
    overlap = _STREAM_OVERLAP if batch.num_streams > 1 else 1
    logits = int(overlap * copies * base.vocabulary * 4) + 2 * positions * base.width * 4
    per_image_token = 2 * base.width * (1 + base.deepstack_levels)
    if setup.lora.train_projector:
        merger_width = base.merger_shapes()["linear_fc1"][0]
        per_image_token += _MERGER_COPIES * merger_width + (base.width if setup.lora.dora else 0)
    return {
        "base": base.stored_bytes(float_bytes),
        "adapter, gradient, moments, best so far": 5 * 4 * base.num_lora_weights(setup.lora),
        "vision features": batch.image_tokens * per_image_token * float_bytes,
        "activations": int(activations * float_bytes),
        "logits or one layer's backward pass": max(logits, int(backward * float_bytes)),
    }


def _activations(setup: RunSetup, batch: BatchShape) -> tuple[float, float]:
    """Return the values stored for the gradient, and those of the backward pass through a layer."""
    full = (setup, batch.tokens, batch.tokens)
    frozen = _frozen_layer(*full, batch.pairs)
    layer = frozen + _adapter_inputs(*full)
    supervised = (setup, batch.tokens, batch.supervised_positions)
    last = _frozen_layer(*supervised, batch.last_layer_pairs) + _adapter_inputs(*supervised)
    layers_before = setup.backward_layers - 1
    if setup.params.gradient_checkpointing:
        activations: float = layers_before * batch.tokens * setup.base.width
        backward = _RECOMPUTE_LAYERS * layer - last
    else:
        adapted = min(setup.lora.num_layers or setup.backward_layers, setup.backward_layers) - 1
        activations = adapted * layer + (layers_before - adapted) * frozen
        backward = _BACKWARD_LAYERS * layer - last
    return activations + last, max(backward if layers_before else 0, _BACKWARD_LAYERS * last)


def _frozen_layer(setup: RunSetup, tokens: int, queries: int, pairs: QueryKeyCounts) -> int:
    """Return the values one layer keeps for its gradient: inputs of norms, attention and SwiGLU.

    queries  positions with queries and an MLP; the others have keys and values only
    """
    base = setup.base
    heads, kv_heads, head_width = base.heads
    per_token = base.width + 3 * kv_heads * head_width
    per_query = base.width + 2 * heads * head_width + 2 * base.mlp_width
    scores = heads * sum(_count_scores(q, k, setup.device.query_block) for q, k in pairs)
    return tokens * per_token + queries * per_query + scores


def _adapter_inputs(setup: RunSetup, tokens: int, queries: int) -> float:
    """Return the values that one layer's adapters keep for their gradient."""
    lora, shapes = setup.lora, setup.base.projection_shapes()
    positions = {
        name: tokens if name in ("k_proj", "v_proj") else queries for name in lora.target_modules
    }
    if lora.dropout:  # a copy for each adapter, and a mask of one byte
        copies = 1 + 1 / setup.device.float_bytes
        values = sum(shapes[name][0] * copies * count for name, count in positions.items())
    else:  # one copy for projections with the same input
        inputs = {_SHARED_INPUT.get(name, name): name for name in lora.target_modules}
        values = sum(shapes[name][0] * positions[name] for name in inputs.values())
    if lora.dora:  # each output, for the gradient of its magnitude
        values += sum(shapes[name][1] * count for name, count in positions.items())
    return values


def _count_scores(queries: int, keys: int, block: int) -> int:
    """Count the attention scores in the blocks of a causal mask that are not skipped."""
    if not block:
        return queries * keys
    blocks = [(start, min(queries, start + block)) for start in range(0, queries, block)]
    return sum((stop - start) * (keys - queries + stop) for start, stop in blocks)


def count_elements(setup: RunSetup, batch: BatchShape) -> float:
    """Count the outputs of element-wise kernels: a layer's activations, half without gradient."""
    full = (setup, batch.tokens, batch.tokens)
    layer = _frozen_layer(*full, batch.pairs) + _adapter_inputs(*full)
    return layer * (setup.base.layers + setup.backward_layers) / 2


def count_operations(setup: RunSetup, batch: BatchShape, backward: bool = True) -> int:
    """Count the floating-point operations that a step, or a validation batch, needs at least.

    2 per weight and token forward, and the same backward if the gradient passes (frozen weights
    have no gradient), the head at supervised positions, the two products of attention over unmasked
    scores, three times, and the adapter's own.
    """
    base, backward_layers = setup.base, setup.backward_layers if backward else 0
    weights_per_layer = base.num_linear_weights() // base.layers
    linear = 2 * weights_per_layer * batch.tokens * (base.layers + backward_layers)
    head = (4 if backward else 2) * base.num_head_weights() * batch.supervised_positions
    scores = sum(q * (k - q) + q * q / 2 for q, k in batch.pairs)
    attention = 4 * scores * base.heads[0] * base.heads[2] * (base.layers + 2 * backward_layers)
    adapter = (6 if backward else 2) * base.num_lora_weights(setup.lora) * batch.tokens
    return int(linear + head + attention + adapter)


@dataclass(frozen=True)
class PlannedExample:
    """An example and the grid (rows, columns) of its photo's image tokens."""

    example: Example
    grid: tuple[int, int]

    @property
    def ids(self) -> list[int]:
        return self.example.ids

    @property
    def image_token_count(self) -> int:
        return self.grid[0] * self.grid[1]


Examples = tuple[PlannedExample, ...]


@dataclass(frozen=True)
class TrainingPlan:
    setup: RunSetup
    train: Examples
    val: Examples
    train_batches: tuple[BatchShape, ...]
    val_batches: tuple[BatchShape, ...]
    image_id: int

    def replan(self, setup: RunSetup) -> "TrainingPlan":
        """Return the plan of the same examples with another base or other settings."""
        if setup.params.batch_size == self.setup.params.batch_size:
            return replace(self, setup=setup)
        return plan_batches(setup, self.train, self.val, self.image_id)

    @property
    def steps(self) -> int:
        return self.setup.params.epochs * steps_per_epoch(len(self.train), self.setup.params)

    def memory_parts(self) -> dict[str, int]:
        """Return the bytes of each part of the peak, for the batch that needs most."""
        setup, base = self.setup, self.setup.base
        breakdowns = (memory_breakdown(setup, batch) for batch in self.train_batches)
        largest = max(breakdowns, key=lambda parts: sum(parts.values()))
        image_tokens = {e.example.photo: e.image_token_count for e in (*self.train, *self.val)}
        values_per_token = base.width * (1 + base.deepstack_levels)
        if setup.lora.train_projector:
            values_per_token += base.merger_shapes()["linear_fc1"][0]
        cached = sum(image_tokens.values()) * values_per_token * setup.device.float_bytes
        largest["vision features"] += min(MAX_MEMORY_BYTES, cached)
        return largest

    @property
    def peak_bytes(self) -> int:
        return sum(self.memory_parts().values())

    def estimate_seconds(self, throughput: Throughput) -> float:
        """Estimate matrix products by FLOP/s, and all other work by the stored elements."""
        setup, epochs = self.setup, self.setup.params.epochs
        flops = sum(count_operations(setup, batch) for batch in self.train_batches)
        flops += sum(count_operations(setup, batch, backward=False) for batch in self.val_batches)
        elements = sum(count_elements(setup, batch) for batch in self.train_batches)
        seconds = flops / throughput.flops_per_second
        seconds += _ELEMENTWISE_FACTOR * elements * throughput.softmax_seconds
        return seconds / (min(epochs, _MAX_EPOCHS) / epochs)


def build_setup(base: Architecture, params: TrainParams, device: Device) -> RunSetup:
    if params.num_layers > base.layers:
        raise TrainingError(
            f"train.num_layers is {params.num_layers}, and the base has {base.layers}; 0 for all"
        )
    return RunSetup(base, make_lora_config(params), params, device.for_base(base.num_weights()))


def make_plan(
    setup: RunSetup, tokenizer: RowTokenizer, train: Sequence[ChatRow], val: Sequence[ChatRow]
) -> TrainingPlan:
    """Plan a run, or raise TrainingError that names rows longer than train.max_seq_length."""
    train_examples, val_examples = (
        tuple(_plan_example(row, setup, tokenizer) for row in part) for part in (train, val)
    )
    for part in (train_examples, val_examples):
        check_sequence_lengths([planned.example for planned in part], setup.params)
    return plan_batches(setup, train_examples, val_examples, tokenizer.image_id)


def _plan_example(row: ChatRow, setup: RunSetup, tokenizer: RowTokenizer) -> PlannedExample:
    side = setup.base.patch[0] * setup.base.patch[1]
    with Image.open(row.images[0]) as image:
        grid = (image.height // side, image.width // side)
    if not (grid[0] and grid[1]):
        raise TrainingError(f"{row.images[0]} is smaller than a patch; prepare again: dvc repro")
    return PlannedExample(build_example(tokenizer, row, setup.params, grid[0] * grid[1]), grid)


def plan_batches(setup: RunSetup, train: Examples, val: Examples, image_id: int) -> TrainingPlan:
    """Lay out the batches of every epoch and of its validation."""
    params, size = setup.params, setup.params.batch_size
    epochs = min(params.epochs, _MAX_EPOCHS)
    train_batches = [
        compute_batch_shape(batch, image_id)
        for epoch in range(1, epochs + 1)
        for step in range(steps_per_epoch(len(train), params))
        for batch in select_micro_batches(train, params, epoch, step)
    ]
    val_batches = [
        compute_batch_shape(val[i : i + size], image_id) for i in range(0, len(val), size)
    ]
    batches = tuple(train_batches), tuple(val_batches * epochs)
    return TrainingPlan(setup, train, val, *batches, image_id)


def compute_batch_shape(batch: Sequence[PlannedExample], image_id: int) -> BatchShape:
    """Return the sizes of a batch, split over streams and packed like in training."""
    parts = []
    for rows in split_over_streams(batch):
        features = [Features(mx.zeros((row.image_token_count, 0)), (), row.grid) for row in rows]
        parts.append(pack([row.example for row in rows], features, image_id))
    return BatchShape(
        tokens=sum(part.ids.shape[1] for part in parts),
        pairs=_count_pairs([span for part in parts for span in part.attention_spans]),
        last_layer_pairs=_count_pairs([span for part in parts for span in part.last_layer_spans]),
        supervised_positions=sum(len(part.target_positions) for part in parts),
        image_tokens=sum(planned.image_token_count for planned in batch),
        num_streams=len(parts),
    )


def _count_pairs(spans: Sequence[AttentionSpan]) -> QueryKeyCounts:
    return tuple(
        (span.queries[1] - span.queries[0], sum(b - a for a, b in span.keys)) for span in spans
    )
