"""Answers to many prompts together: each at its own length, what all begin with computed once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from os.path import commonprefix
from time import perf_counter

import mlx.core as mx

from mondrian.model.batch_generator import Decoder, How, Row
from mondrian.model.kv_cache import Kept, Slots
from mondrian.model.language import Features, layers
from mondrian.model.streams import LANES, side_by_side
from mondrian.model.vlm import Answer, Vlm

Prompts = Sequence[Sequence[int]]


def generate(vlm: Vlm, prompts: Prompts, seen: Sequence[Features], how: How) -> list[Answer]:
    """An answer to each prompt, in their order."""
    found = dict(stream(vlm, prompts, seen, how))
    return [found[i] for i in range(len(prompts))]


def stream(
    vlm: Vlm, prompts: Prompts, seen: Sequence[Features], how: How,
    dice: Sequence[int] | None = None,
) -> Generator[tuple[int, Answer]]:  # fmt: skip
    """Place and answer of each prompt, as they end.

    dice  a number for each prompt, which with how.seed decides what is drawn; else its place
    """
    started = perf_counter()
    shared = _shared(prompts, vlm.image_id)
    prefix = prefix_of(vlm, prompts[0][:shared]) if shared else None
    mx.eval(vlm.model.parameters())
    begin = [
        partial(Row, prompt, one, prompt.index(vlm.image_id), how, i if dice is None else dice[i])
        for i, (prompt, one) in enumerate(zip(prompts, seen, strict=True))
    ]
    lanes = min(LANES, how.rows, len(prompts))
    busy, each = set(range(lanes)), (perf_counter() - started) / len(prompts)
    works = [
        partial(_answers, vlm, dict(list(enumerate(begin))[lane::lanes]), prefix,
                (how.rows + lanes - 1 - lane) // lanes, busy, lane)
        for lane in range(lanes)
    ]  # fmt: skip
    for place, answer in side_by_side(works):
        yield place, replace(answer, seconds=answer.seconds + each)


def _answers(
    vlm: Vlm, begin: dict[int, Callable[[], Row]], prefix: Kept | None, rows: int,
    busy: set[int], lane: int,
) -> Iterator[tuple[int, Answer] | None]:  # fmt: skip
    """Those of one lane; rows that end make room for waiting ones; a None a step.

    busy  the lanes that are still at work, which share the time
    """
    waiting = deque(begin)
    decoder = Decoder(vlm, min(rows, len(begin)))
    places: dict[Row, int] = {}
    while waiting or decoder.live:
        started = perf_counter()
        while waiting and decoder.free:
            row = begin[waiting[0]]()
            decoder.admit(row, prefix)
            places[row] = waiting.popleft()
        asked = decoder.live
        ended = decoder.step()
        for row in asked:
            row.seconds += (perf_counter() - started) / len(asked) / len(busy)
        yield from ((places.pop(row), row.answer(vlm)) for row in ended)
        yield None
    busy.discard(lane)


def _shared(prompts: Prompts, image_id: int) -> int:
    """Tokens that all prompts begin with, up to the first photograph; 0 for a single prompt."""
    if len(prompts) < 2:
        return 0
    return min(len(commonprefix([list(p) for p in prompts])), prompts[0].index(image_id))


def prefix_of(vlm: Vlm, ids: Sequence[int]) -> Kept:
    """Keys and values of tokens that prompts begin with, evaluated."""
    text = vlm.model.language_model.model
    slots = Slots(text.layers, 1)
    slots.lay_out([len(ids)])
    where = mx.broadcast_to(mx.arange(len(ids)), (3, 1, len(ids)))
    layers(text, text.embed_tokens(mx.array([list(ids)])), where, cache=slots.layers)
    return slots.taken()
