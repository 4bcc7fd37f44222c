"""The start page, a critique's page, photos, feedback forms and login."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hmac import compare_digest
from io import BytesIO
from os.path import isfile  # unlike Path.is_file it accepts any name
from pathlib import Path
from random import sample
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from mondrian.core.errors import PhotoError
from mondrian.core.html import PAGE_THUMBNAIL_SIDE
from mondrian.core.images import read_thumbnail
from mondrian.critique import radar
from mondrian.critique.schema import MAX_LONG_TEXT
from mondrian.serving.assignment import normalize_mode
from mondrian.serving.feedback.form import FeedbackDraft, build_draft, build_feedback_body
from mondrian.serving.feedback.request import MAX_NOTE_CHARS, InvalidFeedbackError, parse_feedback
from mondrian.serving.http.critique_html import score_level
from mondrian.serving.http.exposure import parse_exposure
from mondrian.serving.http.histogram import Histogram
from mondrian.serving.http.page_response import (
    HANDLED_ERRORS,
    NO_ERROR,
    ErrorResponse,
    PageRoute,
    describe_and_count_error,
    render_html_response,
)
from mondrian.serving.http.request_parsing import read_form
from mondrian.serving.http.security import COOKIE, client_address, session_token
from mondrian.serving.http.uploads import RequestRejectedError
from mondrian.serving.jobs.view import (
    CritiquePage,
    build_page,
    build_radar_polygons,
)
from mondrian.serving.routes.feedback import load_job_view, record_feedback
from mondrian.serving.samples import SAMPLES, is_demo, read_sample
from mondrian.serving.service import Service, get_service
from mondrian.storage.feedback import CHOICES, add_vote, load_newest_feedback, load_votes
from mondrian.storage.history import load_entries
from mondrian.storage.jobs import JobRow

_BOTH_ARMS = "both"  # a mode of the start page only: one job per arm
_MAX_PHOTO_SIDE = 1600  # pixels of the longer side
_NOT_FOUND = "Critique not found; it may have been deleted."
_PHOTO_HEADERS = {"cache-control": "private, max-age=3600"}
_LOGIN_TEMPLATE = "serving/templates/login.html"
Drafts = dict[tuple[str, str], FeedbackDraft]  # by job and advisor

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/")
async def show_start_page(request: Request) -> Response:
    return _render_ask_page(get_service(request), {})


@router.post("/ask")
async def queue_critique(request: Request) -> Response:
    """Queue a critique and redirect to its page; errors are shown in the form.

    The script of the start page sends `accept: application/json`, to keep the chosen photo.
    """
    service, sends_json = get_service(request), request.headers.get("accept") == "application/json"
    try:
        ids = await _queue_jobs(service, request)
    except HANDLED_ERRORS as error:
        response = status, message, headers = describe_and_count_error(request, error)
        if sends_json:
            return JSONResponse({"message": message}, status, headers)
        # show the choices again, if the body was read
        is_read = isinstance(error, RequestRejectedError)
        form: Mapping[str, Any] = await request.form() if is_read else {}
        return _render_ask_page(service, form, response)
    if sends_json:
        return JSONResponse({"url": f"/view/{ids[0]}", "ids": ids}, 201)
    return RedirectResponse(f"/view/{ids[0]}", 303)


async def _queue_jobs(service: Service, request: Request) -> list[str]:
    """Return the id of the job, or with both arms those of both jobs, in random order."""
    service.admit()
    async with read_form(request, service.params) as form:
        if name := request.query_params.get("sample"):  # the form is sent without a photo
            form = replace(form, content=_read_sample(name), filename=name)
        use_both = form.mode == _BOTH_ARMS
        # random: the first job's id is in the page's URL, which must not tell its model
        first_mode, second_mode = sample(("base", "lora"), 2)
        if use_both:
            form = replace(form, mode=first_mode)
        normalize_mode(form.mode)
        await service.check_job_queue()
        row, upload, is_new = await service.accept(form, "upload", "queued")
    ids = [str(row["id"])]
    if is_new and use_both:
        other = replace(form, mode=second_mode, job_id=str(uuid4()), idempotency_key=None)
        await service.add_job(other, upload, "upload", "queued", pair_of=row["id"])
        ids.append(other.job_id)
    service.job_runner.notify_queued()
    return ids


def _read_sample(name: str) -> bytes:
    try:
        return read_sample(name)
    except KeyError:
        raise HTTPException(404, "There is no such sample photo.") from None


def _render_ask_page(
    service: Service, form: Mapping[str, Any], error: ErrorResponse = NO_ERROR
) -> Response:
    """Render the start page with the advisor and mode of `form` selected, if it has any."""
    status, message, headers = error
    return render_html_response(
        "serving/templates/ask.html",
        status,
        headers,
        message=message,
        form=form,
        params=service.params,
        ready=service.ready,
        state=service.engine.state,
        samples=SAMPLES if is_demo(service.settings) else {},
    )


@router.get("/view/{id}")
async def show_job_page(request: Request, id: str) -> Response:
    """The page of a job, also while it runs."""
    service = get_service(request)
    return await render_job_page(service, await service.get_job(id, _NOT_FOUND))


@router.get("/photo/{id}")
async def get_photo(request: Request, id: str, size: str = "") -> Response:
    """A job's photo as JPEG; with `size=thumb` smaller, with `size=full` in full size."""
    service = get_service(request)
    row = await service.get_job(id, _NOT_FOUND)
    runner, filename = service.job_runner, row["filename"] or ""
    side = PAGE_THUMBNAIL_SIDE if size == "thumb" else _MAX_PHOTO_SIDE
    try:
        if size == "full":
            content = await runner.decode_upload(service.uploads.render_jpeg, filename)
        else:
            path = _photo_path(service, row)
            content = await runner.call_upload_store(_read_jpeg, path, side)
    except (PhotoError, RequestRejectedError):
        raise HTTPException(404, "Photo not found") from None
    return Response(content, media_type="image/jpeg", headers=_PHOTO_HEADERS)


@router.post("/feedback/{id}")
async def post_feedback_form(request: Request, id: str, advisor: str = "") -> Response:
    """Store feedback; if it is invalid, show the form again with the errors."""
    service = get_service(request)
    row = await service.get_job(id, _NOT_FOUND)
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
    row = await service.get_job(id, _NOT_FOUND)
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


@router.post("/again/{id}")
async def restart_job(request: Request, id: str) -> Response:
    service = get_service(request)
    service.admit()
    row = await service.get_job(id, _NOT_FOUND)
    if not await service.job_runner.write_store(service.store.restart, row["id"]):
        raise HTTPException(409, "This critique cannot be started again now; reload its page.")
    service.job_runner.notify_queued()
    return RedirectResponse(f"/view/{row['id']}", 303)


@router.get("/login")
async def show_login_form(request: Request) -> Response:
    if not get_service(request).settings.api_key:
        return RedirectResponse("/", 303)
    return render_html_response(_LOGIN_TEMPLATE, message="")


@router.post("/login")
async def login(request: Request) -> Response:
    key = get_service(request).settings.api_key
    async with request.form(max_files=0, max_fields=4, max_part_size=1024) as form:
        entered = str(form.get("key", "")).strip()
    if not compare_digest(entered.encode(), key.encode()):
        return _reject_login(request)
    response = RedirectResponse("/", 303)
    if key:
        token, https = session_token(key), request.url.scheme == "https"
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=https)
    return response


def _reject_login(request: Request) -> Response:
    """Show the form again; after some wrong keys the status is 429."""
    status, message, headers = 403, "Wrong API key.", {}
    if seconds := request.app.state.wrong_keys.hit(client_address(request.scope)):
        status, headers = 429, {"retry-after": str(seconds)}
        message = f"Too many wrong API keys; try again in {seconds} s."
    get_service(request).metrics.refused.labels(str(status)).inc()
    return render_html_response(_LOGIN_TEMPLATE, status, headers, message=message)


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
        drafts=drafts,
        build_draft=build_draft,
    )


def _photo_path(service: Service, row: JobRow) -> Path:
    return service.uploads.path(row["filename"] or "")


def _read_jpeg(path: Path, side: int) -> bytes:
    content = BytesIO()
    read_thumbnail(path, side).save(content, "JPEG", quality=85)
    return content.getvalue()
