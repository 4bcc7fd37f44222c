"""What people say of critiques, by API: thumbs, a note, and what is to be trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mondrian.serving.feedback.merge import build_feedback_values
from mondrian.serving.feedback.schema import (
    FeedbackRequest,
    FieldError,
    InvalidFeedback,
    parse_feedback,
)
from mondrian.serving.http.openapi import ERROR_RESPONSES, FEEDBACK_BODY, FEEDBACK_RESPONSE
from mondrian.serving.jobs.view import AdvisorResult, build_job_view
from mondrian.serving.service import Service, get_service
from mondrian.storage.feedback import (
    FEEDBACK_COLUMNS,
    add_feedback,
    load_feedback_history,
    load_newest_feedback,
)
from mondrian.storage.jobs import JobRow

_MAX_BODY_BYTES = (
    256_000  # bytes of a body: a critique as long as can be, every character escaped, has fewer
)
_JSON_FIELDS = (
    *FEEDBACK_COLUMNS,
    "advisor",
    "original",
    "side",
    "model_used",
    "adapter_version",
    "rollout",
    "photo_sha256",
)

router = APIRouter(tags=["feedback"])


@router.post(
    "/jobs/{id}/feedback",
    openapi_extra=FEEDBACK_BODY,
    responses=ERROR_RESPONSES | FEEDBACK_RESPONSE,
)
async def post_feedback(request: Request, id: str) -> JSONResponse:
    """Say something of a critique: thumbs, a note, accept it for training, or correct it."""
    service = get_service(request)
    content = await _read_body(request)
    row = await service.get_job(id)
    try:
        await record_feedback(service, row, parse_feedback(content))
    except InvalidFeedback as error:
        service.metrics.refused.labels("400").inc()
        faults = [{"field": fault.field, "told": fault.told} for fault in error.faults]
        return JSONResponse({"error": str(error), "faults": faults}, 400)
    return JSONResponse(await _load_feedback(service, await service.get_job(id)))


@router.get("/jobs/{id}/feedback", responses=ERROR_RESPONSES | FEEDBACK_RESPONSE)
async def get_feedback(request: Request, id: str) -> JSONResponse:
    """What was said of a job: what counts, one for each advisor, and all before, newest first."""
    service = get_service(request)
    return JSONResponse(await _load_feedback(service, await service.get_job(id)))


async def record_feedback(service: Service, row: JobRow, opinion: FeedbackRequest) -> None:
    """Keep an opinion of a job. Raises Faults, and HTTPException 409 where it cannot be judged."""
    values, served = await service.work.call_store(_resolve_feedback, service, row, opinion)
    if not await service.work.call_store(add_feedback, service.store.engine, row, values, served):
        raise HTTPException(409, "the job has changed meanwhile; look at it again")
    if values.get("thumbs") and values["thumbs"] != row["thumbs"]:
        up = str(values["thumbs"] > 0).lower()
        service.metrics.thumbs.labels(row["model_used"] or "", up).inc()


def _resolve_feedback(
    service: Service, row: JobRow, opinion: FeedbackRequest
) -> tuple[dict[str, Any], dict[str, str | None]]:
    reading = build_job_view(row, service.params)
    if not reading.done:
        raise HTTPException(409, f"the job is {row['status']}; there is no critique to judge")
    spoken = _select_results(opinion, reading.said)
    name, critique = (spoken[0].advisor, spoken[0].critique) if spoken else ("", None)
    prompts = [row[column] for column in ("prompt", "llm_prompt") if row[column]]
    values = build_feedback_values(opinion, name, critique, prompts)
    return values, {part.advisor: part.served_json for part in spoken}


def _select_results(
    opinion: FeedbackRequest, parts: Sequence[AdvisorResult]
) -> list[AdvisorResult]:
    """The parts of a job that an opinion is of: thumbs and notes without an advisor are of all."""
    advisors = ", ".join(part.advisor for part in parts)
    if opinion.advisor:
        matches = [part for part in parts if part.advisor == opinion.advisor.strip()]
        if not matches:
            message = f"is {opinion.advisor[:40]!r}; the job asked {advisors or 'nobody'}"
            raise InvalidFeedback(FieldError("advisor", message))
        return matches
    if len(parts) > 1 and (opinion.has_correction or opinion.verdict):
        raise InvalidFeedback(FieldError("advisor", f"is missing; the job asked {advisors}"))
    return list(parts)


async def _load_feedback(service: Service, row: JobRow) -> JobRow:
    engine, db = service.store.engine, service.work.call_store
    now = await db(load_newest_feedback, engine, [row["id"]])
    reading = await db(build_job_view, row, service.params, now)
    counts = [part.kept for part in reading.said if part.kept and "number" in part.kept]
    before = await db(load_feedback_history, engine, row["id"])
    return {
        "job_id": row["id"],
        "feedback": [_serialize_row(entry) for entry in counts],
        "history": [_serialize_row(entry) for entry in before],
    }


def _serialize_row(row: JobRow) -> JobRow:
    payload = {name: row[name] for name in _JSON_FIELDS}
    for name in ("critique", "original"):
        payload[name] = json.loads(payload[name]) if payload[name] else None
    created_at = datetime.fromtimestamp(row["at"], UTC)
    return payload | {"number": row["number"], "at": created_at.isoformat(timespec="milliseconds")}


async def _read_body(request: Request) -> bytes:
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MAX_BODY_BYTES:
            raise HTTPException(413, f"the body has more than {_MAX_BODY_BYTES:,} bytes")
    return content
