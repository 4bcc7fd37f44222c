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
from mondrian.critique.rows import Row
from mondrian.model.architecture import Architecture, Device
from mondrian.model.hardware import Pace
from mondrian.model.language import Features
from mondrian.model.lora_config import lora_settings
from mondrian.model.streams import dealt
from mondrian.model.tokenizer import Exact, Rough
from mondrian.model.vision_cache import IN_MEMORY
from mondrian.training.dataset import Example, example, refuse_long
from mondrian.training.memory_estimate import Load, Work, elements, operations, terms
from mondrian.training.packing import Packed, pack
from mondrian.training.schedule import batches_of, steps_an_epoch

_LAID_OUT = 10  # epochs whose batches are laid out; more are like them
_PASSES = 1.1  # softmax's time for each number that is kept: measured on a CPU with two bases


@dataclass(frozen=True)
class Sized:
    """A row and the grid of its photograph's image tokens."""

    row: Example
    grid: tuple[int, int]

    @property
    def ids(self) -> list[int]:
        return self.row.ids

    @property
    def image(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Plan:
    """A run's rows and what they take; `loads` are its batches, `judged` those of validation."""

    work: Work
    rows: tuple[Sized, ...]
    val: tuple[Sized, ...]
    loads: tuple[Load, ...]
    judged: tuple[Load, ...]
    image_id: int

    @property
    def rough(self) -> bool:
        """Whether tokens are counted without the base's tokenizer."""
        return self.image_id == Rough.image_id

    def changed(self, work: Work) -> Plan:
        """The same rows under another base or other settings."""
        if work.params.batch_size == self.work.params.batch_size:
            return replace(self, work=work)
        return lay_out(work, self.rows, self.val, self.image_id)

    @property
    def steps(self) -> int:
        return self.work.params.epochs * steps_an_epoch(len(self.rows), self.work.params)

    def parts(self) -> dict[str, int]:
        """Bytes of each part of the peak, at the batch that needs most."""
        batch = max((terms(self.work, load) for load in self.loads), key=lambda t: sum(t.values()))
        photos = {s.row.photo: s.image for s in (*self.rows, *self.val)}
        base = self.work.base
        raw = base.merger()["linear_fc1"][0] if self.work.lora.projector else 0
        each = (base.width * (1 + base.deep) + raw) * self.work.on.float_bytes
        batch["photographs"] += min(IN_MEMORY, sum(photos.values()) * each)
        return batch

    @property
    def peak(self) -> int:
        return sum(self.parts().values())

    def seconds(self, pace: Pace) -> float:
        """Products at the machine's rate, and the rest by how many numbers are kept."""
        done = sum(operations(self.work, load) for load in self.loads)
        done += sum(operations(self.work, load, back=False) for load in self.judged)
        kept = sum(elements(self.work, load) for load in self.loads)
        laid_out = min(self.work.params.epochs, _LAID_OUT) / self.work.params.epochs
        return (done / pace.operations + _PASSES * kept * pace.element) / laid_out


def make_plan(
    base: Architecture, tokens: Exact | Rough, rows: Sequence[Row], val: Sequence[Row],
    params: Train, on: Device,
) -> Plan:  # fmt: skip
    """Lay out a run.

    Raises TrainingError that names every row longer than train.max_tokens.
    """
    if params.last_layers > base.layers:
        raise TrainingError(
            f"train.last_layers is {params.last_layers}, and the base has {base.layers}; 0 for all"
        )
    work = Work(base, lora_settings(params), params, on)
    learn, held = (tuple(_sized(row, base, tokens, params) for row in part) for part in (rows, val))
    for part in (learn, held):
        refuse_long([sized.row for sized in part], params)
    return lay_out(work, learn, held, tokens.image_id)


def _sized(row: Row, base: Architecture, tokens: Exact | Rough, params: Train) -> Sized:
    with Image.open(Path(row.images[0])) as picture:
        side = base.patch[0] * base.patch[1]
        grid = (picture.height // side, picture.width // side)
    if not (grid[0] and grid[1]):
        raise TrainingError(f"{row.images[0]} is smaller than a patch; prepare again: dvc repro")
    return Sized(example(tokens, row, params, grid[0] * grid[1]), grid)


def lay_out(work: Work, learn: tuple[Sized, ...], held: tuple[Sized, ...], image_id: int) -> Plan:
    """The batches of a run, in every epoch, and those it is judged by."""
    params, loads = work.params, []
    for epoch in range(1, min(params.epochs, _LAID_OUT) + 1):
        for step in range(steps_an_epoch(len(learn), params)):
            batches = batches_of(learn, params, epoch, step)
            loads += [load_of(batch, image_id) for batch in batches]
    size = params.batch_size
    judged = [load_of(held[i : i + size], image_id) for i in range(0, len(held), size)]
    return Plan(
        work, learn, held, tuple(loads), tuple(judged * min(params.epochs, _LAID_OUT)), image_id
    )


def load_of(batch: Sequence[Sized], image_id: int) -> Load:
    """The size of a batch, dealt and packed as training does it."""
    lanes = [_packed(part, image_id) for part in dealt(batch)]
    pairs, last = (
        tuple(
            (part.queries[1] - part.queries[0], sum(b - a for a, b in part.keys))
            for lane in lanes
            for part in (lane.parts if which == "pairs" else lane.last)
        )
        for which in ("pairs", "last")
    )
    return Load(
        tokens=sum(lane.ids.shape[1] for lane in lanes),
        pairs=pairs,
        last=last,
        supervised=sum(len(lane.told) for lane in lanes),
        image=sum(sized.image for sized in batch),
        lanes=len(lanes),
    )


def _packed(rows: Sequence[Sized], image_id: int) -> Packed:
    seen = [Features(mx.zeros((sized.image, 0)), (), sized.grid) for sized in rows]
    return pack([sized.row for sized in rows], seen, image_id)
