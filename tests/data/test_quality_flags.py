import json
from collections.abc import Callable
from typing import Any

import pytest

from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.jobs import Job
from mondrian.data.quality_flags import Vocabulary, find_record_flags, words_hash
from mondrian.sample.corruptions import (
    EXAMPLE_SCORES,
    build_example_prompt,
    render_html_cards,
    replace_scores,
)
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique


def flags(critique: Critique, *repairs: str, **columns: Any) -> tuple[str, ...]:
    job = Job(id="1", filename="a.jpg", **columns)
    return find_record_flags(job, ParsedCritique(critique, "json", repairs), overall_tolerance=0.15)


def test_an_honest_critique_bears_no_flag(critique: Critique) -> None:
    assert flags(critique, prompt=build_example_prompt(), model="qwen3-vl:8b") == ()


@pytest.mark.parametrize("place", ["prompt", "llm_prompt", "llm_outputs", "html"])
def test_the_scores_of_the_example_are_known_wherever_the_prompt_is(
    critique: Critique, place: str
) -> None:
    copied = replace_scores(critique, EXAMPLE_SCORES, 7.4)
    prompt = build_example_prompt()
    if place == "html":
        place, prompt = "prompt", f"Answer like this: {render_html_cards(copied)}"
    column = json.dumps({"prompt": prompt}) if place == "llm_outputs" else prompt
    assert flags(copied, **{place: column}) == ("template_scores",)
    assert flags(critique, **{place: column}) == ()


@pytest.mark.parametrize(
    "columns",
    [
        {"mode": "lora"},
        {"mode": "lora+rag"},
        {"adapter": "models/old"},
        {"model_used": "ab_test_fine_tuned"},
        {"model": "qwen3-vl-4b-lora-ansel"},
    ],
)
def test_a_critique_by_an_adapter_is_known(critique: Critique, columns: dict[str, str]) -> None:
    assert flags(critique, **columns) == ("made_by_adapter",)


def test_repeated_advice_and_a_far_overall_score_and_a_dimension_twice(critique: Critique) -> None:
    first, second, *rest = critique.dimensions
    again = second.model_copy(update={"recommendation": f" {first.recommendation.upper()} "})
    repeated = critique.model_copy(update={"dimensions": (first, again, *rest)})
    assert flags(repeated) == ("repeated_advice",)
    mean = sum(critique.scores()) / 7
    for off, wanted in ((0.1, ()), (0.3, ("overall_off_mean",))):
        far = critique.model_copy(update={"overall_score": mean + off})
        assert flags(far) == wanted
    assert flags(critique, "dimension_twice") == ("dimension_twice",)


@pytest.mark.parametrize(
    "columns",
    [
        {"model": "Explora-7B"},
        {"model": "flora-vl"},
        {"adapter": "none"},
        {"model_used": "base"},
    ],
)
def test_a_critique_by_a_base_model_is_not_an_adapters(
    critique: Critique, columns: dict[str, str]
) -> None:
    assert flags(critique, **columns) == ()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: 'Give each a "score": 8.5 (one decimal).\n' + text,
        lambda text: "Grade from 1/10 to 10/10.\n" + text,
        lambda text: text.replace(
            '{"name": "Lighting"',
            '{"name": "Subject Isolation", "score": 5, "comment": "a"}, {"name": "Lighting"',
        ),
    ],
)
@pytest.mark.parametrize("form", [serialize_critique, render_html_cards])
def test_the_example_is_known_among_other_numbers(
    critique: Critique, spoil: Callable[[str], str], form: Callable[[Critique], str]
) -> None:
    copied = replace_scores(critique, EXAMPLE_SCORES, 7.4)
    prompt = spoil(form(copied))
    assert flags(copied, prompt=prompt) == ("template_scores",)
    assert flags(critique, prompt=prompt) == ()


@pytest.mark.parametrize("form", [serialize_critique, render_html_cards])
def test_a_text_is_the_same_under_other_scores_and_spaces(
    critique: Critique, form: Callable[[Critique], str]
) -> None:
    hashes = set()
    for scores in ((1, 2, 3, 4, 5, 6, 7), (7, 1, 6, 2, 5, 3, 4)):
        found = parse_critique(form(replace_scores(critique, scores, 4.0)).replace("the ", "THE  "))
        assert isinstance(found, ParsedCritique)
        hashes.add(words_hash(found.critique))
    assert hashes == {words_hash(critique)}
    assert words_hash(write_critique("ansel", draw_scene(5, 9))) not in hashes


def test_descriptions_of_one_thing_in_other_words_are_alike() -> None:
    tower = [
        "A white lighthouse stands on a rocky cliff above the stormy sea.",
        "The lighthouse, white against the storm, on its cliff of rock over the sea.",
        "On a rocky cliff a lighthouse in white faces stormy waves.",
    ]
    others = [
        "A portrait of an old woman with a red scarf looking at the camera.",
        "Three children play football in a narrow street at noon.",
        "A bowl of oranges on a wooden table beside a window.",
        "A dog sleeps in the grass of a summer garden.",
    ]
    vocabulary = Vocabulary([("tower", text) for text in tower] + [(text, text) for text in others])
    assert not vocabulary.has_unrelated_descriptions(tower, 1)
    assert vocabulary.has_unrelated_descriptions(others, 3)
    assert not vocabulary.has_unrelated_descriptions(tower + others, 5)
