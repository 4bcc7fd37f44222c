"""The job service of existing clients: advisors, the queue, and the parts of a job."""

from functools import partial
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from mondrian.core.params import Profile
from mondrian.serving.assignment import normalize_mode
from mondrian.serving.http import openapi
from mondrian.serving.http.request_parsing import (
    MAX_FIELD_CHARS,
    identify_client,
    parse_advisors,
    read_form,
    read_json_body,
)
from mondrian.serving.http.responses import (
    LIST_COLUMNS,
    get_base_url,
    parse_llm_outputs,
    serialize_full_job,
    serialize_job,
    serialize_new_job,
)
from mondrian.serving.portraits import draw_portrait
from mondrian.serving.routes import feedback
from mondrian.serving.routes.critique_page import render_job_page
from mondrian.serving.routes.history import render_jobs
from mondrian.serving.service import Service, get_service
from mondrian.storage.jobs import COMPLETED_STATUSES, utc_timestamp

router = APIRouter(tags=["jobs"], responses=openapi.ERROR_RESPONSES)
router.include_router(feedback.router)
MAX_LISTED_JOBS = 200  # a larger limit gets these
_PORTRAIT_HEADERS = {"cache-control": "private, max-age=86400"}
_JSON_OR_HTML = openapi.build_responses("application/json", "text/html")


@router.get("/advisors")
async def advisors(request: Request) -> JSONResponse:
    """All advisors."""
    params = get_service(request).params
    base_url = get_base_url(request)
    items = [_serialize_advisor(name, params.profile(name), base_url) for name in params.advisors]
    return JSONResponse({"advisors": items, "count": len(items), "timestamp": utc_timestamp()})


@router.get("/advisors/{name}")
async def advisor(request: Request, name: str) -> JSONResponse:
    """One advisor."""
    profile = _get_profile(get_service(request), name)
    details = {
        "years": profile.years,
        "wikipedia_url": profile.wikipedia_url,
        "commons_url": "",
    }
    advisor = _serialize_advisor(name, profile, get_base_url(request)) | details
    return JSONResponse({"advisor": advisor, "timestamp": utc_timestamp()})


@router.get("/advisor_image/{name}", **openapi.returns("image/jpeg"))
async def advisor_image(request: Request, name: str) -> Response:
    """The advisor's portrait: a drawing with the initials."""
    service = get_service(request)
    profile = _get_profile(service, name)
    texts = f"{profile.specialty} {profile.bio}"
    content = await service.job_runner.call_upload_store(draw_portrait, name, profile.name, texts)
    return Response(content, media_type="image/jpeg", headers=_PORTRAIT_HEADERS)


@router.get("/advisor_artwork/{name}/{number}")
@router.get("/advisor_artwork/{name}/lightbox/{number}")
async def advisor_artwork(name: str, number: str) -> JSONResponse:
    """Always 404: this service has no artworks."""
    raise HTTPException(404, "Artwork not found")


@router.get("/reference_image/{file}")
async def reference_image(file: str) -> JSONResponse:
    """Always 404: this service has no retrieval."""
    raise HTTPException(404, "Image not found")


@router.post("/upload", status_code=201, **openapi.UPLOAD)
async def upload(request: Request) -> JSONResponse:
    """Upload a photo and queue its critique."""
    service = get_service(request)
    service.admit()
    async with read_form(request, service.params) as form:
        normalize_mode(form.mode)
        await service.intake.check_queue()
        status = "queued" if form.auto_analyze else "pending"
        row, _, is_new = await service.intake.accept(form, "upload", status)
    if is_new:
        service.job_runner.notify_queued()
    return JSONResponse(serialize_new_job(row, get_base_url(request)), 201)


class CreateJobRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")
    image_path: str = Field(max_length=MAX_FIELD_CHARS)
    advisor: str = Field("", max_length=MAX_FIELD_CHARS)
    mode: str = Field("baseline", max_length=MAX_FIELD_CHARS)


class ChangeJobRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")
    status: str = Field(max_length=MAX_FIELD_CHARS)


@router.post("/jobs", status_code=201, **openapi.CREATE_JOB)
async def create(request: Request) -> JSONResponse:
    """Queue another critique of a photo that was uploaded to this service."""
    service = get_service(request)
    service.admit()
    body = await read_json_body(request, CreateJobRequest)
    await service.intake.check_queue()
    source_job = await service.job_runner.call_store(service.store.find_by_photo, body.image_path)
    if source_job is None:
        raise HTTPException(400, "image_path is not a photo of this service; send it to /upload")
    advisors = parse_advisors(body.advisor, service.params, seed=str(uuid4()))
    mode = body.mode.strip().lower() or "baseline"
    normalize_mode(mode)
    client = identify_client(request)
    row = await service.intake.add_for_photo(source_job, ",".join(advisors), mode, client)
    return JSONResponse(serialize_new_job(row, get_base_url(request)), 201)


@router.get("/jobs", responses=_JSON_OR_HTML)
async def list_jobs(request: Request, limit: str = "100", format: str = "json") -> Response:
    """The newest jobs, at most 200; with `format=html` as a page."""
    service = get_service(request)
    if not limit.isascii() or not limit.isdigit() or not int(limit[:9]):
        raise HTTPException(400, f"limit is {limit[:20]!r}; it must be a number from 1 to 200")
    max_rows = min(int(limit[:9]), MAX_LISTED_JOBS)
    list_newest = partial(service.job_runner.call_store, service.store.list_newest, max_rows)
    if format == "html":
        rows = await list_newest()
        return await service.job_runner.call_store(render_jobs, service, rows)
    jobs = await list_newest(columns=LIST_COLUMNS)
    body = {"jobs": jobs, "count": len(jobs), "timestamp": utc_timestamp()}
    return await service.job_runner.call_store(JSONResponse, body)


@router.delete("/jobs")
async def clear(request: Request) -> JSONResponse:
    """Delete all jobs of this service and their photos, except running jobs."""
    service = get_service(request)
    filenames = await service.job_runner.write_store(service.store.delete_inactive)
    for filename in filenames:
        await service.job_runner.call_upload_store(service.uploads.delete, filename)
    return JSONResponse({"message": "All jobs cleared", "photographs": len(filenames)})


@router.get("/status/{id}", responses=_JSON_OR_HTML)
@router.get("/jobs/{id}", responses=_JSON_OR_HTML)
async def status(request: Request, id: str, view: str = "") -> Response:
    """The row of a job; with `view=detail` as a page."""
    service = get_service(request)
    row = await service.get_job(id)
    if view == "detail":
        return await render_job_page(service, row)
    body = serialize_job(row, get_base_url(request))
    return await service.job_runner.call_store(JSONResponse, body)


@router.put("/jobs/{id}", openapi_extra=openapi.CHANGE_JOB_BODY)
async def change(request: Request, id: str) -> JSONResponse:
    """Requeue or cancel a job."""
    service = get_service(request)
    body, row = await read_json_body(request, ChangeJobRequest), await service.get_job(id)
    status = body.status.strip().lower()
    if status == "queued":
        is_changed = await service.restart_job(row["id"])
    elif status in ("failed", "cancelled"):
        is_changed = await service.job_runner.write_store(service.store.cancel, row["id"])
    else:
        raise HTTPException(400, f"status is {status[:40]!r}; it can be set to queued or failed")
    if not is_changed:
        raise HTTPException(409, f"the job is {row['status']}; it cannot become {status}")
    return JSONResponse(serialize_job(await service.get_job(id), get_base_url(request)))


@router.get("/analysis/{id}", response_class=HTMLResponse)
async def analysis(request: Request, id: str) -> Response:
    """The critique as a document."""
    row = await get_service(request).get_job(id)
    if not row["analysis_html"]:
        raise HTTPException(404, "Analysis not found")
    return HTMLResponse(row["analysis_html"])


@router.get("/summary/{id}", response_class=HTMLResponse)
async def summary(request: Request, id: str) -> Response:
    """The top three recommendations as a document."""
    row = await get_service(request).get_job(id)
    if row["status"] not in COMPLETED_STATUSES:
        raise HTTPException(400, "Job not completed yet")
    return HTMLResponse(row["summary_html"] or "")


@router.get("/llm-outputs/{id}")
async def llm_outputs(request: Request, id: str) -> JSONResponse:
    """The model's output, as it is stored."""
    row = await get_service(request).get_job(id)
    return JSONResponse({"job_id": row["id"], "llm_outputs": parse_llm_outputs(row)})


@router.get("/job/{id}/{part}")
async def get_job_part(request: Request, id: str, part: str) -> JSONResponse:
    """prompt, thinking or full-data of a job."""
    row = await get_service(request).get_job(id)
    if part == "full-data":
        payload = serialize_full_job(row, get_base_url(request))
        return JSONResponse(payload | {"llm_outputs": parse_llm_outputs(row)})
    column = {"prompt": "prompt", "thinking": "llm_thinking"}.get(part)
    if column is None:
        raise HTTPException(404, f"part is {part[:40]!r}; it can be prompt, thinking or full-data")
    return JSONResponse({"job_id": row["id"], part: row[column] or ""})


def _serialize_advisor(name: str, profile: Profile, base_url: str) -> dict[str, Any]:
    return {
        "id": name,
        "name": profile.name,
        "specialty": profile.specialty,
        "bio": profile.bio,
        "focus_areas": [{"title": t, "description": d} for t, d in profile.focus_areas.items()],
        "image_url": f"{base_url}/advisor_image/{name}",
        "artworks": [],
    }


def _get_profile(service: Service, name: str) -> Profile:
    """Return an advisor's profile. Raises HTTPException 404 if the service does not have it."""
    if name not in service.params.advisors:
        raise HTTPException(404, "Advisor not found")
    return service.params.profile(name)
