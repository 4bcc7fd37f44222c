import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.schema import DIMENSIONS, FILLER_SCORE, Critique, serialize_critique
from mondrian.data.quality.quality_flags import FLAGS
from mondrian.sample.corruptions import CORRUPTIONS, Corruption, render_html_cards
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique

MAX_SECONDS = 10.0  # under 1 on two idle cores; minutes if a regular expression backtracks


def find_repairs(text: str) -> tuple[str, ...]:
    result = parse_critique(text)
    assert isinstance(result, ParsedCritique), result
    return result.repairs


def reject(text: str, **options: Any) -> Rejection:
    result = parse_critique(text, **options)
    assert isinstance(result, Rejection), result
    return result


def edit(critique: Critique, change: Callable[[dict[str, Any]], Any]) -> str:
    value = json.loads(serialize_critique(critique))
    change(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("template", "repairs"),
    [
        ("{}", ()),
        ("```json\n{}\n```", ("fence",)),
        ("# Ansel\n\n## Full Analysis\n{}\n", ("text_before",)),
        ("Okay, let me look {closely}.\n{}", ("text_before",)),
        ("<think>Okay {now}.</think>{}", ("thoughts",)),
        ("<thought>\nwide\n</thought>\n```\n{}\n```", ("thoughts", "fence")),
        ("{}}", ("extra_brace",)),
        ("{}\nI hope this helps!", ("text_after",)),
    ],
)
def test_json_is_read_from_every_text_of_the_application(
    template: str, repairs: tuple[str, ...], critique: Critique
) -> None:
    result = parse_critique(template.replace("{}", serialize_critique(critique), 1))
    assert result == ParsedCritique(critique, "json", repairs)


@pytest.mark.parametrize(
    ("old", "new", "repair"),
    [
        ('"score": 6', '"score": 6.', "number"),
        ('"score": 6', '"score": 6..0', "number"),
        ('"score": 6', '"score": "6/10"', "score_as_text"),
        ('"score": 6', '"score": 6.04', "rounded"),
        ('"score"', '"scroe"', "key scroe"),
        ("overall_score", "overall_grade", "key overall_grade"),
        ("Color Harmony", "ColorHarmony", "name ColorHarmony"),
        ("Color Harmony", "Colour Harmony", "name Colour Harmony"),
        ("Focus & Sharpness", "Focus and Sharpness", "name Focus and Sharpness"),
        ('{"image_description"', '{"title": "A", "image_description"', "extra_key title"),
        ('}, {"name"', '} {"name"', "punctuation"),
        (", and", ",\n and", "control_character"),
        ("; the", "\t the", "control_character"),
    ],
)
def test_an_unambiguous_repair_gives_the_critique_and_is_named(
    old: str, new: str, repair: str, critique: Critique
) -> None:
    text = serialize_critique(critique)
    if old not in text:
        old, new = "the", new.replace("; the", "the").replace(", and", "the")
    result = parse_critique(text.replace(old, new, 1))
    assert isinstance(result, ParsedCritique), result
    assert repair in result.repairs
    assert result.critique.scores() == critique.scores()


def test_dimensions_come_in_any_order_and_with_an_eighth(critique: Critique) -> None:
    assert find_repairs(edit(critique, lambda v: v["dimensions"].reverse())) == ("order",)
    eighth = {"name": "Subject Isolation", "score": 5, "comment": "a", "recommendation": "b"}
    repairs = find_repairs(edit(critique, lambda v: v["dimensions"].insert(3, eighth)))
    assert repairs == ("extra_dimension Subject Isolation",)


def test_html_cards_give_the_same_critique_as_json(critique: Critique) -> None:
    result = parse_critique(render_html_cards(critique))
    assert isinstance(result, ParsedCritique)
    assert result.source_format == "cards"
    assert result.critique.dimensions == critique.dimensions
    assert result.critique.image_description == critique.image_description
    assert result.critique.overall_score == critique.overall_score
    order = sorted(critique.dimensions, key=lambda d: -d.score)
    best, *_, worst = order
    assert result.critique.key_strengths[0].startswith(f"{best.name}: ")
    assert result.critique.priority_improvements[0].startswith(f"{worst.name}: ")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("</h3>", ""),
        ("<h3>", "<h3><b><i>"),
        ("<span>(", "<span class='s'>("),
        ("</p>", ""),
        ("How to Improve:", "Recommendation:"),
        ("overall-grade", "overall-grade-box"),
        ("/10)", " / 10)"),
        ("</div></div>", ""),
        ("<p class", "\x00<p\nclass"),
    ],
)
def test_incomplete_html_is_read(old: str, new: str, critique: Critique) -> None:
    text = render_html_cards(critique)
    assert old in text
    result = parse_critique(text.replace(old, new))
    assert isinstance(result, ParsedCritique), result
    assert result.critique.scores() == critique.scores()
    assert [d.recommendation for d in result.critique.dimensions] == [
        d.recommendation for d in critique.dimensions
    ]


def test_from_a_page_of_several_advisors_each_gets_their_own_critique(critique: Critique) -> None:
    own = render_html_cards(critique).replace('data-advisor="sample"', 'data-advisor="ansel"')
    other = critique.model_copy(update={"image_description": "Another."})
    both = render_html_cards(other) + own
    result = parse_critique(both, "ansel")
    assert isinstance(result, ParsedCritique)
    assert result.critique.image_description == critique.image_description
    assert reject(both, advisor="weston").reason == RejectionReason.ADVISOR_ABSENT


@pytest.mark.parametrize("stored", [None, "", "N/A", "n.a.", "—", "not rated", "unscored"])
def test_a_text_that_is_complete_but_for_a_score_is_unscored(
    stored: str | None, critique: Critique
) -> None:
    for text in (
        edit(critique, lambda v: v["dimensions"][2].update(score=stored)),
        edit(critique, lambda v: [d.update(score=stored) for d in v["dimensions"]]),
        edit(critique, lambda v: v["dimensions"][2].pop("score")),
        edit(critique, lambda v: v.update(overall_score=stored)),
    ):
        assert reject(text).reason == RejectionReason.UNSCORED
        result = parse_critique(text, accept_unscored=True)
        assert isinstance(result, ParsedCritique), result
        assert not result.scored
        assert result.critique.scores() == (FILLER_SCORE,) * 7
        assert result.critique == critique.with_filler_scores()  # every text is as stored


def test_cards_without_scores_are_unscored(critique: Critique) -> None:
    page = render_html_cards(critique)
    for text in (page.replace("/10", ""), re.sub(r" <span>\([\d.]+/10\)", "", page)):
        assert reject(text).reason == RejectionReason.UNSCORED
    result = parse_critique(text, accept_unscored=True)
    assert isinstance(result, ParsedCritique)
    assert not result.scored
    assert [d.comment for d in result.critique.dimensions] == [
        d.comment for d in critique.dimensions
    ]
    incomplete = text.replace(critique.dimensions[3].recommendation, "")
    rejection = reject(incomplete, accept_unscored=True)
    assert rejection.reason == RejectionReason.UNSCORED
    assert "Color Harmony has no recommendation" in rejection.detail


def test_what_is_not_a_complete_critique_stays_rejected_without_scores(critique: Critique) -> None:
    unscored = [
        c for c in CORRUPTIONS if c.reason == RejectionReason.UNSCORED and c.name != "no_scores"
    ]
    assert len(unscored) > 3
    for corruption in unscored:
        rejection = reject(corruption.make_text(critique), accept_unscored=True)
        assert rejection.reason == RejectionReason.UNSCORED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v["dimensions"][2].pop("comment"), "dimensions_incomplete"),
        (lambda v: v["dimensions"].pop(), "dimensions_incomplete"),
        (lambda v: v.pop("image_description"), "other_schema"),
        (lambda v: v["dimensions"][2].update(score=85), "score_out_of_range"),
        (lambda v: v["dimensions"][2].update(score="B+"), "score_out_of_range"),
        (lambda v: v.update(technical_notes="sky " * 250), "looping"),
    ],
)
def test_json_without_scores_and_with_another_fault_is_rejected_for_that(
    change: Callable[[dict[str, Any]], Any], reason: str, critique: Critique
) -> None:
    value = json.loads(re.sub(r'"score": [\d.]+, ', "", serialize_critique(critique)))
    change(value)
    assert reject(json.dumps(value), accept_unscored=True).reason == reason


@given(st.sets(st.integers(0, 7)))
def test_a_critique_has_scores_only_if_all_eight_are_there(missing: set[int]) -> None:
    critique = write_critique("ansel", draw_scene(5, 1))
    value = json.loads(serialize_critique(critique))
    for i in missing:
        part, key = (value["dimensions"][i], "score") if i < 7 else (value, "overall_score")
        del part[key]
    result = parse_critique(json.dumps(value), accept_unscored=True)
    assert isinstance(result, ParsedCritique)
    assert result.scored == (not missing)
    assert result.critique == (critique.with_filler_scores() if missing else critique)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_every_kind_of_corruption_has_its_reason(
    corruption: Corruption, critique: Critique
) -> None:
    result = parse_critique(corruption.make_text(critique))
    found_by_link = set(FLAGS) - {RejectionReason.UNSCORED}
    expected = None if corruption.reason in found_by_link else corruption.reason
    assert (result.reason if isinstance(result, Rejection) else None) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("  \n", "no_text"),
        ("Broken \ufffd text", "not_utf8"),
        ("x" * 1_000_001, "too_long"),
        ("Okay, I will describe it.", "thinking_only"),
        ("Alright. " * 9, "thinking_only"),
        ("<think>hm", "thinking_only"),
        ("Analyze this image. Reply with JSON.", "prompt_echo"),
        ("You see the tone. Composition 8. Light 7.", "unscored"),
        ('{"scene": "a", "mood": "b"}', "other_schema"),
        ('{"scene": "a", "mo', "truncated"),
        ("构图非常稳定，光线柔和。" * 3, "wrong_language"),
        ('{"image_description": "' + "so so " * 200, "looping"),
        (r"$$\begin{array}{l} a \end{array}$$", "unscored"),
        ("{braces} in prose", "unscored"),
        ("<p>Nice light.</p>", "unscored"),
        ("# ERROR: Ollama API returned 400", "error_placeholder"),
        ('{"图像描述": "海边的日落", "维度": [{"名称": "构图", "分数": 8}]}', "wrong_language"),
    ],
)
def test_a_text_without_a_critique_has_a_reason(text: str, reason: str) -> None:
    assert reject(text).reason == reason


ERRORS = (
    "Failed to parse model response. Please try again.",
    "Error: Cannot connect to AI service",
    "Analysis failed for Lighting",
)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_stored_as_a_part_of_a_critique_is_an_error(
    critique: Critique, error: str
) -> None:
    value = json.loads(serialize_critique(critique))
    for parts, key in ((value, "image_description"), (value["dimensions"][1], "comment")):
        text, parts[key] = parts[key], error
        assert reject(json.dumps(value)).reason == RejectionReason.ERROR_PLACEHOLDER
        parts[key] = text
    value["dimensions"][1]["comment"] = "An error of exposure; the request failed to please me."
    assert isinstance(parse_critique(json.dumps(value)), ParsedCritique)


def test_json_that_is_stored_as_a_json_text_is_read(critique: Critique) -> None:
    parsed = parse_critique(json.dumps(json.dumps(json.loads(serialize_critique(critique)))))
    assert isinstance(parsed, ParsedCritique)
    assert (parsed.critique, parsed.repairs) == (critique, ("nested_text",))
    assert reject(json.dumps("Nice light on the sand.")).reason == RejectionReason.UNSCORED


def test_an_echo_is_recognized_by_the_prompt_of_its_job() -> None:
    prompt = "Look at my picture and be kind about every single thing in it."
    assert reject(f"{prompt} The sky.", prompts=(prompt,)).reason == RejectionReason.PROMPT_ECHO
    assert reject(f"{prompt} The sky.").reason == RejectionReason.UNSCORED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v["dimensions"][2].update(score=11), "score_out_of_range"),
        (lambda v: v["dimensions"][2].update(score=True), "score_out_of_range"),
        (lambda v: v["dimensions"][2].update(score="B+"), "score_out_of_range"),
        (lambda v: v["dimensions"][2].pop("score"), "unscored"),
        (lambda v: v["dimensions"][2].update(comment=" "), "dimensions_incomplete"),
        (lambda v: v["dimensions"].pop(), "dimensions_incomplete"),
        (lambda v: v.update(dimensions=7), "other_schema"),
        (lambda v: v.pop("image_description"), "other_schema"),
        (lambda v: v.pop("overall_score"), "unscored"),
        (lambda v: v["dimensions"][2].update(comment="".join(map(str, range(999)))), "too_long"),
        (lambda v: v["dimensions"][2].update(comment="sky " * 200), "looping"),
    ],
)
def test_an_incomplete_critique_has_a_reason(
    change: Callable[[dict[str, Any]], Any], reason: str, critique: Critique
) -> None:
    assert reject(edit(critique, change)).reason == reason


@pytest.mark.parametrize("tail", ["", "\n```", "}", "\n} ", "…"])
def test_a_cut_off_critique_stays_rejected_wherever_it_is_cut(
    tail: str, critique: Critique
) -> None:
    value = json.loads(serialize_critique(critique))
    last = json.dumps(value | {"dimensions": value.pop("dimensions")})  # at the end
    for text in (serialize_critique(critique), last):
        for end in range(20, len(text) - 1):
            result = parse_critique(text[:end] + tail)
            if isinstance(result, Rejection):
                assert "}" in tail or result.reason == RejectionReason.TRUNCATED, result
            else:  # a brace may end an older form, where no text was cut
                assert "}" in tail
                for key, value in critique:
                    is_derived = f"summary {key}" in result.repairs
                    may_differ = is_derived or key == "overall_score"  # 5.1 may be cut to 5
                    assert may_differ or getattr(result.critique, key) == value, (end, key)


def test_html_that_is_cut_off_stays_rejected(critique: Critique) -> None:
    text = render_html_cards(critique)
    grade = '<p class="overall-grade">Overall Grade: 5/10</p>'
    for page in (text, text.replace("<h2>", grade + "<h2>", 1)):
        start = page.rindex("Improve:")
        for end in range(start, page.index("</div>", start)):
            assert isinstance(parse_critique(page[:end]), Rejection), end


@pytest.mark.parametrize(
    "text",
    [
        "The format is: {example} My critique: {real}",
        "```json\n{example}\n```\n```json\n{real}\n```",
        "<think>A draft: {example}</think>{real}",
        "Draft: {example}\nNo, too kind.\n{real}",
    ],
)
def test_of_several_critiques_the_last_one_counts(text: str, critique: Critique) -> None:
    example = critique.model_copy(update={"image_description": "An example of a description."})
    filled = text.replace("{example}", serialize_critique(example)).replace(
        "{real}", serialize_critique(critique)
    )
    result = parse_critique(filled)
    assert isinstance(result, ParsedCritique), result
    assert result.critique == critique
    assert isinstance(
        parse_critique(filled[:-60]), Rejection
    )  # the last is cut off: not the first instead


@pytest.mark.parametrize(
    "text",
    [
        "<think>A draft: {} No, too kind.",
        "<think>A draft: {}</think>",
        "<thought>Hm. {} Or rather",
        "Okay, a draft: {} That is it.</think>",
    ],
)
def test_thoughts_that_never_end_contain_no_critique(text: str, critique: Critique) -> None:
    assert (
        reject(text.replace("{}", serialize_critique(critique))).reason
        == RejectionReason.THINKING_ONLY
    )


def test_the_example_of_the_prompt_is_rejected(critique: Critique) -> None:
    prompt = f"Answer like this: {serialize_critique(critique)}"
    assert reject(prompt, prompts=(prompt,)).reason == RejectionReason.PROMPT_ECHO
    dots = edit(critique, lambda v: [d.update(comment="…") for d in v["dimensions"]])
    assert reject(dots).reason == RejectionReason.DIMENSIONS_INCOMPLETE


@pytest.mark.parametrize(
    ("heading", "score"),
    [
        ("8/10", 8),
        ("8.5 / 10", 8.5),
        ("8,5/10", 8.5),
        ("<b>7</b>/10", 7),
        ("8/10 (8/10)", 8),
        ("-3/10", None),
        ("7.5.5/10", None),
        ("8–9/10", None),
        ("8/10.5", None),
        ("18/100", None),
        ("<del>3/10</del> 8/10", None),
        ("12345/10", None),
        ("good", None),
    ],
)
def test_a_grade_in_html_is_read_as_it_stands(
    heading: str, score: float | None, critique: Critique
) -> None:
    first = f"({critique.scores()[0]:g}/10)"
    result = parse_critique(render_html_cards(critique).replace(first, heading, 1))
    if score is None:
        assert isinstance(result, Rejection)
        assert result.reason in (RejectionReason.UNSCORED, RejectionReason.DIMENSIONS_INCOMPLETE)
    else:
        assert isinstance(result, ParsedCritique), result
        assert result.critique.scores()[0] == score


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace('"score"', '"score": 1, "score"', 1),
        lambda t: t.replace('"overall_score"', '"overall_score": 2, "overall_score"', 1),
        lambda t: t.replace('"score": ', '"score": -', 1).replace("}, {", "} {", 1),
        lambda t: t.replace(
            '"comment": "', '"comment": "Strong "leading", "lines": here.", "x": "', 1
        ),
    ],
)
def test_an_ambiguous_text_is_rejected(change: Callable[[str], str], critique: Critique) -> None:
    text = change(serialize_critique(critique))
    assert isinstance(parse_critique(text), Rejection)
    assert isinstance(parse_critique(text + "}"), Rejection)


@pytest.mark.parametrize("key", ["image_description", "key_strengths", "technical_notes"])
def test_white_space_counts_as_missing(key: str, critique: Critique) -> None:
    blank: Any = [" "] if key == "key_strengths" else "  "
    result = parse_critique(edit(critique, lambda v: v.update({key: blank})))
    if key == "image_description":
        assert isinstance(result, Rejection)
    else:
        assert isinstance(result, ParsedCritique)
        assert result.repairs == (f"summary {key}",)


def test_deeply_nested_lists_are_rejected_without_an_exception(critique: Critique) -> None:
    for depth in (300, 900, 1000, 5000):
        nested = "[" * depth + "]" * depth
        for key in ("key_strengths", "overall_score", "dimensions"):
            text = edit(critique, lambda v, k=key: v.update({k: "HERE"}))  # type: ignore[misc]
            assert isinstance(parse_critique(text.replace('"HERE"', nested)), Rejection)


def test_the_last_resort_changes_nothing_but_punctuation(critique: Critique) -> None:
    quoted = serialize_critique(critique).replace("the ", 'the "so called" ', 1)
    result = parse_critique(quoted)
    if isinstance(result, ParsedCritique):
        assert "so called" in result.critique.image_description


def test_parts_that_older_forms_lack_are_taken_from_the_critiques_own_words(
    critique: Critique,
) -> None:
    result = parse_critique(
        edit(critique, lambda v: (v.pop("key_strengths"), v.pop("technical_notes")))
    )
    assert isinstance(result, ParsedCritique)
    assert result.repairs == ("summary key_strengths", "summary technical_notes")
    words = " ".join(d.comment for d in critique.dimensions)
    strengths = [s.split(": ", 1) for s in result.critique.key_strengths]
    assert {name for name, _ in strengths} <= set(DIMENSIONS)
    assert all(text in words for _, text in strengths)


@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<image>"])
def test_a_critique_with_a_control_token_is_rejected(critique: Critique, token: str) -> None:
    text = serialize_critique(critique.model_copy(update={"technical_notes": f"Notes {token}."}))
    result = parse_critique(text)
    assert isinstance(result, Rejection)
    assert token in result.detail


def test_a_rejection_has_a_detail(critique: Critique) -> None:
    result = parse_critique(serialize_critique(critique)[:500])
    assert isinstance(result, Rejection)
    assert result.reason == RejectionReason.TRUNCATED
    assert result.detail


pieces = st.sampled_from(
    [
        '{"',
        '"dimensions": [',
        '{"name": "Lighting", ',
        '"score": 9',
        "}",
        "]",
        "```json\n",
        "<div class='feedback-card'><h3>Lighting (8/10)",
        "<p class='feedback-comment'>",
        "</div>",
        "\\",
        '"',
        "<think>",
        "Okay, ",
        '"image_description": "',
        "\x00",
        "光",
    ]
)


@settings(max_examples=500)
@given(st.one_of(st.text(), st.lists(pieces, max_size=60).map("".join)))
def test_any_text_gives_a_critique_or_a_reason(text: str) -> None:
    assert isinstance(parse_critique(text), ParsedCritique | Rejection)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        "<div class='feedback-card'><h3>X (8/10)",
        "<p>feedback-card",
        "feedback-card<b><i>",
        "<!-- feedback-card",
        '"score"  :  9.',
        '{"dimensions": [}',
        '{"dimensions": {}} }',
        "</think>{",
        "okay ",
        "光",
        '{"dimensions": 1, "a" 2}',
        "feedback-card<table><td>",
        "{",
        '{"a": ',
        "[",
        "<>",
        '{"dimensions": [',
        "**peace**",
        "\\",
        '{"score": ' + "8" * 9_999,
    ],
)
def test_a_megabyte_of_anything_is_parsed_quickly(unit: str) -> None:
    assert measure_seconds(unit * (1_000_000 // len(unit))) < MAX_SECONDS


@pytest.mark.parametrize(
    "text",
    [
        '<div class="feedback-card">' * 240 + "<p>" * 240_000,
        '<div class="feedback-card"><p class="feedback-comment">' * 240 + "<div></div>" * 80_000,
        *(
            '{"dimensions":["' + p * (5_900 // len(p)) + '"]}'
            for p in ('"a"b', '{"a":', 'x" ', "{1,")
        ),
        *(
            '{"dimensions":["' + p * (390 // max(1, p.count('"'))) + " " * 9_000 + '"]}'
            for p in ('"a"b', '{"a":', 'x" ', '{"a":"b" c ')
        ),
    ],
)
def test_no_nesting_makes_parsing_slow(text: str) -> None:
    assert measure_seconds(text) < MAX_SECONDS


def measure_seconds(text: str) -> float:
    """Return processor time, so that no test fails on a busy machine."""
    started = time.process_time()
    parse_critique(text)
    return time.process_time() - started
