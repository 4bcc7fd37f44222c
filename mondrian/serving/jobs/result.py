"""Answers -> what a job keeps of them, in the columns that today's application reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mondrian.core.params import Params
from mondrian.serving.http.critique_html import (
    format_top_recommendations,
    render_advisor_bios,
    render_analysis_page,
    render_summary_page,
)
from mondrian.serving.jobs.critique_runner import ServedCritique
from mondrian.storage.jobs import utc_timestamp
from mondrian.storage.tables import CANDIDATE


def build_result_columns(
    answers: Sequence[ServedCritique], params: Params, seconds: float
) -> dict[str, Any]:
    """Columns of a finished job; several answers are those of several advisors.

    seconds  from its arrival at this service's engine to its end
    """
    first = answers[0]
    fallen = [a.plan.reason for a in answers if a.plan.reason]
    several = len(answers) > 1
    outputs = (
        {a.advisor: a.completion.text for a in answers} if several else build_llm_outputs(first)
    )
    columns: dict[str, Any] = {
        "prompt": first.prompt,
        "llm_prompt": first.prompt,
        "analysis_markdown": "\n\n".join(_markdown(a) for a in answers),
        "llm_outputs": json.dumps(outputs, ensure_ascii=False),
        "analysis_html": render_analysis_page(answers, params),
        "summary_html": render_summary_page(answers, params),
        "advisor_bio": "\n\n".join(params.profile(a.advisor).bio for a in answers),
        "advisor_bio_html": render_advisor_bios([params.profile(a.advisor) for a in answers]),
        "model": first.model,
        "adapter": ",".join(sorted({Path(a.adapter).name for a in answers if a.adapter})) or None,
        "adapter_version": ",".join(a.completion.version for a in answers if a.adapter) or None,
        "model_used": first.plan.model_used,
        "mode_used": first.plan.mode_used,
        "fallback_occurred": int(bool(fallen)),
        "fallback_reason": "; ".join(dict.fromkeys(fallen)) or None,
        "tokens": sum(a.completion.tokens for a in answers),
        "compliant": int(all(a.compliant for a in answers)),
        "latency_seconds": round(seconds, 4),
        "first_token_seconds": first.completion.first_token_seconds,
        "decode_seconds": first.completion.decode_seconds,
    }
    if _is_adapter_replaced(first):
        columns |= {"rollout": None, "side": None}
    return {  # PostgreSQL keeps no NUL
        name: value.replace("\0", " ") if isinstance(value, str) else value
        for name, value in columns.items()
    }


def _is_adapter_replaced(answer: ServedCritique) -> bool:
    """Whether the adapter was replaced meanwhile: the job says nothing about the one dealt."""
    place = answer.plan.rollout_assignment
    if place is None or place.side != CANDIDATE or answer.plan.fell_back:
        return False
    return not place.rollout.endswith(f"/{answer.completion.version}")


def build_llm_outputs(answer: ServedCritique) -> dict[str, Any]:
    """llm_outputs of a single advisor."""
    return {
        "prompt": answer.prompt,
        "response": answer.completion.text,
        "summary": format_top_recommendations(answer.critique),
        "model": answer.model,
        "timestamp": utc_timestamp(),
        "analysis": answer.critique.model_dump(mode="json"),
    }


def _markdown(answer: ServedCritique) -> str:
    return (
        f"# {answer.advisor.title()} Analysis\n\n## "
        f"Summary\n{format_top_recommendations(answer.critique)}\n\n"
        f"## Full Analysis\n{answer.completion.text}"
    )
