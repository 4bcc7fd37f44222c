"""What a run will take, before anything is loaded: rows, steps, memory by its parts, time.

Every batch of every epoch is laid out as training will do it, by its tokens alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
from PIL import Image

from mondrian.core.errors import TrainingError
from mondrian.core.params import Train
from mondrian.critique.rows import ChatRow
from mondrian.model.architecture import Architecture, Device
from mondrian.model.hardware import Throughput
from mondrian.model.language import Features
from mondrian.model.lora_config import make_lora_config
from mondrian.model.streams import split_over_streams
from mondrian.model.tokenizer import ApproximateTokenizer, ChatTokenizer
from mondrian.model.vision_cache import MAX_MEMORY_BYTES
from mondrian.training.dataset import Example, build_example, check_sequence_lengths
from mondrian.training.memory_estimate import (
    BatchShape,
    TrainingJob,
    count_elements,
    count_operations,
    memory_breakdown,
)
from mondrian.training.packing import PackedBatch, pack
from mondrian.training.schedule import select_micro_batches, steps_per_epoch

_LAID_OUT = 10  # epochs whose batches are laid out; more are like them
_PASSES = 1.1  # softmax's time for each number that is kept: measured on a CPU with two bases


@dataclass(frozen=True)
class PlannedExample:
    """A row and the grid of its photograph's image tokens."""

    row: Example
    grid: tuple[int, int]

    @property
    def ids(self) -> list[int]:
        return self.row.ids

    @property
    def image_token_count(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class TrainingPlan:
    """A run's rows and what they take; `train_batches` are its batches, `val_batches` those of
    validation."""

    job: TrainingJob
    rows: tuple[PlannedExample, ...]
    val: tuple[PlannedExample, ...]
    train_batches: tuple[BatchShape, ...]
    val_batches: tuple[BatchShape, ...]
    image_id: int

    @property
    def has_approximate_tokens(self) -> bool:
        """Whether tokens are counted without the base's tokenizer."""
        return self.image_id == ApproximateTokenizer.image_id

    def replan(self, work: TrainingJob) -> TrainingPlan:
        """The same rows under another base or other settings."""
        if work.params.batch_size == self.job.params.batch_size:
            return replace(self, job=work)
        return plan_batches(work, self.rows, self.val, self.image_id)

    @property
    def steps(self) -> int:
        return self.job.params.epochs * steps_per_epoch(len(self.rows), self.job.params)

    def memory_parts(self) -> dict[str, int]:
        """Bytes of each part of the peak, at the batch that needs most."""
        batch = max(
            (memory_breakdown(self.job, load) for load in self.train_batches),
            key=lambda t: sum(t.values()),
        )
        photos = {s.row.photo: s.image_token_count for s in (*self.rows, *self.val)}
        base = self.job.base
        raw = base.merger_shapes()["linear_fc1"][0] if self.job.lora.train_projector else 0
        bytes_per_token = (
            base.width * (1 + base.deepstack_levels) + raw
        ) * self.job.device.float_bytes
        batch["photographs"] += min(MAX_MEMORY_BYTES, sum(photos.values()) * bytes_per_token)
        return batch

    @property
    def peak(self) -> int:
        return sum(self.memory_parts().values())

    def estimate_seconds(self, pace: Throughput) -> float:
        """Products at the machine's rate, and the rest by how many numbers are kept."""
        done = sum(count_operations(self.job, load) for load in self.train_batches)
        done += sum(count_operations(self.job, load, back=False) for load in self.val_batches)
        element_count = sum(count_elements(self.job, load) for load in self.train_batches)
        laid_out = min(self.job.params.epochs, _LAID_OUT) / self.job.params.epochs
        return (
            done / pace.flops_per_second + _PASSES * element_count * pace.softmax_seconds
        ) / laid_out


def make_plan(
    base: Architecture,
    tokens: ChatTokenizer | ApproximateTokenizer,
    rows: Sequence[ChatRow],
    val: Sequence[ChatRow],
    params: Train,
    on: Device,
) -> TrainingPlan:
    """Lay out a run.

    Raises TrainingError that names every row longer than train.max_seq_length.
    """
    if params.num_layers > base.layers:
        raise TrainingError(
            f"train.num_layers is {params.num_layers}, and the base has {base.layers}; 0 for all"
        )
    work = TrainingJob(base, make_lora_config(params), params, on)
    learn, val_examples = (
        tuple(_plan_example(row, base, tokens, params) for row in part) for part in (rows, val)
    )
    for part in (learn, val_examples):
        check_sequence_lengths([sized.row for sized in part], params)
    return plan_batches(work, learn, val_examples, tokens.image_id)


def _plan_example(
    row: ChatRow, base: Architecture, tokens: ChatTokenizer | ApproximateTokenizer, params: Train
) -> PlannedExample:
    with Image.open(Path(row.images[0])) as picture:
        side = base.patch[0] * base.patch[1]
        grid = (picture.height // side, picture.width // side)
    if not (grid[0] and grid[1]):
        raise TrainingError(f"{row.images[0]} is smaller than a patch; prepare again: dvc repro")
    return PlannedExample(build_example(tokens, row, params, grid[0] * grid[1]), grid)


def plan_batches(
    work: TrainingJob,
    learn: tuple[PlannedExample, ...],
    val_examples: tuple[PlannedExample, ...],
    image_id: int,
) -> TrainingPlan:
    """The batches of a run, in every epoch, and those it is judged by."""
    params, loads = work.params, []
    for epoch in range(1, min(params.epochs, _LAID_OUT) + 1):
        for step in range(steps_per_epoch(len(learn), params)):
            batches = select_micro_batches(learn, params, epoch, step)
            loads += [compute_batch_shape(batch, image_id) for batch in batches]
    size = params.batch_size
    judged = [
        compute_batch_shape(val_examples[i : i + size], image_id)
        for i in range(0, len(val_examples), size)
    ]
    return TrainingPlan(
        work,
        learn,
        val_examples,
        tuple(loads),
        tuple(judged * min(params.epochs, _LAID_OUT)),
        image_id,
    )


def compute_batch_shape(batch: Sequence[PlannedExample], image_id: int) -> BatchShape:
    """The size of a batch, dealt and packed as training does it."""
    lanes = [_packed(part, image_id) for part in split_over_streams(batch)]
    pairs, last = (
        tuple(
            (part.queries[1] - part.queries[0], sum(b - a for a, b in part.keys))
            for lane in lanes
            for part in (lane.attention_spans if which == "pairs" else lane.last_layer_spans)
        )
        for which in ("pairs", "last")
    )
    return BatchShape(
        tokens=sum(lane.ids.shape[1] for lane in lanes),
        pairs=pairs,
        last_layer_pairs=last,
        supervised_positions=sum(len(lane.target_positions) for lane in lanes),
        image_tokens=sum(sized.image_token_count for sized in batch),
        num_streams=len(lanes),
    )


def _packed(rows: Sequence[PlannedExample], image_id: int) -> PackedBatch:
    features = [Features(mx.zeros((sized.image_token_count, 0)), (), sized.grid) for sized in rows]
    return pack([sized.row for sized in rows], features, image_id)
