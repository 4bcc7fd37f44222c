"""HTML of critiques, as today's web views expect it, and of the service's own pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mondrian.core.html import render_template
from mondrian.core.params import Params, Profile
from mondrian.critique.schema import Critique

if TYPE_CHECKING:
    from mondrian.serving.jobs.critique_runner import ServedCritique

_SCORE_LEVELS = (
    (8, "Excellent", "high"),
    (6, "Good", "good"),
    (4, "Fair", "fair"),
    (0, "Weak", "low"),
)


def score_label(score: float) -> str:
    """A score in a word."""
    return next(label for threshold, label, _ in _SCORE_LEVELS if score >= threshold)


def score_css_class(score: float) -> str:
    """The class of its color."""
    return next(name for threshold, _, name in _SCORE_LEVELS if score >= threshold)


def format_score(value: float) -> str:
    """Without a fraction that says nothing."""
    return f"{value:g}"


def weakest_dimensions(critique: Critique) -> list[Any]:
    """The three dimensions with the lowest scores, lowest first."""
    return sorted(critique.dimensions, key=lambda d: d.score)[:3]


def format_top_recommendations(critique: Critique) -> str:
    """A line for each of the three weakest dimensions."""
    return "\n".join(
        f"{i}. {d.name} ({format_score(d.score)}/10): {d.recommendation}"
        for i, d in enumerate(weakest_dimensions(critique), 1)
    )


def render_analysis_page(answers: Sequence[ServedCritique], params: Params) -> str:
    """The whole critique: a document of its own."""
    parts = [
        {"advisor": a.advisor, "name": params.profile(a.advisor).name, "critique": a.critique}
        for a in answers
    ]
    return render_template(
        "serving/templates/analysis.html",
        answers=parts,
        score=format_score,
        word=score_label,
        tone=score_css_class,
    )


def render_summary_page(answers: Sequence[ServedCritique], params: Params) -> str:
    """The three recommendations that matter most: a document of its own."""
    parts = [
        {"name": params.profile(a.advisor).name, "weakest": weakest_dimensions(a.critique)}
        for a in answers
    ]
    return render_template("serving/templates/summary.html", answers=parts, score=format_score)


def render_portrait(name: str) -> str:
    """An SVG of an advisor's initials, in place of a portrait."""
    letters = "".join(part[0] for part in name.split()[:2])
    return render_template("serving/templates/portrait.svg", name=name, letters=letters.upper())


def render_advisor_bios(profiles: Sequence[Profile]) -> str:
    """Who the advisors are: a piece of a page."""
    return render_template("serving/templates/bio.html", profiles=profiles)
