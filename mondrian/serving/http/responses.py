"""Rows as clients read them: the fields of the code and those of the documents, both."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from mondrian.storage.jobs import JobRow

# What a client sees of a job; who works on it is not its business.
_HIDDEN = ("owner", "leased_until", "idempotency_key", "queued_at", "crashes", "strikes", "subject")


def current_timestamp() -> str:
    """The time as clients read it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def parse_llm_outputs(row: JobRow) -> dict[str, Any]:
    """llm_outputs as an object; empty where there is none."""
    try:
        parsed = json.loads(row["llm_outputs"] or "{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def serialize_job(row: JobRow) -> JobRow:
    """GET /status: the row, flat, with its id twice and where the rest is."""
    id, several = row["id"], len((row["advisor"] or "").split(","))
    fields = {name: value for name, value in row.items() if name not in _HIDDEN}
    return fields | {
        "job_id": id,
        "step_phase": row["status"],
        "current_advisor": 1,
        "total_advisors": several,
        "status_url": f"/status/{id}",
        "stream_url": f"/stream/{id}",
        "analysis_url": f"/analysis/{id}",
        "summary_url": f"/summary/{id}",
    }


def serialize_analysis(row: JobRow, device: str) -> JobRow:
    """POST /analyze: the finished row as an answer."""
    llm_outputs = parse_llm_outputs(row)
    critique = llm_outputs.get("analysis") or {}
    grade = critique.get("overall_score")
    fallen = bool(row["fallback_occurred"])
    return {
        "advisor": row["advisor"],
        "mode": row["mode"],
        "model": row["model"],
        "adapter": row["adapter"],
        "device": device,
        "timestamp": row["completed_at"] or current_timestamp(),
        "prompt": row["prompt"],
        "llm_prompt": row["llm_prompt"],
        "full_response": llm_outputs.get("response", ""),
        "llm_thinking": "",
        "analysis": critique,
        "analysis_html": row["analysis_html"],
        "summary_html": row["summary_html"],
        "advisor_bio_html": row["advisor_bio_html"],
        "summary": llm_outputs.get("summary", ""),
        "advisor_bio": row["advisor_bio"],
        "overall_score": grade,
        "parse_success": True,
        "single_pass": True,
        "rag_candidates": {"images": [], "quotes": []},
        "html": row["analysis_html"],
        "mode_used": row["mode_used"],
        "model_used": row["model_used"],
        "adapter_version": row["adapter_version"],
        "fallback_occurred": fallen,
        "fallback_reason": row["fallback_reason"],
        "job_id": row["id"],
        "tokens": row["tokens"],
        "latency_seconds": row["latency_seconds"],
        "metadata": {
            "mode_used": row["mode_used"],
            "requested_mode": row["mode"],
            "effective_mode": row["mode_used"],
            "fallback_occurred": fallen,
            "fallback_reason": row["fallback_reason"],
            "overall_grade": None if grade is None else f"{grade:g}/10",
            "advisor_id": row["advisor"],
        },
    }
