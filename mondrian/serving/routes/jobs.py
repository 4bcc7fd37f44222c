"""The job service of today's clients: photographs put in a queue, and what became of them."""

from __future__ import annotations

from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from mondrian.serving.assignment import checked
from mondrian.serving.http import responses
from mondrian.serving.http.critique_html import portrait
from mondrian.serving.http.openapi import ANSWERS, CHANGE, CREATE, UPLOAD, UPLOADED, told_as
from mondrian.serving.http.request_parsing import FIELD, read_form, read_json
from mondrian.serving.routes import feedback
from mondrian.serving.routes.pages import history_page, job_page
from mondrian.serving.service import Service, service_of
from mondrian.storage.jobs import DONE, Row

router = APIRouter(tags=["jobs"])
router.include_router(feedback.router)


@router.get("/advisors", responses=ANSWERS)
async def advisors(request: Request) -> JSONResponse:
    """Every advisor that may be asked."""
    service = service_of(request)
    told = [_advisor(service, name) for name in service.params.advisors]
    return JSONResponse({"advisors": told, "count": len(told), "timestamp": responses.now()})


@router.get("/advisors/{name}", responses=ANSWERS)
async def advisor(request: Request, name: str) -> JSONResponse:
    """One advisor."""
    service = service_of(request)
    _known(service, name)
    profile = service.params.profile(name)
    told = _advisor(service, name) | {
        "years": profile.years, "wikipedia_url": profile.wikipedia_url, "commons_url": "",
        "image_url": f"/advisor_image/{name}", "artworks": [],
    }  # fmt: skip
    return JSONResponse({"advisor": told, "timestamp": responses.now()})


@router.get(
    "/advisor_image/{name}", response_class=Response, responses=told_as("image/svg+xml")
)  # fmt: skip
async def advisor_image(request: Request, name: str) -> Response:
    """A drawn sign in place of a portrait."""
    service = service_of(request)
    _known(service, name)
    drawn = portrait(service.params.profile(name).name)
    return Response(drawn, media_type="image/svg+xml")


@router.get("/advisor_artwork/{name}/{number}", responses=ANSWERS)
@router.get("/advisor_artwork/{name}/lightbox/{number}", responses=ANSWERS)
async def advisor_artwork(name: str, number: str) -> JSONResponse:
    """There are no pictures of other people's work here."""
    raise HTTPException(404, "Artwork not found")


@router.get("/reference_image/{file}", responses=ANSWERS)
async def reference_image(file: str) -> JSONResponse:
    """There is no retrieval here, so there are no references."""
    raise HTTPException(404, "Image not found")


@router.post("/upload", status_code=201, openapi_extra=UPLOAD, responses=ANSWERS | UPLOADED)
async def upload(request: Request) -> JSONResponse:
    """Put a photograph in the queue."""
    service = service_of(request)
    service.admit()
    asked = await read_form(request, service.params)
    checked(asked.mode)
    await service.check_queue()
    status = "queued" if asked.auto_analyze else "pending"
    row, _, new = await service.accept(asked, "upload", status)
    if new:
        service.work.came()
    return JSONResponse(_created(row), 201)


class Create(BaseModel):
    """POST /jobs: an uploaded photograph once more."""

    model_config = ConfigDict(extra="ignore")
    image_path: str = Field(max_length=FIELD)
    advisor: str = Field("", max_length=FIELD)
    mode: str = Field("baseline", max_length=FIELD)


class Change(BaseModel):
    """PUT /jobs/<id>: begin again, begin, or give up."""

    model_config = ConfigDict(extra="ignore")
    status: str = Field(max_length=FIELD)


@router.post("/jobs", status_code=201, openapi_extra=CREATE, responses=ANSWERS | UPLOADED)
async def create(request: Request) -> JSONResponse:
    """Another critique of a photograph that was uploaded here; no other path is taken."""
    service = service_of(request)
    service.admit()
    asked = await read_json(request, Create)
    await service.check_queue()
    found = await service.work.db(service.store.with_photo, asked.image_path)
    if found is None:
        raise HTTPException(
            400, "image_path names no photograph that was uploaded here; send it to /upload"
        )
    advisor = asked.advisor.strip().lower() or service.params.advisors[0]
    _known(service, advisor, 400)
    mode = asked.mode.strip().lower() or "baseline"
    id = str(uuid4())
    checked(mode)
    row, _ = await service.work.db(service.store.add, {
        "id": id, "filename": found["filename"], "advisor": advisor, "mode": mode,
        "status": "queued", "kind": "upload", "subject": id, "enable_rag": 0,
        "photo_sha256": found["photo_sha256"], "experiment": service.params.serve.experiment,
    })  # fmt: skip
    service.work.came()
    return JSONResponse(_created(row), 201)


@router.get("/jobs", responses=told_as("application/json", "text/html"))
async def listed(request: Request, limit: str = "100", format: str = "json") -> Response:
    """The newest jobs; `format=html` for a person."""
    service = service_of(request)
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= 1000:
        raise HTTPException(400, f"limit is {limit[:20]!r}; it must be from 1 to 1000")
    rows = await service.work.db(service.store.listed, int(limit))
    if format == "html":
        return await service.work.db(history_page, service, rows)
    told = [responses.job(row) for row in rows]
    return JSONResponse({"jobs": told, "count": len(told), "timestamp": responses.now()})


@router.delete("/jobs", responses=ANSWERS)
async def clear(request: Request) -> JSONResponse:
    """Forget every job of this service and its photograph; those under way stay."""
    service = service_of(request)
    gone = await service.work.db(service.store.clear)
    for filename in gone:
        await service.work.photo(service.intake.forget, filename)
    return JSONResponse({"message": "All jobs cleared", "photographs": len(gone)})


@router.get("/status/{id}", responses=told_as("application/json", "text/html"))
@router.get("/jobs/{id}", responses=told_as("application/json", "text/html"))
async def status(request: Request, id: str, view: str = "") -> Response:
    """How a job is: its row. `view=detail` for a person."""
    service = service_of(request)
    row = await service.row(id)
    return await job_page(service, row) if view == "detail" else JSONResponse(responses.job(row))


@router.put("/jobs/{id}", openapi_extra=CHANGE, responses=ANSWERS)
async def change(request: Request, id: str) -> JSONResponse:
    """Queue a job again, or give one up."""
    service = service_of(request)
    asked, row = await read_json(request, Change), await service.row(id)
    wanted, done = asked.status.strip().lower(), False
    if wanted == "queued":
        done = await service.work.db(service.store.requeue, row["id"])
        service.work.came()
    elif wanted in ("failed", "cancelled"):
        done = await service.work.db(service.store.give_up, row["id"])
    else:
        raise HTTPException(400, f"status is {wanted[:40]!r}; it can be set to queued or failed")
    if not done:
        raise HTTPException(409, f"the job is {row['status']}; it cannot become {wanted}")
    return JSONResponse(responses.job(await service.row(id)))


@router.get("/analysis/{id}", response_class=HTMLResponse, responses=ANSWERS)
async def analysis(request: Request, id: str) -> Response:
    """The critique as a document."""
    row = await service_of(request).row(id)
    if not row["analysis_html"]:
        raise HTTPException(404, "Analysis not found")
    return HTMLResponse(row["analysis_html"])


@router.get("/summary/{id}", response_class=HTMLResponse, responses=ANSWERS)
async def summary(request: Request, id: str) -> Response:
    """Its three recommendations as a document."""
    row = await service_of(request).row(id)
    if row["status"] not in DONE:
        raise HTTPException(400, "Job not completed yet")
    return HTMLResponse(row["summary_html"] or "")


@router.get("/llm-outputs/{id}", responses=ANSWERS)
async def llm_outputs(request: Request, id: str) -> JSONResponse:
    """What the model said, as it is stored."""
    row = await service_of(request).row(id)
    return JSONResponse({"job_id": row["id"], "llm_outputs": responses.outputs(row)})


@router.get("/job/{id}/{part}", responses=ANSWERS)
async def part(request: Request, id: str, part: str) -> JSONResponse:
    """prompt, thinking or full-data of a job."""
    row = await service_of(request).row(id)
    if part == "full-data":
        return JSONResponse(responses.job(row) | {"llm_outputs": responses.outputs(row)})
    column = {"prompt": "prompt", "thinking": "llm_thinking"}.get(part)
    if column is None:
        raise HTTPException(404, f"a job has prompt, thinking and full-data, no {part[:40]!r}")
    return JSONResponse({"job_id": row["id"], part: row[column] or ""})


def _created(row: Row) -> Row:
    return {
        "job_id": row["id"], "filename": row["filename"], "advisor": row["advisor"],
        "advisors_used": row["advisor"].split(","), "status": row["status"],
        "status_url": f"/status/{row['id']}", "stream_url": f"/stream/{row['id']}",
    }  # fmt: skip


def _advisor(service: Service, name: str) -> Row:
    profile = service.params.profile(name)
    return {
        "id": name, "name": profile.name, "specialty": profile.specialty, "bio": profile.bio,
        "focus_areas": [{"title": t, "description": d} for t, d in profile.focus_areas.items()],
    }  # fmt: skip


def _known(service: Service, name: str, status: int = 404) -> None:
    if name not in service.params.advisors:
        raise HTTPException(status, "Advisor not found")
