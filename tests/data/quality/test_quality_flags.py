import json
from collections.abc import Callable
from typing import Any

import pytest

from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.jobs import Job
from mondrian.data.quality.quality_flags import find_record_flags, words_hash
from mondrian.sample.corruptions import (
    EXAMPLE_SCORES,
    build_example_prompt,
    render_html_cards,
    replace_scores,
)
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique


def find_flags(critique: Critique, *repairs: str, **columns: Any) -> tuple[str, ...]:
    job = Job(id="1", filename="a.jpg", **columns)
    return find_record_flags(job, ParsedCritique(critique, "json", repairs), tolerance=0.5)


def test_an_honest_critique_has_no_flag(critique: Critique) -> None:
    assert find_flags(critique, prompt=build_example_prompt(), model="qwen3-vl:8b") == ()


@pytest.mark.parametrize("form", ["json", "cards"])
def test_the_overall_score_may_be_the_mean_of_eight(critique: Critique, form: str) -> None:
    scored = replace_scores(critique, (8, 8, 8, 8, 8, 8, 8), 7.2)
    eighth = {"name": "Subject Isolation", "comment": "Lost.", "recommendation": "Step closer."}
    flags = {}
    for score in (1.6, 8):
        content = json.loads(serialize_critique(scored))
        content["dimensions"].append(eighth | {"score": score})
        text = json.dumps(content)
        if form == "cards":
            card = f'<div class="feedback-card"><h3>Subject Isolation ({score}/10)</h3>'
            card += '<p class="feedback-comment">Lost.</p></div><div class="overall-grade-box">'
            text = render_html_cards(scored).replace('<div class="overall-grade-box">', card)
            text = text if card in text else text.replace('<p class="overall-grade">', card, 1)
        parsed = parse_critique(text)
        assert isinstance(parsed, ParsedCritique)
        assert parsed.extra_scores == (score,)
        flags[score] = find_record_flags(Job(id="1", filename="a.jpg"), parsed, tolerance=0.5)
    assert flags == {1.6: (), 8: ("overall_off_mean",)}


@pytest.mark.parametrize("column", ["prompt", "llm_prompt", "llm_outputs", "html"])
def test_example_scores_are_recognized_in_each_column_of_the_prompt(
    critique: Critique, column: str
) -> None:
    copied = replace_scores(critique, EXAMPLE_SCORES, 7.4)
    prompt = build_example_prompt()
    if column == "html":
        column, prompt = "prompt", f"Answer like this: {render_html_cards(copied)}"
    text = json.dumps({"prompt": prompt}) if column == "llm_outputs" else prompt
    assert find_flags(copied, **{column: text}) == ("template_scores",)
    assert find_flags(critique, **{column: text}) == ()


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
def test_a_critique_by_an_adapter_is_recognized(
    critique: Critique, columns: dict[str, str]
) -> None:
    assert find_flags(critique, **columns) == ("made_by_adapter",)


def test_faults_of_one_critique_are_flagged(critique: Critique) -> None:
    first, second, *rest = critique.dimensions
    repeating = second.model_copy(update={"recommendation": f" {first.recommendation.upper()} "})
    repeated = critique.model_copy(update={"dimensions": (first, repeating, *rest)})
    assert find_flags(repeated) == ("repeated_advice",)
    mean = sum(critique.scores()) / 7
    for difference, expected in ((0.4, ()), (0.6, ("overall_off_mean",))):
        off_mean = critique.model_copy(update={"overall_score": mean + difference})
        assert find_flags(off_mean) == expected
    assert find_flags(critique, "dimension_twice") == ("dimension_twice",)


@pytest.mark.parametrize(
    "columns",
    [
        {"model": "Explora-7B"},
        {"model": "flora-vl"},
        {"adapter": "none"},
        {"model_used": "base"},
    ],
)
def test_a_critique_by_a_base_model_is_not_flagged(
    critique: Critique, columns: dict[str, str]
) -> None:
    assert find_flags(critique, **columns) == ()


@pytest.mark.parametrize(
    "add_numbers",
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
def test_the_example_is_recognized_among_other_numbers(
    critique: Critique, add_numbers: Callable[[str], str], form: Callable[[Critique], str]
) -> None:
    copied = replace_scores(critique, EXAMPLE_SCORES, 7.4)
    prompt = add_numbers(form(copied))
    assert find_flags(copied, prompt=prompt) == ("template_scores",)
    assert find_flags(critique, prompt=prompt) == ()


@pytest.mark.parametrize("form", [serialize_critique, render_html_cards])
def test_a_text_has_the_same_hash_with_other_scores_and_spaces(
    critique: Critique, form: Callable[[Critique], str]
) -> None:
    hashes = set()
    for scores in ((1, 2, 3, 4, 5, 6, 7), (7, 1, 6, 2, 5, 3, 4)):
        parsed = parse_critique(
            form(replace_scores(critique, scores, 4.0)).replace("the ", "THE  ")
        )
        assert isinstance(parsed, ParsedCritique)
        hashes.add(words_hash(parsed.critique))
    assert hashes == {words_hash(critique)}
    assert words_hash(write_critique("ansel", draw_scene(5, 9))) not in hashes
