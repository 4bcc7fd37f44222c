"""The job service of today's clients: photographs put in a queue, and what became of them."""

from __future__ import annotations

from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from mondrian.serving.assignment import normalize_mode
from mondrian.serving.http import responses
from mondrian.serving.http.critique_html import render_portrait
from mondrian.serving.http.openapi import (
    CHANGE_JOB_BODY,
    CREATE_JOB_BODY,
    ERROR_RESPONSES,
    UPLOAD_BODY,
    UPLOAD_RESPONSE,
    build_responses,
)
from mondrian.serving.http.request_parsing import MAX_FIELD_CHARS, read_form, read_json
from mondrian.serving.routes import feedback
from mondrian.serving.routes.pages import render_history_page, render_job_page
from mondrian.serving.service import Service, get_service
from mondrian.storage.jobs import COMPLETED_STATUSES, JobRow

router = APIRouter(tags=["jobs"])
router.include_router(feedback.router)


@router.get("/advisors", responses=ERROR_RESPONSES)
async def advisors(request: Request) -> JSONResponse:
    """Every advisor that may be asked."""
    service = get_service(request)
    entries = [_advisor(service, name) for name in service.params.advisors]
    return JSONResponse(
        {"advisors": entries, "count": len(entries), "timestamp": responses.current_timestamp()}
    )


@router.get("/advisors/{name}", responses=ERROR_RESPONSES)
async def advisor(request: Request, name: str) -> JSONResponse:
    """One advisor."""
    service = get_service(request)
    _check_advisor(service, name)
    profile = service.params.profile(name)
    entry = _advisor(service, name) | {
        "years": profile.years,
        "wikipedia_url": profile.wikipedia_url,
        "commons_url": "",
        "image_url": f"/advisor_image/{name}",
        "artworks": [],
    }
    return JSONResponse({"advisor": entry, "timestamp": responses.current_timestamp()})


@router.get(
    "/advisor_image/{name}", response_class=Response, responses=build_responses("image/svg+xml")
)
async def advisor_image(request: Request, name: str) -> Response:
    """A drawn sign in place of a portrait."""
    service = get_service(request)
    _check_advisor(service, name)
    svg = render_portrait(service.params.profile(name).name)
    return Response(svg, media_type="image/svg+xml")


@router.get("/advisor_artwork/{name}/{number}", responses=ERROR_RESPONSES)
@router.get("/advisor_artwork/{name}/lightbox/{number}", responses=ERROR_RESPONSES)
async def advisor_artwork(name: str, number: str) -> JSONResponse:
    """There are no pictures of other people's work here."""
    raise HTTPException(404, "Artwork not found")


@router.get("/reference_image/{file}", responses=ERROR_RESPONSES)
async def reference_image(file: str) -> JSONResponse:
    """There is no retrieval here, so there are no references."""
    raise HTTPException(404, "Image not found")


@router.post(
    "/upload",
    status_code=201,
    openapi_extra=UPLOAD_BODY,
    responses=ERROR_RESPONSES | UPLOAD_RESPONSE,
)
async def upload(request: Request) -> JSONResponse:
    """Put a photograph in the queue."""
    service = get_service(request)
    service.admit()
    form = await read_form(request, service.params)
    normalize_mode(form.mode)
    await service.check_queue()
    status = "queued" if form.auto_analyze else "pending"
    row, _, new = await service.accept(form, "upload", status)
    if new:
        service.work.notify_queued()
    return JSONResponse(_serialize_new_job(row), 201)


class CreateJobRequest(BaseModel):
    """POST /jobs: an uploaded photograph once more."""

    model_config = ConfigDict(extra="ignore")
    image_path: str = Field(max_length=MAX_FIELD_CHARS)
    advisor: str = Field("", max_length=MAX_FIELD_CHARS)
    mode: str = Field("baseline", max_length=MAX_FIELD_CHARS)


class ChangeJobRequest(BaseModel):
    """PUT /jobs/<id>: begin again, begin, or give up."""

    model_config = ConfigDict(extra="ignore")
    status: str = Field(max_length=MAX_FIELD_CHARS)


@router.post(
    "/jobs",
    status_code=201,
    openapi_extra=CREATE_JOB_BODY,
    responses=ERROR_RESPONSES | UPLOAD_RESPONSE,
)
async def create(request: Request) -> JSONResponse:
    """Another critique of a photograph that was uploaded here; no other path is taken."""
    service = get_service(request)
    service.admit()
    body = await read_json(request, CreateJobRequest)
    await service.check_queue()
    source_job = await service.work.call_store(service.store.find_by_photo, body.image_path)
    if source_job is None:
        raise HTTPException(
            400, "image_path names no photograph that was uploaded here; send it to /upload"
        )
    advisor = body.advisor.strip().lower() or service.params.advisors[0]
    _check_advisor(service, advisor, 400)
    mode = body.mode.strip().lower() or "baseline"
    id = str(uuid4())
    normalize_mode(mode)
    row, _ = await service.work.call_store(
        service.store.add,
        {
            "id": id,
            "filename": source_job["filename"],
            "advisor": advisor,
            "mode": mode,
            "status": "queued",
            "kind": "upload",
            "subject": id,
            "enable_rag": 0,
            "photo_sha256": source_job["photo_sha256"],
            "experiment": service.params.serve.experiment,
        },
    )
    service.work.notify_queued()
    return JSONResponse(_serialize_new_job(row), 201)


@router.get("/jobs", responses=build_responses("application/json", "text/html"))
async def list_jobs(request: Request, limit: str = "100", format: str = "json") -> Response:
    """The newest jobs; `format=html` for a person."""
    service = get_service(request)
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= 1000:
        raise HTTPException(400, f"limit is {limit[:20]!r}; it must be from 1 to 1000")
    rows = await service.work.call_store(service.store.list_newest, int(limit))
    if format == "html":
        return await service.work.call_store(render_history_page, service, rows)
    jobs = [responses.serialize_job(row) for row in rows]
    return JSONResponse(
        {"jobs": jobs, "count": len(jobs), "timestamp": responses.current_timestamp()}
    )


@router.delete("/jobs", responses=ERROR_RESPONSES)
async def clear(request: Request) -> JSONResponse:
    """Forget every job of this service and its photograph; those under way stay."""
    service = get_service(request)
    gone = await service.work.call_store(service.store.delete_inactive)
    for filename in gone:
        await service.work.call_upload_store(service.intake.delete, filename)
    return JSONResponse({"message": "All jobs cleared", "photographs": len(gone)})


@router.get("/status/{id}", responses=build_responses("application/json", "text/html"))
@router.get("/jobs/{id}", responses=build_responses("application/json", "text/html"))
async def status(request: Request, id: str, view: str = "") -> Response:
    """How a job is: its row. `view=detail` for a person."""
    service = get_service(request)
    row = await service.get_job(id)
    return (
        await render_job_page(service, row)
        if view == "detail"
        else JSONResponse(responses.serialize_job(row))
    )


@router.put("/jobs/{id}", openapi_extra=CHANGE_JOB_BODY, responses=ERROR_RESPONSES)
async def change(request: Request, id: str) -> JSONResponse:
    """Queue a job again, or give one up."""
    service = get_service(request)
    body, row = await read_json(request, ChangeJobRequest), await service.get_job(id)
    requested_status, done = body.status.strip().lower(), False
    if requested_status == "queued":
        done = await service.work.call_store(service.store.requeue, row["id"])
        service.work.notify_queued()
    elif requested_status in ("failed", "cancelled"):
        done = await service.work.call_store(service.store.cancel, row["id"])
    else:
        raise HTTPException(
            400, f"status is {requested_status[:40]!r}; it can be set to queued or failed"
        )
    if not done:
        raise HTTPException(409, f"the job is {row['status']}; it cannot become {requested_status}")
    return JSONResponse(responses.serialize_job(await service.get_job(id)))


@router.get("/analysis/{id}", response_class=HTMLResponse, responses=ERROR_RESPONSES)
async def analysis(request: Request, id: str) -> Response:
    """The critique as a document."""
    row = await get_service(request).get_job(id)
    if not row["analysis_html"]:
        raise HTTPException(404, "Analysis not found")
    return HTMLResponse(row["analysis_html"])


@router.get("/summary/{id}", response_class=HTMLResponse, responses=ERROR_RESPONSES)
async def summary(request: Request, id: str) -> Response:
    """Its three recommendations as a document."""
    row = await get_service(request).get_job(id)
    if row["status"] not in COMPLETED_STATUSES:
        raise HTTPException(400, "Job not completed yet")
    return HTMLResponse(row["summary_html"] or "")


@router.get("/llm-outputs/{id}", responses=ERROR_RESPONSES)
async def llm_outputs(request: Request, id: str) -> JSONResponse:
    """What the model said, as it is stored."""
    row = await get_service(request).get_job(id)
    return JSONResponse({"job_id": row["id"], "llm_outputs": responses.parse_llm_outputs(row)})


@router.get("/job/{id}/{part}", responses=ERROR_RESPONSES)
async def get_job_part(request: Request, id: str, part: str) -> JSONResponse:
    """prompt, thinking or full-data of a job."""
    row = await get_service(request).get_job(id)
    if part == "full-data":
        return JSONResponse(
            responses.serialize_job(row) | {"llm_outputs": responses.parse_llm_outputs(row)}
        )
    column = {"prompt": "prompt", "thinking": "llm_thinking"}.get(part)
    if column is None:
        raise HTTPException(404, f"a job has prompt, thinking and full-data, no {part[:40]!r}")
    return JSONResponse({"job_id": row["id"], part: row[column] or ""})


def _serialize_new_job(row: JobRow) -> JobRow:
    return {
        "job_id": row["id"],
        "filename": row["filename"],
        "advisor": row["advisor"],
        "advisors_used": row["advisor"].split(","),
        "status": row["status"],
        "status_url": f"/status/{row['id']}",
        "stream_url": f"/stream/{row['id']}",
    }


def _advisor(service: Service, name: str) -> JobRow:
    profile = service.params.profile(name)
    return {
        "id": name,
        "name": profile.name,
        "specialty": profile.specialty,
        "bio": profile.bio,
        "focus_areas": [{"title": t, "description": d} for t, d in profile.focus_areas.items()],
    }


def _check_advisor(service: Service, name: str, status: int = 404) -> None:
    if name not in service.params.advisors:
        raise HTTPException(status, "Advisor not found")
