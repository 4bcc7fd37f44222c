"""The feedback API: thumbs, notes, acceptance for training and corrections."""

import json
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mondrian.serving.feedback.request import (
    FeedbackRequest,
    FieldError,
    InvalidFeedbackError,
    build_feedback_values,
    parse_feedback,
)
from mondrian.serving.http import openapi
from mondrian.serving.http.request_parsing import read_small_body
from mondrian.serving.http.responses import select_columns
from mondrian.serving.jobs.view import AdvisorResult, JobView, build_job_view
from mondrian.serving.service import Service, get_service
from mondrian.storage.feedback import (
    FeedbackRow,
    add_feedback,
    load_feedback_history,
    load_newest_feedback,
)
from mondrian.storage.jobs import JobRow

router = APIRouter(tags=["feedback"], responses=openapi.ERROR_RESPONSES)


@router.post("/jobs/{id}/feedback", **openapi.FEEDBACK)
async def post_feedback(request: Request, id: str) -> JSONResponse:
    """Give feedback on a critique: thumbs, a note, acceptance for training, or a correction."""
    service = get_service(request)
    body = await read_small_body(request)
    row = await service.get_job(id)
    try:
        await record_feedback(service, row, parse_feedback(body))
    except InvalidFeedbackError as error:
        service.metrics.refused.labels("400").inc()
        faults = [{"field": e.field, "message": e.message} for e in error.errors]
        return JSONResponse({"error": str(error), "faults": faults}, 400)
    return await get_feedback(request, id)


@router.get("/jobs/{id}/feedback", responses=openapi.FEEDBACK["responses"])
async def get_feedback(request: Request, id: str) -> JSONResponse:
    """The newest feedback on each advisor's critique, and the history, newest first."""
    service = get_service(request)
    row = await service.get_job(id)
    view = await load_job_view(service, row)
    history = await service.job_runner.call_store(
        load_feedback_history, service.store.reader, row["id"]
    )
    # feedback without a number is from the job's row, not from the feedback table
    newest = [r.feedback for r in view.results if r.feedback and "number" in r.feedback]
    return JSONResponse(
        {
            "job_id": row["id"],
            "feedback": [_serialize_feedback(feedback) for feedback in newest],
            "history": [_serialize_feedback(feedback) for feedback in history],
        }
    )


async def load_job_view(service: Service, row: JobRow) -> JobView:
    """Build a job's view with its feedback."""
    call = service.job_runner.call_store
    feedback = await call(load_newest_feedback, service.store.reader, [row["id"]])
    return await call(build_job_view, row, service.params, feedback)


async def record_feedback(service: Service, row: JobRow, feedback: FeedbackRequest) -> None:
    """Store feedback on a job.

    Raises InvalidFeedbackError, or HTTPException 409 if the job has no critique or has changed.
    """
    values, served = await service.job_runner.call_store(_resolve_feedback, service, row, feedback)
    if not await service.job_runner.write_store(
        add_feedback, service.store.engine, row, values, served
    ):
        raise HTTPException(409, "the job has changed meanwhile; reload it")
    if values.get("thumbs") and values["thumbs"] != row["thumbs"]:
        up = str(values["thumbs"] > 0).lower()
        service.metrics.thumbs.labels(row["model_used"] or "", up).inc()


def _resolve_feedback(
    service: Service, row: JobRow, feedback: FeedbackRequest
) -> tuple[FeedbackRow, dict[str, str | None]]:
    """Return the values to store, and the served critique of each advisor they are about."""
    view = build_job_view(row, service.params)
    if not view.is_completed:
        raise HTTPException(409, f"the job is {row['status']}; it has no critique to rate")
    results = _select_results(feedback, view)
    advisor, critique = (results[0].advisor, results[0].critique) if results else ("", None)
    prompts = [row[column] for column in ("prompt", "llm_prompt") if row[column]]
    values = build_feedback_values(feedback, advisor, critique, prompts)
    return values, {result.advisor: result.served_json for result in results}


def _select_results(feedback: FeedbackRequest, view: JobView) -> list[AdvisorResult]:
    """Return the results that feedback is about: without an advisor, all of them."""
    advisors = ", ".join(result.advisor for result in view.results)
    if feedback.advisor:
        advisor = feedback.advisor.strip()
        results = [result for result in view.results if result.advisor == advisor]
        if not results:
            message = f"is {feedback.advisor[:40]!r}; the job has {advisors or 'no advisor'}"
            raise InvalidFeedbackError(FieldError("advisor", message))
        return results
    if len(view.results) > 1 and (feedback.has_correction or feedback.verdict):
        raise InvalidFeedbackError(FieldError("advisor", f"is missing; the job has {advisors}"))
    return list(view.results)


def _serialize_feedback(row: FeedbackRow) -> dict[str, Any]:
    payload = select_columns(
        row,
        "thumbs note verdict critique who advisor original side model_used adapter_version rollout "
        "photo_sha256 number",
    )
    for name in ("critique", "original"):
        payload[name] = _parse_json(row[name])
    return payload | {"created_at": _format_time(row["at"])}


def _parse_json(text: str | None) -> Any:
    """Return the value; None for what another program damaged."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _format_time(seconds: Any) -> str | None:
    """Return seconds since 1970 as ISO time; None if another program wrote something else."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (TypeError, ValueError, OverflowError, OSError):
        return None
