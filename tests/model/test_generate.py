"""Answers generated together against each alone, on mondrian-tiny."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mondrian.core.images import fit
from mondrian.critique.prompt import row_messages
from mondrian.critique.schema import complies
from mondrian.model.batch_generator import How
from mondrian.model.constrained import Form
from mondrian.model.generate import generate, stream
from mondrian.model.streams import side_by_side
from mondrian.model.vlm import Vlm, encode, prompt_ids

Asked = tuple[list[list[int]], list[Any]]
LIMIT = 700


@pytest.fixture(scope="module")
def asked(tiny: Vlm, photos: list[Image.Image]) -> Asked:
    """Prompts of three lengths about photographs of two sizes."""
    told = ["You are Ansel Adams.", "You are Ansel Adams. You love bold color.", "You are brief."]
    seen = [encode(tiny, fit(p, 4096, 20_480 if i % 2 else 12_000)) for i, p in enumerate(photos)]
    prompts = [
        prompt_ids(tiny, row_messages(told[i % 3], "")[:-1], one) for i, one in enumerate(seen)
    ]
    assert len({len(p) for p in prompts}) > 3
    return prompts, seen


@pytest.mark.slow
def test_answers_given_together_are_those_given_alone(plain: Vlm, asked: Asked) -> None:
    prompts, seen = asked
    alone = [
        generate(plain, [p], [s], How(120))[0].text for p, s in zip(prompts, seen, strict=True)
    ]
    for rows in (1, 3, 6):  # rows come as others end, or all at once
        assert [a.text for a in generate(plain, prompts, seen, How(120, rows))] == alone


@pytest.mark.slow
def test_whole_answers_end_by_themselves_and_their_times_add_up(plain: Vlm, asked: Asked) -> None:
    started = perf_counter()
    answers = generate(plain, *asked, How(LIMIT, 3))
    wall = perf_counter() - started
    assert 0.5 * wall < sum(a.seconds for a in answers) < 1.05 * wall
    assert all(a.ended and complies(a.text) for a in answers)
    assert all(a.passes == a.tokens + 1 for a in answers)
    cut = generate(plain, *asked, How(9, 4))
    assert [(a.tokens, a.ended) for a in cut] == [(9, False)] * 6


@pytest.mark.slow
def test_constrained_answers_comply_with_fewer_passes(plain: Vlm, asked: Asked) -> None:
    form = Form(plain.processor.tokenizer, 1280, LIMIT)
    answers = generate(plain, *asked, How(LIMIT, 6, form, temperature=1.0, seed=3))
    assert all(a.ended and complies(a.text) for a in answers)
    assert sum(a.passes for a in answers) < 0.75 * sum(a.tokens + 1 for a in answers)
    free = generate(plain, *asked, How(LIMIT, 6))
    held = generate(plain, *asked, How(LIMIT, 6, form))
    assert [a.text for a in held] == [a.text for a in free]
    tight = Form(plain.processor.tokenizer, 1280, form.after[0][0])
    cut = generate(plain, *asked, How(tight.limit, 6, tight, temperature=3.0))
    assert all(a.ended and complies(a.text) and a.tokens <= tight.limit for a in cut)


@pytest.mark.slow
def test_a_draw_does_not_depend_on_the_other_rows(plain: Vlm, asked: Asked) -> None:
    prompts, seen = asked
    how = How(40, 6, temperature=1.0, seed=5)
    together = [a.text for a in generate(plain, prompts, seen, how)]
    assert len(set(together)) == 6
    some = dict(stream(plain, prompts[3:], seen[3:], how, dice=[3, 4, 5]))
    assert [some[i].text for i in range(3)] == together[3:]
    other = How(40, 6, temperature=1.0, seed=6)
    assert [a.text for a in generate(plain, prompts, seen, other)] != together


def counting(upto: int, fail: bool = False) -> Iterator[int]:
    yield from range(upto)
    if fail:
        raise ValueError("broken")


def test_lanes_give_all_that_they_yield_and_raise_what_they_raise() -> None:
    assert sorted(side_by_side([partial(counting, 3), partial(counting, 2)])) == [0, 0, 1, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        list(side_by_side([partial(counting, 3), partial(counting, 2, True)]))
    endless: list[Callable[[], Iterator[int | None]]] = [
        partial(counting, 10**9), partial(repeat, None)
    ]  # fmt: skip
    for one in side_by_side(endless):
        assert one == 0
        break  # and both stop, the one that tells nothing too
    alone: list[int | None] = [1, None, 2]
    assert list(side_by_side([partial(iter, alone)])) == [1, 2]


@pytest.mark.slow
def test_a_stream_that_is_left_stops(plain: Vlm, asked: Asked) -> None:
    answers = stream(plain, *asked, How(LIMIT, 2))
    place, answer = next(answers)
    assert place in range(6)
    assert answer.tokens > 50
    answers.close()
    assert np.isfinite(generate(plain, *asked, How(5))[0].seconds)
