"""Answers to many prompts together: each at its own length, what all begin with computed once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from os.path import commonprefix
from time import perf_counter

import mlx.core as mx

from mondrian.model.batch_generator import BatchGenerator, SamplingParams, SequenceState
from mondrian.model.device import NUM_STREAMS
from mondrian.model.kv_cache import BatchKVCache, PrefixCache
from mondrian.model.language import Features, run_decoder_layers
from mondrian.model.streams import run_parallel
from mondrian.model.vlm import Generation, Vlm

Prompts = Sequence[Sequence[int]]


def generate(
    vlm: Vlm, prompts: Prompts, features: Sequence[Features], sampling_params: SamplingParams
) -> list[Generation]:
    """An answer to each prompt, in their order."""
    answers = dict(stream_generate(vlm, prompts, features, sampling_params))
    return [answers[i] for i in range(len(prompts))]


def stream_generate(
    vlm: Vlm,
    prompts: Prompts,
    features: Sequence[Features],
    sampling_params: SamplingParams,
    seeds: Sequence[int] | None = None,
) -> Generator[tuple[int, Generation]]:
    """Place and answer of each prompt, as they end.

    seeds  a number for each prompt, which with how.seed decides what is drawn; else its place
    """
    started = perf_counter()
    shared = _count_shared_tokens(prompts, vlm.image_id)
    prefix = compute_prefix_cache(vlm, prompts[0][:shared]) if shared else None
    mx.eval(vlm.model.parameters())
    begin = [
        partial(
            SequenceState,
            prompt,
            image_features,
            prompt.index(vlm.image_id),
            sampling_params,
            i if seeds is None else seeds[i],
        )
        for i, (prompt, image_features) in enumerate(zip(prompts, features, strict=True))
    ]
    lanes = min(NUM_STREAMS, sampling_params.max_sequences, len(prompts))
    busy, setup_seconds = set(range(lanes)), (perf_counter() - started) / len(prompts)
    works = [
        partial(
            _generate_on_stream,
            vlm,
            dict(list(enumerate(begin))[lane::lanes]),
            prefix,
            (sampling_params.max_sequences + lanes - 1 - lane) // lanes,
            busy,
            lane,
        )
        for lane in range(lanes)
    ]
    for place, answer in run_parallel(works):
        yield place, replace(answer, seconds=answer.seconds + setup_seconds)


def _generate_on_stream(
    vlm: Vlm,
    begin: dict[int, Callable[[], SequenceState]],
    prefix: PrefixCache | None,
    rows: int,
    busy: set[int],
    lane: int,
) -> Iterator[tuple[int, Generation] | None]:
    """Those of one lane; rows that end make room for waiting ones; a None a step.

    busy  the lanes that are still at work, which share the time
    """
    waiting = deque(begin)
    decoder = BatchGenerator(vlm, min(rows, len(begin)))
    places: dict[SequenceState, int] = {}
    while waiting or decoder.active_sequences:
        started = perf_counter()
        while waiting and decoder.has_free_slot:
            row = begin[waiting[0]]()
            decoder.insert(row, prefix)
            places[row] = waiting.popleft()
        active_rows = decoder.active_sequences
        ended = decoder.step()
        for row in active_rows:
            row.seconds += (perf_counter() - started) / len(active_rows) / len(busy)
        yield from ((places.pop(row), row.to_generation(vlm)) for row in ended)
        yield None
    busy.discard(lane)


def _count_shared_tokens(prompts: Prompts, image_id: int) -> int:
    """Tokens that all prompts begin with, up to the first photograph; 0 for a single prompt."""
    if len(prompts) < 2:
        return 0
    return min(len(commonprefix([list(p) for p in prompts])), prompts[0].index(image_id))


def compute_prefix_cache(vlm: Vlm, ids: Sequence[int]) -> PrefixCache:
    """Keys and values of tokens that prompts begin with, evaluated."""
    text = vlm.model.language_model.model
    slots = BatchKVCache(text.layers, 1)
    slots.prepare_step([len(ids)])
    position_ids = mx.broadcast_to(mx.arange(len(ids)), (3, 1, len(ids)))
    run_decoder_layers(
        text, text.embed_tokens(mx.array([list(ids)])), position_ids, cache=slots.layers
    )
    return slots.export_prefix()
