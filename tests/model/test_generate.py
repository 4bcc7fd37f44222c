"""Batched generation compared with one completion at a time, on mondrian-tiny."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import pytest

from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import build_row_messages
from mondrian.critique.schema import is_schema_valid
from mondrian.model import generate as generation
from mondrian.model.batch_generator import BatchGenerator, SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.device import DEVICE
from mondrian.model.generate import generate, stream_generate
from mondrian.model.streams import run_parallel
from mondrian.model.vlm import Vlm, encode_image, tokenize_prompt
from mondrian.sample.scene import draw_scene, render

Inputs = tuple[list[list[int]], list[Any]]
LIMIT = 700


@pytest.fixture(scope="module")
def inputs(tiny: Vlm) -> Inputs:
    """Prompts of three lengths about photos of two sizes, and the photos' features.

    The photos are of scenes that mondrian-tiny answers with schema-valid text, also unconstrained.
    """
    photos = [render(draw_scene(2, i), 320, 256) for i in range(6)]
    personas = [
        "You are Ansel Adams.",
        "You are Ansel Adams. You love bold color.",
        "You are brief.",
    ]
    features = [
        encode_image(tiny, resize_to_fit(p, 4096, 20_480 if i % 2 else 12_000))
        for i, p in enumerate(photos)
    ]
    prompts = [
        tokenize_prompt(tiny, build_row_messages(personas[i % 3], "")[:-1], photo_features)
        for i, photo_features in enumerate(features)
    ]
    assert len({len(p) for p in prompts}) > 3
    return prompts, features


@pytest.mark.device
@pytest.mark.slow
@pytest.mark.parametrize("has_one_persona", [False, True])  # the prompts then share its tokens
@pytest.mark.parametrize("num_streams", [1, 2])
def test_batched_completions_equal_single_ones(
    base_vlm: Vlm,
    inputs: Inputs,
    num_streams: int,
    has_one_persona: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if num_streams > 1:
        monkeypatch.setattr(generation, "_STREAM_WORK", 1)
    prompts, features = inputs
    if has_one_persona:
        messages = build_row_messages("You are Ansel Adams. " * 40, "")[:-1]
        prompts = [tokenize_prompt(base_vlm, messages, photo) for photo in features]
    single = [
        generate(base_vlm, [p], [f], SamplingParams(120))[0].text
        for p, f in zip(prompts, features, strict=True)
    ]
    for rows in (1, 3, 6):  # sequences start as others end, or all at once
        batched = generate(base_vlm, prompts, features, SamplingParams(120, rows))
        assert [completion.text for completion in batched] == single


def test_only_batches_with_enough_work_are_split_over_streams(tiny: Vlm) -> None:
    counts = [generation._count_streams(tiny, sequences) for sequences in (1, 32, 64, 1000)]
    assert counts == [1, 1, DEVICE.num_streams, DEVICE.num_streams]


@pytest.mark.slow
def test_whole_completions_end_and_their_times_add_up(
    base_vlm: Vlm, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_steps, step = [0], BatchGenerator.step

    def count_step(batch: BatchGenerator) -> Any:
        num_steps[0] += 1
        return step(batch)

    with monkeypatch.context() as patch:  # a step takes a second, and nothing else takes any
        patch.setattr(BatchGenerator, "step", count_step)
        patch.setattr(generation, "perf_counter", lambda: float(num_steps[0]))
        patch.setattr(generation, "DEVICE", replace(DEVICE, num_streams=1))
        completions = generate(base_vlm, *inputs, SamplingParams(LIMIT, 3))
    assert sum(c.seconds for c in completions) == pytest.approx(num_steps[0])
    assert all(c.ended and is_schema_valid(c.text) for c in completions)
    assert all(c.passes == c.num_tokens + 1 for c in completions)
    cut = generate(base_vlm, *inputs, SamplingParams(9, 4))
    assert [(c.num_tokens, c.ended) for c in cut] == [(9, False)] * 6


@pytest.mark.slow
def test_constrained_completions_are_valid_with_fewer_passes(base_vlm: Vlm, inputs: Inputs) -> None:
    grammar = CritiqueGrammar(base_vlm.processor.tokenizer, 1280, LIMIT)
    sampled = generate(
        base_vlm, *inputs, SamplingParams(LIMIT, 6, grammar, temperature=1.0, seed=3)
    )
    assert all(c.ended and is_schema_valid(c.text) for c in sampled)
    assert sum(c.passes for c in sampled) < 0.75 * sum(c.num_tokens + 1 for c in sampled)
    free = generate(base_vlm, *inputs, SamplingParams(LIMIT, 6))
    constrained = generate(base_vlm, *inputs, SamplingParams(LIMIT, 6, grammar))
    assert [c.text for c in constrained] == [c.text for c in free]
    tight = CritiqueGrammar(base_vlm.processor.tokenizer, 1280, grammar.needed_after[0][0])
    short = generate(base_vlm, *inputs, SamplingParams(tight.max_tokens, 6, tight, temperature=3.0))
    assert all(
        c.ended and is_schema_valid(c.text) and c.num_tokens <= tight.max_tokens for c in short
    )


@pytest.mark.slow
def test_a_sample_does_not_depend_on_other_sequences(base_vlm: Vlm, inputs: Inputs) -> None:
    prompts, features = inputs
    sampling_params = SamplingParams(40, 6, temperature=1.0, seed=5)
    texts = [c.text for c in generate(base_vlm, prompts, features, sampling_params)]
    assert len(set(texts)) == 6
    last = dict(
        stream_generate(base_vlm, prompts[3:], features[3:], sampling_params, seeds=[3, 4, 5])
    )
    assert [last[i].text for i in range(3)] == texts[3:]
    other_seed = SamplingParams(40, 6, temperature=1.0, seed=6)
    assert [c.text for c in generate(base_vlm, prompts, features, other_seed)] != texts


def count_to(end: int, fail: bool = False) -> Iterator[int]:
    yield from range(end)
    if fail:
        raise ValueError("broken")


def test_parallel_jobs_yield_all_results_and_raise_errors() -> None:
    assert sorted(run_parallel([partial(count_to, 3), partial(count_to, 2)])) == [0, 0, 1, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        list(run_parallel([partial(count_to, 3), partial(count_to, 2, True)]))
    endless: list[Callable[[], Iterator[int | None]]] = [
        partial(count_to, 10**9),
        partial(repeat, None),
    ]
    for result in run_parallel(endless):
        assert result == 0
        break  # both jobs stop, also the one that yields nothing
    values: list[int | None] = [1, None, 2]
    assert list(run_parallel([partial(iter, values)])) == [1, 2]


@pytest.mark.slow
def test_a_closed_stream_stops_generating(base_vlm: Vlm, inputs: Inputs) -> None:
    completions = stream_generate(base_vlm, *inputs, SamplingParams(LIMIT, 2))
    index, completion = next(completions)
    assert index in range(6)
    assert completion.num_tokens > 50
    completions.close()
    assert np.isfinite(generate(base_vlm, *inputs, SamplingParams(5))[0].seconds)
