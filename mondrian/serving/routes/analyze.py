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
from mondrian.serving.assignment import normalize_mode
from mondrian.serving.engines.base import EngineFault, TimedOut
from mondrian.serving.http import responses
from mondrian.serving.http.openapi import (
    ANALYZE_BODY,
    CRITIQUE_RESPONSE,
    ERROR_RESPONSES,
    LOADING_RESPONSE,
    build_responses,
)
from mondrian.serving.http.request_parsing import read_form
from mondrian.serving.http.uploads import RequestRejected, Upload
from mondrian.serving.service import Service, get_service
from mondrian.storage.jobs import ACTIVE_STATUSES, CLIENT_DISCONNECTED, JobRow

router = APIRouter(tags=["advisor"])
log = logging.getLogger("mondrian.http")
SSE_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


@router.get("/health", responses=ERROR_RESPONSES | LOADING_RESPONSE)
async def health(request: Request) -> JSONResponse:
    """200 with status UP once it answers; 202 while it loads, 503 where it cannot."""
    service = get_service(request)
    state, serve = service.engine.state, service.params.serve
    if state.status == "error":
        return JSONResponse(
            {
                "status": "error",
                "error": state.message,
                "loading": False,
                "timestamp": responses.current_timestamp(),
            },
            503,
        )
    if service.draining:
        return JSONResponse(
            {
                "status": "stopping",
                "error": "the service is stopping",
                "loading": False,
                "timestamp": responses.current_timestamp(),
            },
            503,
        )
    if not service.ready:
        return JSONResponse(
            {
                "status": "loading",
                "progress": state.progress,
                "message": state.message,
                "loading": True,
                "timestamp": responses.current_timestamp(),
            },
            202,
        )
    serving = [a for a in state.adapters.values() if a.serves]
    path = service.settings.lora_path
    payload: JobRow = {
        "status": "UP",
        "service": "job_service",
        "version": __version__,
        "model": state.model,
        "device": state.device,
        "using_gpu": state.using_gpu,
        "loading": False,
        "timestamp": responses.current_timestamp(),
        "fine_tuned": bool(serving) and serve.model_mode != "base",
        "lora_enabled": bool(serving),
        "lora_path": str(path) if path else None,
        "model_mode": serve.model_mode,
    }
    if path:
        payload["adapter_exists"] = path.exists()
    return JSONResponse(payload)


@router.get("/ready", responses=ERROR_RESPONSES)
async def ready(request: Request) -> JSONResponse:
    """200 once the model has generated a token and the adapters were looked at; else 503."""
    service = get_service(request)
    return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)


@router.get("/model-status", responses=ERROR_RESPONSES | LOADING_RESPONSE)
async def model_status(request: Request) -> JSONResponse:
    """The model, its memory, and each adapter with its version and its faults."""
    service = get_service(request)
    state, serve = service.engine.state, service.params.serve
    status = "ready" if service.ready else "error" if state.status == "error" else "loading"
    memory = psutil.virtual_memory().total
    payload = {
        "status": status,
        "model": state.model,
        "device": state.device,
        "using_gpu": state.using_gpu,
        "gpu_memory_total": memory if state.using_gpu else 0,
        "gpu_memory_used": state.memory if state.using_gpu else 0,
        "memory_used": state.memory,
        "timestamp": responses.current_timestamp(),
        "message": state.message,
        "model_mode": serve.model_mode,
        "ab_test_split": serve.ab_test_split,
        "experiment": serve.experiment,
        "restarts": state.restarts,
        "rows": state.rows,
        "busy": service.desk.busy,
        "waiting": service.desk.waiting,
        "lora_path_fault": service.watch.fault if service.watch else "",
        "adapters": [
            {
                "advisor": a.name,
                "folder": a.folder,
                "version": a.version,
                "serves": a.serves,
                "merged": a.merged,
                "bytes": a.bytes,
                "fault": a.fault,
            }
            for a in state.adapters.values()
        ],
    }
    return JSONResponse(payload, {"ready": 200, "loading": 202, "error": 503}[status])


@router.get("/metrics", response_class=Response, responses=build_responses("text/plain"))
async def metrics(request: Request) -> Response:
    """What Prometheus scrapes."""
    return Response(get_service(request).metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/schema", responses=ERROR_RESPONSES)
async def schema() -> dict[str, Any]:
    """JSON Schema of a critique."""
    return {key: value for key, value in json_schema().items() if key != "x-guidance"}


@router.post("/analyze", openapi_extra=ANALYZE_BODY, responses=ERROR_RESPONSES | CRITIQUE_RESPONSE)
async def analyze(request: Request) -> JSONResponse:
    """Critique one photograph; the answer holds both families of fields that clients read."""
    service = get_service(request)
    row, taken = await _accept_request(service, request)
    if taken is None:
        row = await _wait_until_finished(service, row)
    else:
        work = asyncio.create_task(service.work.run_direct(row, taken.image))
        row = await _await_while_connected(request, work)
    return JSONResponse(responses.serialize_analysis(row, service.engine.state.device))


@router.post(
    "/analyze_stream",
    openapi_extra=ANALYZE_BODY,
    response_class=Response,
    responses=build_responses("text/event-stream"),
)
async def analyze_stream(request: Request) -> StreamingResponse:
    """The same as server-sent events: start, json_start, json_token…, complete or error."""
    service = get_service(request)
    row, taken = await _accept_request(service, request)
    queue: asyncio.Queue[JobRow] = asyncio.Queue()

    def grow(text: str, tokens: int) -> None:
        queue.put_nowait({"type": "json_token", "text": text} if tokens else {"type": "json_start"})

    async def work() -> None:
        try:
            if taken is None:
                done = await _wait_until_finished(service, row)
            else:
                done = await service.work.run_direct(row, taken.image, grow)
            result = responses.serialize_analysis(done, service.engine.state.device)
            queue.put_nowait({"type": "complete", "result": result})
        except (EngineFault, RequestRejected) as error:
            queue.put_nowait({"type": "error", "error": str(error)})
        except Exception:  # a client is told, never left waiting
            log.exception("unforeseen")
            queue.put_nowait({"type": "error", "error": "internal error"})
            raise

    async def events() -> AsyncIterator[str]:
        task = asyncio.create_task(work())
        try:
            yield format_sse_event(
                {"type": "start", "advisor": row["advisor"], "mode": row["mode"]}
            )
            yield format_sse_event({"type": "json_start"})
            while True:
                payload = await queue.get()
                yield format_sse_event(payload)
                if payload["type"] in ("complete", "error"):
                    return
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    return StreamingResponse(events(), media_type="text/event-stream", headers=SSE_HEADERS)


def format_sse_event(payload: JobRow, name: str = "") -> str:
    """One server-sent event, in ASCII: clients take more for the end of a line than they should."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(payload)}\n\n"


async def _accept_request(service: Service, request: Request) -> tuple[JobRow, Upload | None]:
    """A checked request with its row; no photograph where its idempotency key is known."""
    service.admit(direct=True)
    form = await read_form(request, service.params)
    normalize_mode(form.mode)
    with service.desk.reserve_queue_slot():
        row, taken, new = await service.accept(form, "direct", "analyzing")
    return row, taken if new else None


async def _await_while_connected(request: Request, work: asyncio.Task[JobRow]) -> JobRow:
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
            raise EngineFault(CLIENT_DISCONNECTED)
        return work.result()
    finally:
        watch.cancel()
        if not work.done():
            work.cancel()


async def _wait_until_finished(service: Service, row: JobRow) -> JobRow:
    """A job that was asked for before, once it has ended."""
    deadline = service.params.serve.request_timeout_seconds
    job: JobRow | None = row
    while job and job["status"] in ACTIVE_STATUSES:
        if deadline < 0:
            raise TimedOut("the same request is still being answered")
        await asyncio.sleep(0.25)
        deadline -= 0.25
        job = await service.work.call_store(service.store.get, row["id"])
    if job and job["status"] == "pending":
        raise RequestRejected(409, "the job of this Idempotency-Key waits to be queued")
    if not job or job["status"] != "completed":
        raise EngineFault((job or {}).get("error") or "the job is gone")
    return job
