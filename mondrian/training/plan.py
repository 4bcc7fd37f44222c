"""Plan a run before anything is loaded: examples, steps, memory by parts, time.

Every batch of every epoch is laid out like in training, from its tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
from PIL import Image

from mondrian.core.errors import TrainingError
from mondrian.core.params import Train
from mondrian.critique.rows import ChatRow
from mondrian.model.architecture import Architecture, Device
from mondrian.model.hardware import Throughput
from mondrian.model.kernels import AttentionSpan
from mondrian.model.language import Features
from mondrian.model.lora_config import make_lora_config
from mondrian.model.streams import split_over_streams
from mondrian.model.tokenizer import ApproximateTokenizer, RowTokenizer
from mondrian.model.vision_cache import MAX_MEMORY_BYTES
from mondrian.training.dataset import Example, build_example, check_sequence_lengths
from mondrian.training.memory_estimate import (
    BatchShape,
    QueryKeyCounts,
    TrainingJob,
    count_elements,
    count_operations,
    memory_breakdown,
)
from mondrian.training.packing import PackedBatch, pack
from mondrian.training.schedule import select_micro_batches, steps_per_epoch

_MAX_EPOCHS = 10  # epochs whose batches are laid out; further ones are similar
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
    """A run's examples and batches."""

    job: TrainingJob
    rows: Examples
    val: Examples
    train_batches: tuple[BatchShape, ...]
    val_batches: tuple[BatchShape, ...]
    image_id: int

    @property
    def has_approximate_tokens(self) -> bool:
        return self.image_id == ApproximateTokenizer.image_id

    def replan(self, job: TrainingJob) -> TrainingPlan:
        """Return the plan of the same examples with another base or other settings."""
        if job.params.batch_size == self.job.params.batch_size:
            return replace(self, job=job)
        return plan_batches(job, self.rows, self.val, self.image_id)

    @property
    def steps(self) -> int:
        return self.job.params.epochs * steps_per_epoch(len(self.rows), self.job.params)

    def memory_parts(self) -> dict[str, int]:
        """Return the bytes of each part of the peak, for the batch that needs most."""
        job, base = self.job, self.job.base
        breakdowns = (memory_breakdown(job, batch) for batch in self.train_batches)
        largest = max(breakdowns, key=lambda parts: sum(parts.values()))
        image_tokens = {e.example.photo: e.image_token_count for e in (*self.rows, *self.val)}
        values_per_token = base.width * (1 + base.deepstack_levels)
        if job.lora.train_projector:
            values_per_token += base.merger_shapes()["linear_fc1"][0]
        cached = sum(image_tokens.values()) * values_per_token * job.device.float_bytes
        largest["vision features"] += min(MAX_MEMORY_BYTES, cached)
        return largest

    @property
    def peak(self) -> int:
        return sum(self.memory_parts().values())

    def estimate_seconds(self, throughput: Throughput) -> float:
        """Estimate matrix products by FLOP/s, and all other work by the stored elements."""
        job, epochs = self.job, self.job.params.epochs
        flops = sum(count_operations(job, batch) for batch in self.train_batches)
        flops += sum(count_operations(job, batch, back=False) for batch in self.val_batches)
        elements = sum(count_elements(job, batch) for batch in self.train_batches)
        seconds = flops / throughput.flops_per_second
        seconds += _ELEMENTWISE_FACTOR * elements * throughput.softmax_seconds
        return seconds / (min(epochs, _MAX_EPOCHS) / epochs)


def build_job(base: Architecture, params: Train, device: Device) -> TrainingJob:
    """Return the job of params.yaml on a base.

    Raises TrainingError if the base has fewer layers than train.num_layers.
    """
    if params.num_layers > base.layers:
        raise TrainingError(
            f"train.num_layers is {params.num_layers}, and the base has {base.layers}; 0 for all"
        )
    return TrainingJob(base, make_lora_config(params), params, device)


def make_plan(
    job: TrainingJob, tokenizer: RowTokenizer, rows: Sequence[ChatRow], val: Sequence[ChatRow]
) -> TrainingPlan:
    """Plan a run.

    Raises TrainingError that names every row longer than train.max_seq_length.
    """
    train_examples, val_examples = (
        tuple(_plan_example(row, job, tokenizer) for row in part) for part in (rows, val)
    )
    for part in (train_examples, val_examples):
        check_sequence_lengths([planned.example for planned in part], job.params)
    return plan_batches(job, train_examples, val_examples, tokenizer.image_id)


def _plan_example(row: ChatRow, job: TrainingJob, tokenizer: RowTokenizer) -> PlannedExample:
    side = job.base.patch[0] * job.base.patch[1]
    with Image.open(row.images[0]) as image:
        grid = (image.height // side, image.width // side)
    if not (grid[0] and grid[1]):
        raise TrainingError(f"{row.images[0]} is smaller than a patch; prepare again: dvc repro")
    return PlannedExample(build_example(tokenizer, row, job.params, grid[0] * grid[1]), grid)


def plan_batches(job: TrainingJob, rows: Examples, val: Examples, image_id: int) -> TrainingPlan:
    """Lay out the batches of every epoch and its validation."""
    params, size = job.params, job.params.batch_size
    epochs = min(params.epochs, _MAX_EPOCHS)
    train_batches = [
        compute_batch_shape(batch, image_id)
        for epoch in range(1, epochs + 1)
        for step in range(steps_per_epoch(len(rows), params))
        for batch in select_micro_batches(rows, params, epoch, step)
    ]
    val_batches = [
        compute_batch_shape(val[i : i + size], image_id) for i in range(0, len(val), size)
    ]
    return TrainingPlan(job, rows, val, tuple(train_batches), tuple(val_batches * epochs), image_id)


def compute_batch_shape(batch: Sequence[PlannedExample], image_id: int) -> BatchShape:
    """Return the sizes of a batch, split over streams and packed like in training."""
    parts = [_pack(part, image_id) for part in split_over_streams(batch)]
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


def _pack(rows: Sequence[PlannedExample], image_id: int) -> PackedBatch:
    features = [Features(mx.zeros((row.image_token_count, 0)), (), row.grid) for row in rows]
    return pack([row.example for row in rows], features, image_id)
