"""What a real database holds besides clean critiques: each kind of mess, made from a clean one.

A kind is a function of the clean critique that gives the stored text, and the reason under which
link has to count it, or None where it has to become a pair all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from mondrian.critique.rejection import Reason
from mondrian.critique.schema import DIMENSIONS, Critique, canonical

EXAMPLE_SCORES = (8, 7, 9, 6, 7, 8, 7)  # of the example in the application's own prompt
EXAMPLE_OVERALL = 7.4


@dataclass(frozen=True)
class Mess:
    name: str
    count: int  # jobs an advisor
    text: Callable[[Critique], str]
    reason: Reason | None


def html_cards(critique: Critique) -> str:
    """The application's HTML of a critique, spans left open as it does."""
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


def with_scores(critique: Critique, scores: tuple[float, ...], overall: float) -> Critique:
    """The same words under other scores."""
    dimensions = tuple(
        d.model_copy(update={"score": s}) for d, s in zip(critique.dimensions, scores, strict=True)
    )
    return critique.model_copy(update={"dimensions": dimensions, "overall_score": overall})


def example_prompt() -> str:
    """The application's prompt: instructions, and an example with fixed scores and no content."""
    parts = zip(DIMENSIONS, EXAMPLE_SCORES, strict=True)
    example = {
        "image_description": "What the photograph shows, in two sentences.",
        "dimensions": [
            {"name": n, "score": s, "comment": f"On {n}.", "recommendation": f"To improve {n}."}
            for n, s in parts
        ],
        "overall_score": EXAMPLE_OVERALL,
        "key_strengths": ["First strength", "Second strength"],
        "priority_improvements": ["First priority", "Second priority"],
        "technical_notes": "What is to be said of the technique.",
    }
    return f"Analyze the photograph. Reply with JSON like this:\n{json.dumps(example)}"


def _edited(critique: Critique, **changes: object) -> str:
    return json.dumps(json.loads(canonical(critique)) | changes, ensure_ascii=False)


def _dimensions(critique: Critique) -> list[dict[str, object]]:
    return list(json.loads(canonical(critique))["dimensions"])


def _eight(critique: Critique) -> str:
    extra = {
        "name": "Subject Isolation",
        "score": 6,
        "comment": "Clear.",
        "recommendation": "Keep.",
    }
    return _edited(critique, dimensions=[*_dimensions(critique), extra])


def _hundred(critique: Critique) -> str:
    first, *rest = _dimensions(critique)
    return _edited(critique, dimensions=[first | {"score": 85}, *rest])


def _by_name(critique: Critique) -> str:
    value = json.loads(canonical(critique))
    value["dimensional_analysis"] = {d.pop("name"): d for d in value.pop("dimensions")}
    return json.dumps(value)


def _chinese(critique: Critique) -> str:
    text = "这张照片的构图非常稳定，光线柔和，色彩自然。"
    dimensions = [d | {"comment": text, "recommendation": text} for d in _dimensions(critique)]
    return _edited(critique, image_description=text, dimensions=dimensions)


def _table(critique: Critique) -> str:
    rows = "\n".join(f"| {d.name} | {d.comment} |" for d in critique.dimensions)
    return f"| Aspect | Comment |\n|---|---|\n{rows}"


def _numbered(critique: Critique) -> str:
    return "\n".join(
        f"{i}. **{d.name}**: {d.comment}" for i, d in enumerate(critique.dimensions, 1)
    )


def _twice(critique: Critique) -> str:
    first, *rest = _dimensions(critique)
    return _edited(critique, dimensions=[first, first, *rest])


def _repeated(critique: Critique) -> str:
    same = [d | {"recommendation": "Move closer."} for d in _dimensions(critique)]
    return _edited(critique, dimensions=same)


def _echo(critique: Critique) -> str:
    return (
        'Analyze the photograph. Reply with JSON.\n\n{"advisor": "unknown", "title": "Untitled", '
        f'"notes": {json.dumps(critique.technical_notes)}}}'
    )


def _other(critique: Critique) -> str:
    return json.dumps({"title": "Untitled", "notes": critique.technical_notes})


def _html_table(critique: Critique) -> str:
    rows = "".join(f"<tr><td>{d.name}</td><td>{d.comment}</td></tr>" for d in critique.dimensions)
    return f"<table>{rows}</table>"


def _dotted(critique: Critique, dots: str) -> str:
    """With something behind the first score."""
    return canonical(critique).replace(', "comment"', f'{dots}, "comment"', 1)


_THINKING = (
    "Okay, let me look at this photograph. The user wants a critique. First the light, then "
)
_PLACEHOLDERS = (
    "# ERROR: Ollama API returned 400",
    "<p>Error: Cannot connect to AI service - service may not be running</p>",
    "Failed to parse model response. Please try again.",
    "Error: Advisor not found in database",
)

MESSES = (
    *(Mess(f"placeholder_{i}", 2, lambda _, t=t: t, Reason.ERROR_PLACEHOLDER)  # type: ignore[misc]
      for i, t in enumerate(_PLACEHOLDERS)),
    Mess("empty", 3, lambda _: "", Reason.NO_TEXT),
    Mess("thinking", 2, lambda _: _THINKING * 2, Reason.THINKING_ONLY),
    Mess("think_tag", 1, lambda _: f"<think>{_THINKING}</think>", Reason.THINKING_ONLY),
    Mess("table", 2, _table, Reason.UNSCORED),
    Mess("numbered", 1, _numbered, Reason.UNSCORED),
    Mess("latex", 1, lambda _: r"$$\begin{array}{l} Light & good \end{array}$$", Reason.UNSCORED),
    Mess("html_table", 1, _html_table, Reason.UNSCORED),
    Mess("looping", 2, lambda _: "**peace**" * 400, Reason.LOOPING),
    Mess("brackets", 1, lambda _: "<>" * 400, Reason.LOOPING),
    Mess("prompt_echo", 2, _echo, Reason.PROMPT_ECHO),
    Mess("other_schema", 1, _other, Reason.OTHER_SCHEMA),
    Mess("truncated", 4, lambda c: canonical(c)[:700], Reason.TRUNCATED),
    Mess("lost_quote", 1, lambda c: canonical(c).replace('"score"', 'score" 9', 1),
         Reason.MALFORMED_JSON),
    Mess("chinese", 2, _chinese, Reason.WRONG_LANGUAGE),
    Mess("hundred", 2, _hundred, Reason.SCORE_OUT_OF_RANGE),
    Mess("six", 2, lambda c: _edited(c, dimensions=_dimensions(c)[:6]),
         Reason.DIMENSIONS_INCOMPLETE),
    Mess("twice", 1, _twice, Reason.DIMENSION_TWICE),
    Mess("repeated", 1, _repeated, Reason.REPEATED_ADVICE),
    Mess("off_the_mean", 1, lambda c: _edited(c, overall_score=9.9), Reason.OVERALL_OFF_MEAN),
    Mess("html", 4, html_cards, None),
    Mess("html_column", 4, html_cards, None),
    Mess("by_name", 2, _by_name, None),
    Mess("misspelt", 1, lambda c: canonical(c).replace('"score"', '"scroe"', 1), None),
    Mess("grade", 1, lambda c: canonical(c).replace("overall_score", "overall_grade"), None),
    Mess("dot", 1, lambda c: _dotted(c, "."), None),
    Mess("two_dots", 1, lambda c: _dotted(c, "..0"), None),
    Mess("lost_comma", 1, lambda c: canonical(c).replace("}, {", "} {", 1), None),
    Mess("eight", 2, _eight, None),
    Mess("run_together", 1, lambda c: canonical(c).replace("Color Harmony", "ColorHarmony"), None),
    Mess("think_then_json", 1, lambda c: f"<think>{_THINKING}</think>\n{canonical(c)}", None),
    Mess("extra_brace", 2, lambda c: canonical(c) + "}", None),
    Mess("prose_before", 2, lambda c: _THINKING + "\n\n" + canonical(c), None),
)  # fmt: skip
