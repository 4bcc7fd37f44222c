"""HTML of critiques, as today's web views expect it, and of the service's own pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mondrian.core.html import page
from mondrian.core.params import Params, Profile
from mondrian.critique.schema import Critique

if TYPE_CHECKING:
    from mondrian.serving.jobs.critique_runner import Answer

_WORDS = ((8, "Excellent", "high"), (6, "Good", "good"), (4, "Fair", "fair"), (0, "Weak", "low"))


def word(score: float) -> str:
    """A score in a word."""
    return next(told for least, told, _ in _WORDS if score >= least)


def tone(score: float) -> str:
    """The class of its color."""
    return next(name for least, _, name in _WORDS if score >= least)


def score(value: float) -> str:
    """Without a fraction that says nothing."""
    return f"{value:g}"


def weakest(critique: Critique) -> list[Any]:
    """The three dimensions with the lowest scores, lowest first."""
    return sorted(critique.dimensions, key=lambda d: d.score)[:3]


def summary(critique: Critique) -> str:
    """A line for each of the three weakest dimensions."""
    return "\n".join(
        f"{i}. {d.name} ({score(d.score)}/10): {d.recommendation}"
        for i, d in enumerate(weakest(critique), 1)
    )


def analysis_page(answers: Sequence[Answer], params: Params) -> str:
    """The whole critique: a document of its own."""
    told = [
        {"advisor": a.advisor, "name": params.profile(a.advisor).name, "critique": a.critique}
        for a in answers
    ]
    return page("serving/templates/analysis.html", answers=told, score=score, word=word, tone=tone)


def summary_page(answers: Sequence[Answer], params: Params) -> str:
    """The three recommendations that matter most: a document of its own."""
    told = [
        {"name": params.profile(a.advisor).name, "weakest": weakest(a.critique)} for a in answers
    ]
    return page("serving/templates/summary.html", answers=told, score=score)


def portrait(name: str) -> str:
    """An SVG of an advisor's initials, in place of a portrait."""
    letters = "".join(part[0] for part in name.split()[:2])
    return page("serving/templates/portrait.svg", name=name, letters=letters.upper())


def bio_page(profiles: Sequence[Profile]) -> str:
    """Who the advisors are: a piece of a page."""
    return page("serving/templates/bio.html", profiles=profiles)
