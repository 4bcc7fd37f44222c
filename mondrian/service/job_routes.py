"""The job service of today's clients: photographs put in a queue, and what became of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from mondrian.critique import explain
from mondrian.service import body
from mondrian.service.advisor_routes import STREAM, event
from mondrian.service.forms import FIELD, check_known, clean_id, read_form
from mondrian.service.openapi import ANSWERS, CHANGE, CREATE, UPLOAD, UPLOADED, told_as
from mondrian.service.page_routes import history_page, job_page
from mondrian.service.pages import portrait
from mondrian.service.service import Service, service_of
from mondrian.service.store import Row

router = APIRouter(tags=["jobs"])
POLL, UPDATE, BEAT = 0.5, 3.0, 5.0  # seconds: a look at the row, an update anyway, a heartbeat
DONE = ("completed", "done")  # done and error are of today's application before 2026
ENDED = (*DONE, "failed", "error")


@router.get("/advisors", responses=ANSWERS)
async def advisors(request: Request) -> JSONResponse:
    """Every advisor that may be asked."""
    service = service_of(request)
    told = [_advisor(service, name) for name in service.params.advisors]
    return JSONResponse({"advisors": told, "count": len(told), "timestamp": body.now()})


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
    return JSONResponse({"advisor": told, "timestamp": body.now()})


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
    service.work.plan(asked.mode, asked.subject)
    await service.check_queue()
    taken = await service.work.photo(service.intake.take, asked.content, asked.name)
    status = "queued" if asked.auto_analyze else "pending"
    row, new = await service.add(asked, taken, "upload", status)
    if new:
        service.work.came()
    else:
        await service.work.photo(service.intake.forget, taken.filename)
        check_known(row, taken)
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
    asked = await _json(request, Create)
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
    service.work.plan(mode, id)
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
    told = [body.job(row) for row in rows]
    return JSONResponse({"jobs": told, "count": len(told), "timestamp": body.now()})


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
    row = await _row(service, id)
    return await job_page(service, row) if view == "detail" else JSONResponse(body.job(row))


@router.put("/jobs/{id}", openapi_extra=CHANGE, responses=ANSWERS)
async def change(request: Request, id: str) -> JSONResponse:
    """Queue a job again, or give one up."""
    service = service_of(request)
    asked, row = await _json(request, Change), await _row(service, id)
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
    return JSONResponse(body.job(await _row(service, id)))


@router.get("/analysis/{id}", response_class=HTMLResponse, responses=ANSWERS)
async def analysis(request: Request, id: str) -> Response:
    """The critique as a document."""
    row = await _row(service_of(request), id)
    if not row["analysis_html"]:
        raise HTTPException(404, "Analysis not found")
    return HTMLResponse(row["analysis_html"])


@router.get("/summary/{id}", response_class=HTMLResponse, responses=ANSWERS)
async def summary(request: Request, id: str) -> Response:
    """Its three recommendations as a document."""
    row = await _row(service_of(request), id)
    if row["status"] not in DONE:
        raise HTTPException(400, "Job not completed yet")
    return HTMLResponse(row["summary_html"] or "")


@router.get("/llm-outputs/{id}", responses=ANSWERS)
async def llm_outputs(request: Request, id: str) -> JSONResponse:
    """What the model said, as it is stored."""
    row = await _row(service_of(request), id)
    return JSONResponse({"job_id": row["id"], "llm_outputs": body.outputs(row)})


@router.get("/job/{id}/{part}", responses=ANSWERS)
async def part(request: Request, id: str, part: str) -> JSONResponse:
    """prompt, thinking or full-data of a job."""
    row = await _row(service_of(request), id)
    if part == "full-data":
        return JSONResponse(body.job(row) | {"llm_outputs": body.outputs(row)})
    column = {"prompt": "prompt", "thinking": "llm_thinking"}.get(part)
    if column is None:
        raise HTTPException(404, f"a job has prompt, thinking and full-data, no {part[:40]!r}")
    return JSONResponse({"job_id": row["id"], part: row[column] or ""})


@router.get(
    "/stream/{id}", response_class=Response, responses=told_as("text/event-stream")
)  # fmt: skip
async def stream(request: Request, id: str) -> StreamingResponse:
    """Server-sent events of a job until it has ended."""
    service = service_of(request)
    row = await _row(service, id)
    headers = {**STREAM, "connection": "keep-alive"}
    return StreamingResponse(
        _events(service, row), media_type="text/event-stream", headers=headers
    )  # fmt: skip


async def _events(service: Service, row: Row) -> AsyncIterator[str]:
    id = row["id"]
    yield event({"type": "connected", "job_id": id}, "connected")
    told: Any = None
    updated = heard = thought = monotonic()
    found: Row | None = row
    while found and not service.draining:
        seen = (found["status"], found["progress_percentage"], found["current_step"])
        now = monotonic()
        if seen != told or (found["status"] == "analyzing" and now - updated > UPDATE):
            yield event(_update(found), "status_update")
            told, updated, heard = seen, now, now
        if found["llm_thinking"] and now - thought > UPDATE:
            thought = heard = now
            more = {"type": "thinking_update", "job_id": id, "thinking": found["llm_thinking"]}
            yield event(more, "thinking_update")
        if found["status"] in ENDED:
            break
        if now - heard > BEAT:
            heard = now
            yield event({"type": "heartbeat", "timestamp": body.now()}, "heartbeat")
        await asyncio.sleep(POLL)
        found = await service.work.db(service.store.get, id)
    if found and found["status"] not in ENDED:
        return  # this service is stopping; the client asks again
    if found and found["status"] in DONE:
        more = {"type": "analysis_complete", "job_id": id, "analysis_html": found["analysis_html"]}
        yield event(more, "analysis_complete")
    yield event({"type": "done", "job_id": id}, "done")


def _update(row: Row) -> Row:
    told = body.job(row)
    names = (
        "job_id", "status", "progress_percentage", "current_step", "llm_thinking",
        "current_advisor", "total_advisors", "step_phase", "analysis_url",
    )  # fmt: skip
    data = {name: told[name] for name in names}
    return {"type": "status_update", "job_id": row["id"], "timestamp": body.now(), "job_data": data}


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


async def _row(service: Service, id: str) -> Row:
    found = await service.work.db(service.store.get, clean_id(id))
    if found is None:
        raise HTTPException(404, "Job not found")
    return found


async def _json(request: Request, kind: type[Any]) -> Any:
    try:
        return kind.model_validate(json.loads(await request.body()))
    except ValidationError as error:
        raise HTTPException(400, explain(error)) from None
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON object") from None
