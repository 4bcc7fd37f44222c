"""Plan a run before anything is loaded: examples, steps, memory by parts, time.

Every batch of every epoch is laid out like in training, from its tokens only. Peak memory and
operations are those of mondrian/training/step_cost.py.
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
from mondrian.model.lora import make_lora_config
from mondrian.model.streams import split_over_streams
from mondrian.model.tokenizer import RowTokenizer
from mondrian.model.vision_cache import MAX_MEMORY_BYTES
from mondrian.training.dataset import Example, build_example, check_sequence_lengths
from mondrian.training.packing import pack
from mondrian.training.schedule import select_micro_batches, steps_per_epoch
from mondrian.training.step_cost import (
    BatchShape,
    QueryKeyCounts,
    RunSetup,
    count_elements,
    count_products,
    memory_breakdown,
)

_MAX_EPOCHS = 10  # epochs with laid-out batches; further ones are similar
_ELEMENTWISE_FACTOR = 1.1  # softmax's time per stored element: measured on a CPU with two bases


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
        """Estimate products by FLOP/s, and all other work by the stored elements."""
        setup, epochs = self.setup, self.setup.params.epochs
        products = [count_products(setup, batch) for batch in self.train_batches]
        products += [count_products(setup, batch, backward=False) for batch in self.val_batches]
        if setup.params.gradient_checkpointing:  # one more forward pass
            products += [count_products(setup, b, backward=False) for b in self.train_batches]
        elements = sum(count_elements(setup, batch) for batch in self.train_batches)
        seconds = sum(p.base for p in products) / throughput.packed_flops_per_second
        seconds += sum(p.other for p in products) / throughput.flops_per_second
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
