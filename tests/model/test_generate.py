"""Answers generated together against each alone, on mondrian-tiny."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import row_messages
from mondrian.critique.schema import is_schema_valid
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.generate import generate, stream_generate
from mondrian.model.streams import run_parallel
from mondrian.model.vlm import Vlm, encode_image, prompt_ids

Asked = tuple[list[list[int]], list[Any]]
LIMIT = 700


@pytest.fixture(scope="module")
def asked(tiny: Vlm, photos: list[Image.Image]) -> Asked:
    """Prompts of three lengths about photographs of two sizes."""
    told = ["You are Ansel Adams.", "You are Ansel Adams. You love bold color.", "You are brief."]
    seen = [
        encode_image(tiny, resize_to_fit(p, 4096, 20_480 if i % 2 else 12_000))
        for i, p in enumerate(photos)
    ]
    prompts = [
        prompt_ids(tiny, row_messages(told[i % 3], "")[:-1], one) for i, one in enumerate(seen)
    ]
    assert len({len(p) for p in prompts}) > 3
    return prompts, seen


@pytest.mark.slow
def test_answers_given_together_are_those_given_alone(base_vlm: Vlm, asked: Asked) -> None:
    prompts, seen = asked
    alone = [
        generate(base_vlm, [p], [s], SamplingParams(120))[0].text
        for p, s in zip(prompts, seen, strict=True)
    ]
    for rows in (1, 3, 6):  # rows come as others end, or all at once
        assert [
            a.text for a in generate(base_vlm, prompts, seen, SamplingParams(120, rows))
        ] == alone


@pytest.mark.slow
def test_whole_answers_end_by_themselves_and_their_times_add_up(
    base_vlm: Vlm, asked: Asked
) -> None:
    started = perf_counter()
    answers = generate(base_vlm, *asked, SamplingParams(LIMIT, 3))
    wall = perf_counter() - started
    assert 0.5 * wall < sum(a.seconds for a in answers) < 1.05 * wall
    assert all(a.ended and is_schema_valid(a.text) for a in answers)
    assert all(a.passes == a.num_tokens + 1 for a in answers)
    cut = generate(base_vlm, *asked, SamplingParams(9, 4))
    assert [(a.num_tokens, a.ended) for a in cut] == [(9, False)] * 6


@pytest.mark.slow
def test_constrained_answers_comply_with_fewer_passes(base_vlm: Vlm, asked: Asked) -> None:
    form = CritiqueGrammar(base_vlm.processor.tokenizer, 1280, LIMIT)
    answers = generate(base_vlm, *asked, SamplingParams(LIMIT, 6, form, temperature=1.0, seed=3))
    assert all(a.ended and is_schema_valid(a.text) for a in answers)
    assert sum(a.passes for a in answers) < 0.75 * sum(a.num_tokens + 1 for a in answers)
    free = generate(base_vlm, *asked, SamplingParams(LIMIT, 6))
    held = generate(base_vlm, *asked, SamplingParams(LIMIT, 6, form))
    assert [a.text for a in held] == [a.text for a in free]
    tight = CritiqueGrammar(base_vlm.processor.tokenizer, 1280, form.after[0][0])
    cut = generate(base_vlm, *asked, SamplingParams(tight.limit, 6, tight, temperature=3.0))
    assert all(a.ended and is_schema_valid(a.text) and a.num_tokens <= tight.limit for a in cut)


@pytest.mark.slow
def test_a_draw_does_not_depend_on_the_other_rows(base_vlm: Vlm, asked: Asked) -> None:
    prompts, seen = asked
    how = SamplingParams(40, 6, temperature=1.0, seed=5)
    together = [a.text for a in generate(base_vlm, prompts, seen, how)]
    assert len(set(together)) == 6
    some = dict(stream_generate(base_vlm, prompts[3:], seen[3:], how, seeds=[3, 4, 5]))
    assert [some[i].text for i in range(3)] == together[3:]
    other = SamplingParams(40, 6, temperature=1.0, seed=6)
    assert [a.text for a in generate(base_vlm, prompts, seen, other)] != together


def counting(upto: int, fail: bool = False) -> Iterator[int]:
    yield from range(upto)
    if fail:
        raise ValueError("broken")


def test_lanes_give_all_that_they_yield_and_raise_what_they_raise() -> None:
    assert sorted(run_parallel([partial(counting, 3), partial(counting, 2)])) == [0, 0, 1, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        list(run_parallel([partial(counting, 3), partial(counting, 2, True)]))
    endless: list[Callable[[], Iterator[int | None]]] = [
        partial(counting, 10**9),
        partial(repeat, None),
    ]
    for one in run_parallel(endless):
        assert one == 0
        break  # and both stop, the one that tells nothing too
    alone: list[int | None] = [1, None, 2]
    assert list(run_parallel([partial(iter, alone)])) == [1, 2]


@pytest.mark.slow
def test_a_stream_that_is_left_stops(base_vlm: Vlm, asked: Asked) -> None:
    answers = stream_generate(base_vlm, *asked, SamplingParams(LIMIT, 2))
    place, answer = next(answers)
    assert place in range(6)
    assert answer.num_tokens > 50
    answers.close()
    assert np.isfinite(generate(base_vlm, *asked, SamplingParams(5))[0].seconds)
