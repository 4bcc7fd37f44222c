"""Pages for people: a job, the history, photographs, and what a person says of a critique."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from os.path import isfile  # of any name, also of one that no disk takes
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from mondrian.core.errors import PhotoError
from mondrian.core.html import THUMBNAIL
from mondrian.core.images import read_thumbnail
from mondrian.critique import radar
from mondrian.critique.schema import LONG
from mondrian.serving.feedback.form import (
    CorrectionDraft,
    build_draft,
    build_feedback_body,
    initial_form_values,
)
from mondrian.serving.feedback.schema import MAX_NOTE_CHARS, InvalidFeedback, parse_feedback
from mondrian.serving.http.critique_html import format_score, score_css_class, score_label
from mondrian.serving.http.page_response import PageRoute, render_html_response
from mondrian.serving.jobs.view import AdvisorResult, JobView, build_job_view, build_radar_polygons
from mondrian.serving.routes import ask_page, live, login
from mondrian.serving.routes.feedback import record_feedback
from mondrian.serving.service import Service, get_service
from mondrian.storage.feedback import load_newest_feedback
from mondrian.storage.jobs import JobRow

MAX_PHOTO_SIDE = 900  # pixels of the longer side of a photograph on a page
HISTORY_LIMIT = 100  # jobs of the history
_NO_JOB_MESSAGE = "There is no such critique here; it may have been cleared."
Drafts = dict[tuple[str, str], CorrectionDraft]
_HEADERS = {"cache-control": "private, max-age=3600"}  # by a browser: a photograph never changes

router = APIRouter(include_in_schema=False, route_class=PageRoute)
for part in (ask_page, login, live):
    router.include_router(part.router)


@router.get("/view/{id}")
async def view(request: Request, id: str) -> Response:
    """A job: how it comes, and what came."""
    service = get_service(request)
    return await render_job_page(service, await service.get_job(id, _NO_JOB_MESSAGE))


@router.get("/history")
async def history(request: Request) -> Response:
    """The newest jobs."""
    service = get_service(request)
    rows = await service.work.call_store(
        service.store.list_newest, HISTORY_LIMIT, ("upload", "direct")
    )
    return await service.work.call_store(render_history_page, service, rows)


@router.get("/photo/{id}")
async def photo(request: Request, id: str, size: str = "") -> Response:
    """A job's photograph as a small JPEG; `size=thumb` for a smaller one."""
    service = get_service(request)
    row = await service.get_job(id, _NO_JOB_MESSAGE)
    path, side = _photo_path(service, row), THUMBNAIL if size == "thumb" else MAX_PHOTO_SIDE
    try:
        content = await service.work.call_upload_store(_jpeg, path, side)
    except PhotoError:
        raise HTTPException(404, "the photograph is gone") from None
    return Response(content, media_type="image/jpeg", headers=_HEADERS)


@router.post("/feedback/{id}")
async def post_feedback_form(request: Request, id: str, advisor: str = "") -> Response:
    """Keep what a person says of a critique; its page with what is wrong, where something is."""
    service = get_service(request)
    row = await service.get_job(id, _NO_JOB_MESSAGE)
    async with request.form(max_files=0, max_fields=40, max_part_size=16 * MAX_NOTE_CHARS) as sent:
        form = {name: value for name, value in sent.items() if isinstance(value, str)}
    entry = next(
        (entry for entry in await _load_parts(service, row) if entry.advisor == advisor), None
    )
    critique = (entry.corrected or entry.critique) if entry else None
    try:
        await record_feedback(
            service, row, parse_feedback(json.dumps(build_feedback_body(form, advisor, critique)))
        )
    except InvalidFeedback as error:
        if "correct" not in form or critique is None:
            raise HTTPException(400, str(error)) from None
        draft = build_draft(form, error.faults, critique)
        return await render_job_page(service, row, {(row["id"], advisor): draft}, 400)
    return RedirectResponse(f"/view/{row['id']}#said-{row['id']}-{advisor}", 303)


@router.post("/again/{id}")
async def requeue_job(request: Request, id: str) -> Response:
    """Begin a job once more."""
    service = get_service(request)
    service.admit()
    row = await service.get_job(id, _NO_JOB_MESSAGE)
    if not await service.work.call_store(service.store.requeue, row["id"]):
        raise HTTPException(409, f"the job is {row['status']}; it cannot be begun again")
    service.work.notify_queued()
    return RedirectResponse(f"/view/{row['id']}", 303)


def render_history_page(service: Service, rows: Sequence[JobRow]) -> Response:
    """Jobs for a person; in a thread, as it reads all that was said."""
    jobs = [build_job_view(row, service.params) for row in rows]
    ids_with_photo = {job.row["id"] for job in jobs if isfile(_photo_path(service, job.row))}
    return render_html_response("serving/templates/history.html", jobs=jobs, shown=ids_with_photo)


async def render_job_page(
    service: Service, row: JobRow, drafts: Drafts | None = None, status: int = 200
) -> Response:
    """One job for a person, beside the one of the other arm where both were asked.

    drafts  corrections that were refused, by job and advisor
    """
    if row["pair_of"]:
        other = await service.work.call_store(service.store.get, row["pair_of"])
        rows = [other, row] if other else [row]
    else:
        other = await service.work.call_store(service.store.get_paired, row["id"])
        rows = [row, other] if other else [row]
    return await service.work.call_store(_render_jobs, service, rows, drafts or {}, status)


def _render_jobs(service: Service, rows: Sequence[JobRow], drafts: Drafts, status: int) -> Response:
    feedback_rows = load_newest_feedback(service.store.engine, [row["id"] for row in rows])
    jobs = [build_job_view(row, service.params, feedback_rows) for row in rows]
    return render_html_response(
        "serving/templates/job.html",
        status,
        jobs=jobs,
        radars=_radars(jobs),
        corners=radar.corners(),
        names=radar.dimension_labels(),
        shown=isfile(_photo_path(service, rows[0])),
        note=MAX_NOTE_CHARS,
        score=format_score,
        tone=score_css_class,
        word=score_label,
        drafts=_drafts(jobs) | drafts,
        long=LONG,
    )


def _drafts(jobs: list[JobView]) -> Drafts:
    """What stands in each form at first: the critique, as it was corrected where it was."""
    return {
        (job.row["id"], entry.advisor): CorrectionDraft(
            initial_form_values(entry.corrected or entry.critique)
        )
        for job in jobs
        for entry in job.said
        if entry.critique
    }


async def _load_parts(service: Service, row: JobRow) -> tuple[AdvisorResult, ...]:
    feedback_rows = await service.work.call_store(
        load_newest_feedback, service.store.engine, [row["id"]]
    )
    return (await service.work.call_store(build_job_view, row, service.params, feedback_rows)).said


def _radars(jobs: list[JobView]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """The polygons of every critique, by job and advisor."""
    return {
        (job.row["id"], entry.advisor): build_radar_polygons(entry, jobs, job)
        for job in jobs
        for entry in job.said
    }


def _photo_path(service: Service, row: JobRow) -> Path:
    return service.intake.path(row["filename"] or "")


def _jpeg(path: Path, side: int) -> bytes:
    content = BytesIO()
    read_thumbnail(path, side).save(content, "JPEG", quality=85)
    return content.getvalue()
