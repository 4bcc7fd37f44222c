"""Jobs as JSON, with the field names of both the old code and the old documentation."""

import json
from typing import Any

from fastapi import Request

from mondrian.serving.service import get_service
from mondrian.storage.jobs import JobRow, utc_timestamp

# columns about processing, which clients do not get
_HIDDEN = tuple(
    "owner leased_until idempotency_key queued_at crashes strikes subject score".split()
)
_DOCUMENTS = ("analysis_html", "summary_html")  # have routes of their own
_BOOLEANS = ("enable_rag", "fallback_occurred", "compliant")
_TEXTS = ("llm_thinking", "adapter")  # empty, never null
LIST_COLUMNS = (
    *("id", "filename", "advisor", "status"),
    *("current_step", "progress_percentage", "created_at", "completed_at"),
)  # of GET /jobs


def select_columns(row: dict[str, Any], names: str) -> dict[str, Any]:
    """Return some items of a row; `names` are separated by spaces."""
    return {name: row[name] for name in names.split()}


def get_base_url(request: Request) -> str:
    """Return the start of the URLs in responses: `serve.public_url`, or as the client called."""
    public_url = get_service(request).params.serve.public_url
    return (public_url or str(request.base_url)).rstrip("/")


def parse_llm_outputs(row: JobRow) -> dict[str, Any]:
    """Return the column llm_outputs parsed; empty if it holds no JSON object, or not UTF-8."""
    text = row["llm_outputs"] or "{}"
    try:
        parsed = json.loads(text, parse_constant=lambda _: None)  # NaN and infinity
        if "\\ud" in text.lower():  # perhaps half a surrogate pair
            json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def serialize_job(row: JobRow, base_url: str) -> dict[str, Any]:
    """Return the body of GET /status: the columns and the URLs of the job's other parts."""
    payload = serialize_full_job(row, base_url)
    return {name: value for name, value in payload.items() if name not in _DOCUMENTS}


def serialize_full_job(row: JobRow, base_url: str) -> dict[str, Any]:
    """Return the body of GET /job/<id>/full-data: that of GET /status and the HTML documents."""
    id = row["id"]
    columns = {name: value for name, value in row.items() if name not in _HIDDEN}
    booleans = {name: bool(row[name]) for name in _BOOLEANS}
    texts = {name: row[name] or "" for name in _TEXTS}
    return (
        columns
        | booleans
        | texts
        | {
            "job_id": id,
            "step_phase": row["status"],
            "current_advisor": 1,
            "total_advisors": len((row["advisor"] or "").split(",")),
            "status_url": f"{base_url}/status/{id}",
            "stream_url": f"{base_url}/stream/{id}",
            "analysis_url": f"{base_url}/analysis/{id}",
            "summary_url": f"{base_url}/summary/{id}",
        }
    )


def serialize_new_job(row: JobRow, base_url: str) -> dict[str, Any]:
    """Return the body of POST /upload and POST /jobs."""
    payload = serialize_job(row, base_url) | {"advisors_used": row["advisor"].split(",")}
    names = "job_id filename advisor advisors_used mode enable_rag status status_url stream_url"
    return select_columns(payload, names)


def serialize_analysis(row: JobRow, device: str) -> dict[str, Any]:
    """Return the body of POST /analyze for a finished job."""
    llm_outputs = parse_llm_outputs(row)
    critique = llm_outputs.get("analysis") or {}
    overall_score = critique.get("overall_score")
    fallback_occurred = bool(row["fallback_occurred"])
    mode_used, reason = row["mode_used"], row["fallback_reason"]
    return {
        **select_columns(row, "advisor mode model"),
        "adapter": row["adapter"] or "",
        "device": device,
        "timestamp": row["completed_at"] or utc_timestamp(),
        **select_columns(row, "prompt llm_prompt"),
        "full_response": llm_outputs.get("response", ""),
        "llm_thinking": "",
        "analysis": critique,
        **select_columns(row, "analysis_html summary_html advisor_bio_html"),
        "summary": llm_outputs.get("summary", ""),
        "advisor_bio": row["advisor_bio"],
        "overall_score": overall_score,
        "parse_success": True,
        "single_pass": True,
        "rag_candidates": {"images": [], "quotes": []},
        "html": row["analysis_html"],
        **select_columns(row, "mode_used model_used adapter_version"),
        "fallback_occurred": fallback_occurred,
        "fallback_reason": reason,
        "job_id": row["id"],
        **select_columns(row, "tokens latency_seconds"),
        "metadata": {
            "mode_used": mode_used,
            "requested_mode": row["mode"],
            "effective_mode": mode_used,
            "fallback_occurred": fallback_occurred,
            "fallback_reason": reason,
            "overall_grade": None if overall_score is None else f"{overall_score:g}/10",
            "advisor_id": row["advisor"],
        },
    }
