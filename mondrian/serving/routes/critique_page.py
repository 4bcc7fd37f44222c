"""A critique's page, its photo, and the forms for rating and voting."""

import json
from collections.abc import Sequence
from io import BytesIO
from os.path import isfile  # unlike Path.is_file it accepts any name
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from mondrian.core.errors import PhotoError
from mondrian.core.html import PAGE_THUMBNAIL_SIDE
from mondrian.core.images import read_thumbnail
from mondrian.critique import radar
from mondrian.critique.schema import MAX_LONG_TEXT
from mondrian.serving.feedback.form import FeedbackDraft, build_draft, build_feedback_body
from mondrian.serving.feedback.request import MAX_NOTE_CHARS, InvalidFeedbackError, parse_feedback
from mondrian.serving.http.critique_html import score_level
from mondrian.serving.http.error_wording import describe_job_error
from mondrian.serving.http.exposure import parse_exposure
from mondrian.serving.http.histogram import Histogram
from mondrian.serving.http.html_response import render_html_response
from mondrian.serving.http.page_response import PageRoute
from mondrian.serving.http.uploads import RequestRejectedError
from mondrian.serving.jobs.view import (
    CritiquePage,
    build_page,
    build_radar_polygons,
)
from mondrian.serving.routes.feedback import load_job_view, record_feedback
from mondrian.serving.service import Service, get_service
from mondrian.storage.feedback import CHOICES, add_vote, load_newest_feedback, load_votes
from mondrian.storage.history import load_entries
from mondrian.storage.jobs import JobRow

_MAX_PHOTO_SIDE = 1600  # pixels of the longer side
CRITIQUE_NOT_FOUND = "Critique not found; it may have been deleted."
_PHOTO_HEADERS = {"cache-control": "private, max-age=3600"}
_FILES = StaticFiles()  # answers conditional requests and ranges
Drafts = dict[tuple[str, str], FeedbackDraft]  # by job and advisor

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/view/{id}")
async def show_job_page(request: Request, id: str) -> Response:
    """The page of a job, also while it runs."""
    service = get_service(request)
    return await render_job_page(service, await service.get_job(id, CRITIQUE_NOT_FOUND))


@router.get("/photo/{id}")
async def get_photo(request: Request, id: str, size: str = "") -> Response:
    """A job's photo as JPEG; with `size=thumb` smaller, with `size=full` in full size."""
    service = get_service(request)
    row = await service.get_job(id, CRITIQUE_NOT_FOUND)
    side = PAGE_THUMBNAIL_SIDE if size == "thumb" else _MAX_PHOTO_SIDE
    if not isfile(_photo_path(service, row)):  # a pipe, which is never read to its end, too
        raise HTTPException(404, "Photo not found")
    try:
        if size == "full":
            path = await _find_full_photo(service, row)
            response = _FILES.file_response(path, path.stat(), request.scope)
            response.headers.update(_PHOTO_HEADERS)
            return response
        path = _photo_path(service, row)
        content = await service.job_runner.call_upload_store(_read_jpeg, path, side)
    except (PhotoError, RequestRejectedError, FileNotFoundError):
        raise HTTPException(404, "Photo not found") from None
    return Response(content, media_type="image/jpeg", headers=_PHOTO_HEADERS)


async def _find_full_photo(service: Service, row: JobRow) -> Path:
    """Return a JPEG of a job's photo in full size without metadata, which is made once.

    Raises RequestRejectedError, FileNotFoundError or ValueError if there is none.
    """
    runner, uploads, filename = service.job_runner, service.uploads, row["filename"] or ""
    if row["kind"] and isfile(uploads.path(filename)):  # which `UploadStore.save` made
        return uploads.path(filename)
    if copy := await runner.call_upload_store(uploads.find_full_copy, filename):
        return copy
    return await runner.decode_upload(uploads.save_full_copy, filename)


@router.post("/feedback/{id}")
async def post_feedback_form(request: Request, id: str, advisor: str = "") -> Response:
    """Store feedback; if it is invalid, show the form again with the errors."""
    service = get_service(request)
    row = await service.get_job(id, CRITIQUE_NOT_FOUND)
    async with request.form(max_files=0, max_fields=40, max_part_size=16 * MAX_NOTE_CHARS) as data:
        form = {name: value for name, value in data.items() if isinstance(value, str)}
    result = (await load_job_view(service, row)).result(advisor)
    critique = result.visible if result else None
    try:
        body = json.dumps(build_feedback_body(form, advisor, critique))
        await record_feedback(service, row, parse_feedback(body))
    except InvalidFeedbackError as error:
        if result is None:
            raise HTTPException(400, str(error)) from None
        draft = build_draft(critique, result.note, form, error.errors)
        return await render_job_page(service, row, {(row["id"], advisor): draft}, 400)
    return RedirectResponse(f"/view/{row['id']}#feedback-{row['id']}-{advisor}", 303)


@router.post("/vote/{id}")
async def post_vote(request: Request, id: str, advisor: str = "") -> Response:
    """Store which of two critiques is better, judged before the page shows their models."""
    service = get_service(request)
    call = service.job_runner.call_store
    row = await service.get_job(id, CRITIQUE_NOT_FOUND)
    async with request.form(max_files=0, max_fields=4, max_part_size=1024) as form:
        choice = form.get("choice")
    if choice not in CHOICES:
        raise HTTPException(
            400, f"choice is {choice!r:.40}; it must be one of {', '.join(CHOICES)}"
        )
    page = await call(_load_page, service, await _load_pair(service, row))
    rows = [job.row for job in page.jobs]
    if not page.can_vote(advisor) or not await service.job_runner.write_store(
        add_vote, service.store.engine, advisor, rows, choice
    ):
        raise HTTPException(409, "The critiques cannot be compared blind now; reload their page.")
    return RedirectResponse(f"/view/{row['id']}#vote-{advisor}", 303)


async def render_job_page(
    service: Service, row: JobRow, drafts: Drafts | None = None, status: int = 200
) -> Response:
    """Render a job, next to the other arm's job if both were requested.

    drafts  feedback with errors
    """
    rows = await _load_pair(service, row)
    histogram = await _load_histogram(service, row)
    call = service.job_runner.call_store
    return await call(_render_jobs, service, rows, histogram, drafts or {}, status)


async def _load_pair(service: Service, row: JobRow) -> list[JobRow]:
    """Return a job and, if both arms were requested, the other arm's."""
    call, reader = service.job_runner.call_store, service.store.reader
    entries = (await call(load_entries, reader, [row["id"]])).entries
    return entries[0] if entries else [row]  # deleted meanwhile


async def _load_histogram(service: Service, row: JobRow) -> Histogram | None:
    """Return the histogram of a job's photo; None if it is missing or unreadable."""
    if not row["filename"] or not isfile(_photo_path(service, row)):
        return None
    compute = service.uploads.compute_histogram
    try:
        return await service.job_runner.call_upload_store(compute, row["filename"])
    except PhotoError:
        return None


def _load_page(service: Service, rows: Sequence[JobRow]) -> CritiquePage:
    engine, ids = service.store.reader, [row["id"] for row in rows]
    feedback, votes = load_newest_feedback(engine, ids), load_votes(engine, ids)
    return build_page(rows, service.params, feedback, votes)


def _render_jobs(
    service: Service,
    rows: Sequence[JobRow],
    histogram: Histogram | None,
    drafts: Drafts,
    status: int,
) -> Response:
    page = _load_page(service, rows)
    return render_html_response(
        "serving/templates/job.html",
        status,
        page=page,
        jobs=page.jobs,
        radar_corners=radar.corner_points(),
        radar_labels=radar.dimension_labels(),
        radar_polygons=build_radar_polygons,
        advisor_names={name: service.params.profile(name).name for name in service.params.advisors},
        has_photo=isfile(_photo_path(service, rows[0])),
        histogram=histogram,
        exposure=parse_exposure(rows[0]["exposure"]),
        max_note_chars=MAX_NOTE_CHARS,
        max_text_chars=MAX_LONG_TEXT,
        score_level=score_level,
        describe_job_error=describe_job_error,
        drafts=drafts,
        build_draft=build_draft,
    )


def _photo_path(service: Service, row: JobRow) -> Path:
    return service.uploads.path(row["filename"] or "")


def _read_jpeg(path: Path, side: int) -> bytes:
    content = BytesIO()
    read_thumbnail(path, side).save(content, "JPEG", quality=85)
    return content.getvalue()
