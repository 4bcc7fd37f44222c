"""Corruptions that a real database contains, each derived from a clean critique."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from mondrian.critique.rejection import RejectionReason as Reason
from mondrian.critique.schema import DIMENSIONS, Critique, serialize_critique

EXAMPLE_SCORES = (8, 7, 9, 6, 7, 8, 7)  # of the example in the application's own prompt
EXAMPLE_OVERALL = 7.4


@dataclass(frozen=True)
class Corruption:
    """A kind of stored text; link must reject it with the reason, or link it if there is none."""

    name: str
    count: int  # jobs per advisor
    make_text: Callable[[Critique], str]
    reason: Reason | None


def render_html_cards(critique: Critique) -> str:
    """Return the application's HTML of a critique, with unclosed spans as it writes them."""
    cards = "".join(
        f'<div class="feedback-card"><h3>{d.name} <span>({d.score:g}/10)</h3>'
        f'<p class="feedback-comment">{d.comment}</p>'
        f'<div class="feedback-recommendation"><strong>How to Improve:</strong> '
        f"{d.recommendation}</div></div>"
        for d in critique.dimensions
    )
    return (
        '<div class="advisor-section" data-advisor="sample"><div class="analysis">'
        f"<h2>Image Analysis</h2><p>{critique.image_description}</p>{cards}"
        f'<p class="overall-grade">Overall Grade: {critique.overall_score:g}/10</p></div></div>'
    )


def replace_scores(critique: Critique, scores: tuple[float, ...], overall: float) -> Critique:
    return critique.with_scores(scores, overall)


def build_example_prompt() -> str:
    """Return the application's prompt: instructions and an example with fixed scores."""
    example = {
        "image_description": "What the photograph shows, in two sentences.",
        "dimensions": [
            {"name": n, "score": s, "comment": f"On {n}.", "recommendation": f"To improve {n}."}
            for n, s in zip(DIMENSIONS, EXAMPLE_SCORES, strict=True)
        ],
        "overall_score": EXAMPLE_OVERALL,
        "key_strengths": ["First strength", "Second strength"],
        "priority_improvements": ["First priority", "Second priority"],
        "technical_notes": "What is to be said of the technique.",
    }
    return f"Analyze the photograph. Reply with JSON like this:\n{json.dumps(example)}"


def _dump_edited(critique: Critique, **changes: object) -> str:
    return json.dumps(json.loads(serialize_critique(critique)) | changes, ensure_ascii=False)


def _dimensions(critique: Critique) -> list[dict[str, object]]:
    return list(json.loads(serialize_critique(critique))["dimensions"])


def _edit_dimensions(
    edit: Callable[[list[dict[str, object]]], list[dict[str, object]]],
) -> Callable[[Critique], str]:
    return lambda critique: _dump_edited(critique, dimensions=edit(_dimensions(critique)))


def _key_dimensions_by_name(critique: Critique) -> str:
    value = json.loads(serialize_critique(critique))
    value["dimensional_analysis"] = {d.pop("name"): d for d in value.pop("dimensions")}
    return json.dumps(value)


def _replace_with_chinese(critique: Critique) -> str:
    text = "这张照片的构图非常稳定，光线柔和，色彩自然。"
    dimensions = [d | {"comment": text, "recommendation": text} for d in _dimensions(critique)]
    return _dump_edited(critique, image_description=text, dimensions=dimensions)


def _remove_scores(critique: Critique) -> str:
    value = json.loads(_edit_dimensions(lambda ds: [d | {"score": None} for d in ds])(critique))
    return json.dumps(value | {"overall_score": None})


def _average_eight(critique: Critique) -> str:
    """Add a low eighth dimension; the overall score is the mean of all eight."""
    dimensions = [*_dimensions(critique), _EIGHTH | {"score": 0}]
    overall = round(sum(critique.scores()) / len(dimensions), 1)
    return _dump_edited(critique, dimensions=dimensions, overall_score=overall)


def _rename_short_keys(critique: Critique) -> str:
    value = json.loads(serialize_critique(critique))
    value["strengths"], value["notes"] = value.pop("key_strengths"), value.pop("technical_notes")
    return json.dumps(value)


def _write_plain_html(critique: Critique) -> str:
    """Write cards without classes inside, as other versions of the application did."""
    cards = "".join(
        f'<div class="feedback-card"><h3>{d.name}</h3><p>{d.name} Score: {d.score:g}/10</p>'
        f"<p>{d.comment}</p><p><strong>How to Improve:</strong> {d.recommendation}</p></div>"
        for d in critique.dimensions
    )
    return (
        '<div class="advisor-section" data-advisor="sample"><div class="analysis">'
        f"<h2>Image Analysis</h2><p>{critique.image_description}</p>{cards}"
        f"<h2>Overall Grade</h2><p><strong>{critique.overall_score:g}/10</strong></p></div></div>"
    )


def _write_error_after_biography(critique: Critique) -> str:
    return f"# The advisor\n\nBorn in 1902.\n\n## Full Analysis\n{_PLACEHOLDERS[1]}\n"


def _write_as_table(critique: Critique) -> str:
    rows = "\n".join(f"| {d.name} | {d.comment} |" for d in critique.dimensions)
    return f"| Aspect | Comment |\n|---|---|\n{rows}"


def _write_as_numbered_list(critique: Critique) -> str:
    return "\n".join(
        f"{i}. **{d.name}**: {d.comment}" for i, d in enumerate(critique.dimensions, 1)
    )


def _echo_prompt(critique: Critique) -> str:
    return (
        'Analyze the photograph. Reply with JSON.\n\n{"advisor": "unknown", "title": "Untitled", '
        f'"notes": {json.dumps(critique.technical_notes)}}}'
    )


def _write_other_schema(critique: Critique) -> str:
    return json.dumps({"title": "Untitled", "notes": critique.technical_notes})


def _write_as_html_table(critique: Critique) -> str:
    rows = "".join(f"<tr><td>{d.name}</td><td>{d.comment}</td></tr>" for d in critique.dimensions)
    return f"<table>{rows}</table>"


def _replacing(old: str, new: str, count: int = -1) -> Callable[[Critique], str]:
    return lambda critique: serialize_critique(critique).replace(old, new, count)


_THINKING = (
    "Okay, let me look at this photograph. The user wants a critique. First the light, then "
)
_PLACEHOLDERS = (
    "# ERROR: Ollama API returned 400",
    "<p>Error: Cannot connect to AI service - service may not be running</p>",
    "Failed to parse model response. Please try again.",
    "Error: Advisor not found in database",
)
_THINK_TAG = f"<think>{_THINKING}</think>"
_LATEX = r"$$\begin{array}{l} Light & good \end{array}$$"
_EIGHTH = {"name": "Subject Isolation", "score": 6, "comment": "Clear.", "recommendation": "Keep."}
_SAME_ADVICE = {"recommendation": "Move closer."}

CORRUPTIONS = (
    *(
        Corruption(f"placeholder_{i}", 2, lambda _, text=text: text, Reason.ERROR_PLACEHOLDER)  # type: ignore[misc]
        for i, text in enumerate(_PLACEHOLDERS)
    ),
    Corruption("empty", 3, lambda _: "", Reason.NO_TEXT),
    Corruption("thinking", 2, lambda _: _THINKING * 2, Reason.THINKING_ONLY),
    Corruption("think_tag", 1, lambda _: _THINK_TAG, Reason.THINKING_ONLY),
    Corruption("table", 2, _write_as_table, Reason.UNSCORED),
    Corruption("numbered", 1, _write_as_numbered_list, Reason.UNSCORED),
    Corruption("latex", 1, lambda _: _LATEX, Reason.UNSCORED),
    Corruption("html_table", 1, _write_as_html_table, Reason.UNSCORED),
    Corruption("looping", 2, lambda _: "**peace**" * 400, Reason.LOOPING),
    Corruption("brackets", 1, lambda _: "<>" * 400, Reason.LOOPING),
    Corruption("prompt_echo", 2, _echo_prompt, Reason.PROMPT_ECHO),
    Corruption("other_schema", 1, _write_other_schema, Reason.OTHER_SCHEMA),
    Corruption("truncated", 4, lambda c: serialize_critique(c)[:700], Reason.TRUNCATED),
    Corruption("lost_quote", 1, _replacing('"score"', 'score" 9', 1), Reason.MALFORMED_JSON),
    Corruption("chinese", 2, _replace_with_chinese, Reason.WRONG_LANGUAGE),
    Corruption(
        "hundred",
        2,
        _edit_dimensions(lambda ds: [ds[0] | {"score": 85}, *ds[1:]]),
        Reason.SCORE_OUT_OF_RANGE,
    ),
    Corruption("six", 2, _edit_dimensions(lambda ds: ds[:6]), Reason.DIMENSIONS_INCOMPLETE),
    Corruption("twice", 1, _edit_dimensions(lambda ds: [ds[0], *ds]), Reason.DIMENSION_TWICE),
    Corruption(
        "repeated",
        1,
        _edit_dimensions(lambda ds: [d | _SAME_ADVICE for d in ds]),
        Reason.REPEATED_ADVICE,
    ),
    Corruption(
        "off_the_mean", 1, lambda c: _dump_edited(c, overall_score=9.9), Reason.OVERALL_OFF_MEAN
    ),
    Corruption("no_scores", 1, _remove_scores, Reason.UNSCORED),
    Corruption("biography", 1, _write_error_after_biography, Reason.ERROR_PLACEHOLDER),
    Corruption(
        "score_twice", 1, _replacing('"score"', '"score" : 1, "score"', 1), Reason.MALFORMED_JSON
    ),
    Corruption(
        "python", 1, lambda c: repr(json.loads(serialize_critique(c))), Reason.MALFORMED_JSON
    ),
    Corruption(
        "to_do",
        1,
        _edit_dimensions(lambda ds: [d | {"comment": "TBD"} for d in ds]),
        Reason.DIMENSIONS_INCOMPLETE,
    ),
    Corruption(
        "lost_letter", 1, lambda c: serialize_critique(c)[:-2] + r' caf\ufffd"}', Reason.NOT_UTF8
    ),
    Corruption("plain_html", 1, _write_plain_html, None),
    Corruption("mean_of_eight", 1, _average_eight, None),
    Corruption("short_keys", 1, _rename_short_keys, None),
    Corruption("html", 4, render_html_cards, None),
    Corruption("html_column", 4, render_html_cards, None),
    Corruption("by_name", 2, _key_dimensions_by_name, None),
    Corruption("misspelt", 1, _replacing('"score"', '"scroe"', 1), None),
    Corruption("grade", 1, _replacing("overall_score", "overall_grade"), None),
    Corruption("dot", 1, _replacing(', "comment"', '., "comment"', 1), None),
    Corruption("two_dots", 1, _replacing(', "comment"', '..0, "comment"', 1), None),
    Corruption("lost_comma", 1, _replacing("}, {", "} {", 1), None),
    Corruption("eight", 2, _edit_dimensions(lambda ds: [*ds, _EIGHTH]), None),
    Corruption("run_together", 1, _replacing("Color Harmony", "ColorHarmony"), None),
    Corruption("think_then_json", 1, lambda c: f"{_THINK_TAG}\n{serialize_critique(c)}", None),
    Corruption("extra_brace", 2, lambda c: serialize_critique(c) + "}", None),
    Corruption("prose_before", 2, lambda c: f"{_THINKING}\n\n{serialize_critique(c)}", None),
)
