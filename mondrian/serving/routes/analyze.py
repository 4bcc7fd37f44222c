"""The advisor service of existing clients: its state, and critiques that the client waits for."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

import psutil
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from mondrian import __version__
from mondrian.critique.schema import json_schema
from mondrian.serving.assignment import normalize_mode
from mondrian.serving.engines.base import EngineFault, TextCallback, TimedOut
from mondrian.serving.http import openapi
from mondrian.serving.http.request_parsing import read_form
from mondrian.serving.http.responses import serialize_analysis
from mondrian.serving.http.security import has_api_key
from mondrian.serving.http.sse import event_stream, format_event, poll
from mondrian.serving.http.uploads import RequestRejectedError, Upload
from mondrian.serving.service import STOPPING, Service, get_service
from mondrian.storage.jobs import ACTIVE_STATUSES, CLIENT_DISCONNECTED, JobRow, utc_timestamp

router = APIRouter(tags=["advisor"], responses=openapi.ERROR_RESPONSES)
log = logging.getLogger("mondrian.http")


@router.get("/health", responses=openapi.LOADING_RESPONSE)
async def health(request: Request) -> JSONResponse:
    """200 and status UP if requests are answered, 202 while loading, else 503."""
    service = get_service(request)
    state, serve = service.engine.state, service.params.serve
    shows_paths = has_api_key(request.headers, service.settings.api_key)
    if state.status == "error":
        error = state.message if shows_paths else "the model cannot be loaded; see the log"
        return _not_up(503, "error", error=error)
    if service.draining:
        return _not_up(503, "draining", error=STOPPING)
    if not service.ready:
        return _not_up(202, "loading", progress=state.progress, message=state.message)
    has_adapter = any(adapter.serves for adapter in state.adapters.values())
    path = service.settings.lora_path
    payload = {
        "status": "UP",
        "service": "job_service",
        "version": __version__,
        "model": state.model,
        "device": state.device,
        "using_gpu": state.using_gpu,
        "loading": False,
        "timestamp": utc_timestamp(),
        "fine_tuned": has_adapter and serve.model_mode != "base",
        "lora_enabled": has_adapter,
        "lora_path": str(path) if path and shows_paths else None,
        "model_mode": serve.model_mode,
    }
    if path:
        payload["adapter_exists"] = path.exists()
    return JSONResponse(payload)


def _not_up(status_code: int, status: str, **fields: Any) -> JSONResponse:
    payload = {"status": status, **fields, "loading": status == "loading"}
    return JSONResponse(payload | {"timestamp": utc_timestamp()}, status_code)


@router.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """200 if model, database and uploads are ready, else 503 and what is not.

    Only a request with the API key, if there is one, gets the reasons, which may name folders.
    """
    service = get_service(request)
    faults = await service.find_faults()
    is_ready = not any(faults.values())
    shows_paths = has_api_key(request.headers, service.settings.api_key)
    parts = {
        part: (fault if shows_paths else "not ready") if fault else "ready"
        for part, fault in faults.items()
    }
    return JSONResponse({"ready": is_ready, **parts}, 200 if is_ready else 503)


@router.get("/model-status", responses=openapi.LOADING_RESPONSE)
async def model_status(request: Request) -> JSONResponse:
    """The model, its memory, and each adapter with its version and error."""
    service = get_service(request)
    state, serve = service.engine.state, service.params.serve
    status = "ready" if service.ready else "error" if state.status == "error" else "loading"
    payload = {
        "status": status,
        "model": state.model,
        "device": state.device,
        "using_gpu": state.using_gpu,
        "gpu_memory_total": psutil.virtual_memory().total if state.using_gpu else 0,
        "gpu_memory_used": state.memory_bytes if state.using_gpu else 0,
        "memory_used": state.memory_bytes,
        "timestamp": utc_timestamp(),
        "message": state.message,
        "model_mode": serve.model_mode,
        "ab_test_split": serve.ab_test_split,
        "experiment": serve.experiment,
        "restarts": state.restarts,
        "rows": state.batch_size,
        "busy": service.admission.busy,
        "waiting": service.admission.waiting,
        "lora_path_fault": service.adapter_watcher.fault if service.adapter_watcher else "",
        "adapters": [
            {
                "advisor": adapter.name,
                "folder": adapter.folder,
                "version": adapter.version,
                "serves": adapter.serves,
                "merged": adapter.merged,
                "bytes": adapter.bytes,
                "fault": adapter.fault,
            }
            for adapter in state.adapters.values()
        ],
    }
    return JSONResponse(payload, {"ready": 200, "loading": 202, "error": 503}[status])


@router.get("/metrics", **openapi.returns("text/plain"))
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    content = await get_service(request).render_metrics()
    return Response(content, media_type="text/plain; version=0.0.4")


@router.get("/schema")
async def schema() -> dict[str, Any]:
    """JSON Schema of a critique."""
    return {key: value for key, value in json_schema().items() if key != "x-guidance"}


@router.post("/analyze", openapi_extra=openapi.ANALYZE_BODY, responses=openapi.CRITIQUE_RESPONSE)
async def analyze(request: Request) -> JSONResponse:
    """Critique a photo; the response has the field names of the old code and of its documents."""
    service = get_service(request)
    row, upload = await _accept_request(service, request)
    run = _run(service, row, upload)
    row = await (_await_while_connected(request, asyncio.create_task(run)) if upload else run)
    return JSONResponse(serialize_analysis(row, service.engine.state.device))


@router.post(
    "/analyze_stream", openapi_extra=openapi.ANALYZE_BODY, **openapi.returns("text/event-stream")
)
async def analyze_stream(request: Request) -> StreamingResponse:
    """The same as server-sent events: start, json_start, json_token…, complete or error."""
    service = get_service(request)
    row, upload = await _accept_request(service, request)
    return event_stream(_stream_analysis(service, row, upload), limited=False)


async def _stream_analysis(
    service: Service, row: JobRow, upload: Upload | None
) -> AsyncIterator[str]:
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def on_text(text: str, tokens: int) -> None:
        queue.put_nowait({"type": "json_token", "text": text} if tokens else {"type": "json_start"})

    async def run() -> None:
        try:
            finished = await _run(service, row, upload, on_text)
            result = serialize_analysis(finished, service.engine.state.device)
            queue.put_nowait({"type": "complete", "result": result})
        except (EngineFault, RequestRejectedError) as error:
            queue.put_nowait({"type": "error", "error": str(error)})
        except Exception:  # the client must not wait for ever
            log.exception("unexpected error")
            queue.put_nowait({"type": "error", "error": "internal error"})
            raise

    task = asyncio.create_task(run())
    try:
        yield format_event({"type": "start", "advisor": row["advisor"], "mode": row["mode"]})
        yield format_event({"type": "json_start"})
        while True:
            payload = await queue.get()
            yield format_event(payload)
            if payload["type"] in ("complete", "error"):
                return
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def _accept_request(service: Service, request: Request) -> tuple[JobRow, Upload | None]:
    """Check a request and store its job; no upload if its idempotency key is known."""
    service.admit(direct=True)
    async with read_form(request, service.params) as form:
        normalize_mode(form.mode)
        with service.admission.reserve_queue_slot():
            row, upload, is_new = await service.intake.accept(form, "direct", "analyzing")
    return row, upload if is_new else None


async def _run(
    service: Service, row: JobRow, upload: Upload | None, on_text: TextCallback | None = None
) -> JobRow:
    """Run a new job, or wait for the existing one; return its finished row."""
    if upload:
        return await service.job_runner.run_direct(row, upload.image, on_text)
    deadline = monotonic() + service.params.serve.request_timeout_seconds
    async for job in poll(
        partial(service.job_runner.call_store, service.store.get, row["id"]), 0.25
    ):
        if job is None or job["status"] not in ACTIVE_STATUSES:
            break
        if monotonic() > deadline:
            raise TimedOut("the same request is still running")
    if job and job["status"] == "pending":
        raise RequestRejectedError(409, "the job of this Idempotency-Key is not queued yet")
    if not job or job["status"] != "completed":
        raise EngineFault((job or {}).get("error") or "the job was deleted")
    return job


async def _await_while_connected(request: Request, task: asyncio.Task[JobRow]) -> JobRow:
    """Return the task's result; cancel it if the client disconnects."""

    async def wait_for_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    disconnect = asyncio.create_task(wait_for_disconnect())
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            raise EngineFault(CLIENT_DISCONNECTED)
        return task.result()
    finally:
        disconnect.cancel()
        task.cancel()
