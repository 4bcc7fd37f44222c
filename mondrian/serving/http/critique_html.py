"""HTML documents of critiques, as the existing web views expect them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mondrian.core.html import render_template
from mondrian.core.params import Params, Profile
from mondrian.critique.schema import Critique, Dimension

if TYPE_CHECKING:
    from mondrian.serving.jobs.critique_runner import ServedCritique

# lowest score, label, CSS class
_SCORE_LEVELS = (
    (8, "Excellent", "high"),
    (6, "Good", "good"),
    (4, "Fair", "fair"),
    (0, "Weak", "low"),
)


def score_level(score: float) -> tuple[str, str]:
    return next((label, css) for lowest, label, css in _SCORE_LEVELS if score >= lowest)


def format_top_recommendations(critique: Critique) -> str:
    """Return the recommendations of the three weakest dimensions, one per line."""
    return "\n".join(
        f"{i}. {d.name} ({d.score:g}/10): {d.recommendation}"
        for i, d in enumerate(_weakest_dimensions(critique), 1)
    )


def render_analysis_page(answers: Sequence["ServedCritique"], params: Params) -> str:
    template = "serving/templates/analysis.html"
    return render_template(template, answers=answers, params=params, score_level=score_level)


def render_summary_page(answers: Sequence["ServedCritique"], params: Params) -> str:
    parts = [(params.profile(a.advisor).name, _weakest_dimensions(a.critique)) for a in answers]
    return render_template("serving/templates/summary.html", parts=parts)


def render_advisor_bios(profiles: Sequence[Profile]) -> str:
    """Return an HTML fragment about the advisors."""
    return render_template("serving/templates/bio.html", profiles=profiles)


def _weakest_dimensions(critique: Critique) -> list[Dimension]:
    """Return the three dimensions with the lowest scores, lowest first."""
    return sorted(critique.dimensions, key=lambda d: d.score)[:3]
