"""Generate completions of many prompts in batches; a common prefix is computed once."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mondrian.model.batch_generator import BatchGenerator, SamplingParams, SequenceState
from mondrian.model.device import DEVICE
from mondrian.model.kv_cache import BatchKVCache, PrefixCache
from mondrian.model.language import Features, run_decoder_layers, shared_prefix_length
from mondrian.model.streams import run_parallel
from mondrian.model.vlm import Generation, Vlm

# Weights times sequences that a stream should have: with fewer, two streams took as long as one or
# longer with mondrian-tiny on two cores, with more up to 14 % less.
_STREAM_WORK = 20_000_000
Prompts = Sequence[Sequence[int]]


def generate(
    vlm: Vlm, prompts: Prompts, features: Sequence[Features], sampling_params: SamplingParams
) -> list[Generation]:
    """Return a completion of each prompt, in order."""
    completions = dict(stream_generate(vlm, prompts, features, sampling_params))
    return [completions[i] for i in range(len(prompts))]


def stream_generate(
    vlm: Vlm,
    prompts: Prompts,
    features: Sequence[Features],
    sampling_params: SamplingParams,
    seeds: Sequence[int] | None = None,
) -> Generator[tuple[int, Generation]]:
    """Yield index and completion of each prompt as they end; its seed is its index by default."""
    started = perf_counter()
    prefix_length = shared_prefix_length(prompts, vlm.image_id)
    prefix = compute_prefix_cache(vlm, prompts[0][:prefix_length]) if prefix_length else None
    mx.eval(vlm.model.parameters())
    seeds = range(len(prompts)) if seeds is None else seeds
    queue: list[tuple[int, Callable[[], SequenceState]]] = [
        (i, partial(SequenceState, ids, f, ids.index(vlm.image_id), sampling_params, seed))
        for i, (ids, f, seed) in enumerate(zip(prompts, features, seeds, strict=True))
    ]
    max_sequences = sampling_params.max_sequences
    count = _count_streams(vlm, min(max_sequences, len(prompts)))
    running, streams = list(range(count)), []
    for i in range(count):
        waiting = deque(queue[i::count])
        slots = min((max_sequences + count - 1 - i) // count, len(waiting))
        batch = BatchGenerator(vlm, slots, prefix)
        streams.append(partial(_run_stream, batch, waiting, running))
    setup_seconds = (perf_counter() - started) / len(prompts)
    for index, completion in run_parallel(streams):
        yield index, replace(completion, seconds=completion.seconds + setup_seconds)


def _count_streams(vlm: Vlm, sequences: int) -> int:
    """Return the number of streams that a batch is split over.

    Only one thread at a time runs Python, to build its step. If MLX computes a step in less time
    than Python takes to build it, a second stream would wait for the first.
    """
    parameters: Any = tree_flatten(vlm.model.language_model.parameters())
    num_weights = sum(array.size for _, array in parameters)
    return max(1, min(DEVICE.num_streams, sequences, sequences * num_weights // _STREAM_WORK))


def _run_stream(
    batch: BatchGenerator,
    waiting: deque[tuple[int, Callable[[], SequenceState]]],
    running: list[int],
) -> Iterator[tuple[int, Generation] | None]:
    """Yield completions, and None after each step; waiting sequences replace ended ones.

    waiting  index and constructor of each sequence
    running  as many as there are streams at work, which share the time
    """
    indices: dict[SequenceState, int] = {}
    while waiting or batch.active_sequences:
        started = perf_counter()
        while waiting and batch.has_free_slot:
            index, create_sequence = waiting.popleft()
            seq = create_sequence()
            batch.insert(seq)
            indices[seq] = index
        active = batch.active_sequences
        ended = batch.step()
        for seq in active:
            seq.seconds += (perf_counter() - started) / len(active) / len(running)
        yield from ((indices.pop(seq), seq.to_generation(batch.vlm)) for seq in ended)
        yield None
    running.pop()


def compute_prefix_cache(vlm: Vlm, ids: Sequence[int]) -> PrefixCache:
    """Return the evaluated keys and values of tokens that prompts begin with."""
    text = vlm.model.language_model.model
    cache = BatchKVCache(text.layers, 1)
    cache.prepare_step([len(ids)])
    position_ids = mx.broadcast_to(mx.arange(len(ids)), (3, 1, len(ids)))
    h = text.embed_tokens(mx.array([list(ids)]))
    run_decoder_layers(text, h, position_ids, cache=cache.layers)
    return cache.export_prefix()
