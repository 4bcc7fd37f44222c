"""The advisor service of today's clients: how it is, and a photograph critiqued while they wait."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import psutil
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from mondrian import __version__
from mondrian.critique.schema import json_schema
from mondrian.serving.assignment import checked
from mondrian.serving.engines.base import EngineFault, TimedOut
from mondrian.serving.http import responses
from mondrian.serving.http.openapi import ANALYZE, ANSWERS, CRITIQUED, LOADING, told_as
from mondrian.serving.http.request_parsing import read_form
from mondrian.serving.http.uploads import Refused, Taken
from mondrian.serving.service import Service, service_of
from mondrian.storage.jobs import GONE, LIVE, Row

router = APIRouter(tags=["advisor"])
log = logging.getLogger("mondrian.http")
STREAM = {"cache-control": "no-cache", "x-accel-buffering": "no"}


@router.get("/health", responses=ANSWERS | LOADING)
async def health(request: Request) -> JSONResponse:
    """200 with status UP once it answers; 202 while it loads, 503 where it cannot."""
    service = service_of(request)
    state, serve = service.engine.state, service.params.serve
    if state.status == "error":
        return JSONResponse(
            {
                "status": "error",
                "error": state.message,
                "loading": False,
                "timestamp": responses.now(),
            },
            503,
        )
    if service.draining:
        return JSONResponse(
            {"status": "stopping", "error": "the service is stopping", "loading": False,
             "timestamp": responses.now()}, 503,
        )  # fmt: skip
    if not service.ready:
        return JSONResponse(
            {"status": "loading", "progress": state.progress, "message": state.message,
             "loading": True, "timestamp": responses.now()}, 202,
        )  # fmt: skip
    serving = [a for a in state.adapters.values() if a.serves]
    path = service.settings.lora_path
    told: Row = {
        "status": "UP", "service": "job_service", "version": __version__,
        "model": state.model, "device": state.device,
        "using_gpu": state.using_gpu, "loading": False, "timestamp": responses.now(),
        "fine_tuned": bool(serving) and serve.model_mode != "base",
        "lora_enabled": bool(serving), "lora_path": str(path) if path else None,
        "model_mode": serve.model_mode,
    }  # fmt: skip
    if path:
        told["adapter_exists"] = path.exists()
    return JSONResponse(told)


@router.get("/ready", responses=ANSWERS)
async def ready(request: Request) -> JSONResponse:
    """200 once the model has generated a token and the adapters were looked at; else 503."""
    service = service_of(request)
    return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)


@router.get("/model-status", responses=ANSWERS | LOADING)
async def model_status(request: Request) -> JSONResponse:
    """The model, its memory, and each adapter with its version and its faults."""
    service = service_of(request)
    state, serve = service.engine.state, service.params.serve
    status = "ready" if service.ready else "error" if state.status == "error" else "loading"
    memory = psutil.virtual_memory().total
    told = {
        "status": status, "model": state.model, "device": state.device,
        "using_gpu": state.using_gpu, "gpu_memory_total": memory if state.using_gpu else 0,
        "gpu_memory_used": state.memory if state.using_gpu else 0, "memory_used": state.memory,
        "timestamp": responses.now(), "message": state.message, "model_mode": serve.model_mode,
        "ab_test_split": serve.ab_test_split, "experiment": serve.experiment,
        "restarts": state.restarts, "rows": state.rows, "busy": service.desk.busy,
        "waiting": service.desk.waiting,
        "lora_path_fault": service.watch.fault if service.watch else "",
        "adapters": [
            {"advisor": a.name, "folder": a.folder, "version": a.version, "serves": a.serves,
             "merged": a.merged, "bytes": a.bytes, "fault": a.fault}
            for a in state.adapters.values()
        ],
    }  # fmt: skip
    return JSONResponse(told, {"ready": 200, "loading": 202, "error": 503}[status])


@router.get("/metrics", response_class=Response, responses=told_as("text/plain"))
async def metrics(request: Request) -> Response:
    """What Prometheus scrapes."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/schema", responses=ANSWERS)
async def schema() -> dict[str, Any]:
    """JSON Schema of a critique."""
    return {key: value for key, value in json_schema().items() if key != "x-guidance"}


@router.post("/analyze", openapi_extra=ANALYZE, responses=ANSWERS | CRITIQUED)
async def analyze(request: Request) -> JSONResponse:
    """Critique one photograph; the answer holds both families of fields that clients read."""
    service = service_of(request)
    row, taken = await _begin(service, request)
    if taken is None:
        row = await _finished(service, row)
    else:
        work = asyncio.create_task(service.work.direct(row, taken.picture))
        row = await _while_connected(request, work)
    return JSONResponse(responses.analysis(row, service.engine.state.device))


@router.post(
    "/analyze_stream", openapi_extra=ANALYZE, response_class=Response,
    responses=told_as("text/event-stream"),
)  # fmt: skip
async def analyze_stream(request: Request) -> StreamingResponse:
    """The same as server-sent events: start, json_start, json_token…, complete or error."""
    service = service_of(request)
    row, taken = await _begin(service, request)
    told: asyncio.Queue[Row] = asyncio.Queue()

    def grow(text: str, tokens: int) -> None:
        told.put_nowait({"type": "json_token", "text": text} if tokens else {"type": "json_start"})

    async def work() -> None:
        try:
            if taken is None:
                done = await _finished(service, row)
            else:
                done = await service.work.direct(row, taken.picture, grow)
            result = responses.analysis(done, service.engine.state.device)
            told.put_nowait({"type": "complete", "result": result})
        except (EngineFault, Refused) as error:
            told.put_nowait({"type": "error", "error": str(error)})
        except Exception:  # a client is told, never left waiting
            log.exception("unforeseen")
            told.put_nowait({"type": "error", "error": "internal error"})
            raise

    async def events() -> AsyncIterator[str]:
        task = asyncio.create_task(work())
        try:
            yield event({"type": "start", "advisor": row["advisor"], "mode": row["mode"]})
            yield event({"type": "json_start"})
            while True:
                one = await told.get()
                yield event(one)
                if one["type"] in ("complete", "error"):
                    return
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    return StreamingResponse(events(), media_type="text/event-stream", headers=STREAM)


def event(told: Row, name: str = "") -> str:
    """One server-sent event, in ASCII: clients take more for the end of a line than they should."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(told)}\n\n"


async def _begin(service: Service, request: Request) -> tuple[Row, Taken | None]:
    """A checked request with its row; no photograph where its idempotency key is known."""
    service.admit(direct=True)
    asked = await read_form(request, service.params)
    checked(asked.mode)
    with service.desk.approach():
        row, taken, new = await service.accept(asked, "direct", "analyzing")
    return row, taken if new else None


async def _while_connected(request: Request, work: asyncio.Task[Row]) -> Row:
    """What work gives; it is given up where the client goes away."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.create_task(gone())
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
            raise EngineFault(GONE)
        return work.result()
    finally:
        watch.cancel()
        if not work.done():
            work.cancel()


async def _finished(service: Service, row: Row) -> Row:
    """A job that was asked for before, once it has ended."""
    deadline = service.params.serve.critique_seconds
    found: Row | None = row
    while found and found["status"] in LIVE:
        if deadline < 0:
            raise TimedOut("the same request is still being answered")
        await asyncio.sleep(0.25)
        deadline -= 0.25
        found = await service.work.db(service.store.get, row["id"])
    if found and found["status"] == "pending":
        raise Refused(409, "the job of this Idempotency-Key waits to be queued")
    if not found or found["status"] != "completed":
        raise EngineFault((found or {}).get("error") or "the job is gone")
    return found
