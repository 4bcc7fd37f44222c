"""The HTTP application: routes, middleware, and errors as JSON or pages."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mondrian import __version__
from mondrian.serving.http.body_limits import BodyLimit, BodyLimitMiddleware, FormDisk, PhotoMemory
from mondrian.serving.http.client_identity import ClientIdentityMiddleware
from mondrian.serving.http.error_wording import error_message
from mondrian.serving.http.html_response import error_response, prefers_page, render_message
from mondrian.serving.http.page_response import HANDLED_ERRORS, STORAGE_ERRORS, describe_error
from mondrian.serving.http.request_log import RequestLogMiddleware
from mondrian.serving.http.security import AccessRules, SecurityMiddleware, limit_wrong_keys
from mondrian.serving.http.sse import EventStreams
from mondrian.serving.metrics import HttpMetricsMiddleware
from mondrian.serving.routes import (
    actions,
    analyze,
    ask,
    critique_page,
    history,
    jobs,
    login,
    rollouts_api,
    rollouts_page,
    stream,
)
from mondrian.serving.service import STOPPING, Service, ServiceUnavailableError, get_service
from mondrian.storage.engine import format_database_error

STATIC = Path(__file__).parent / "templates" / "static"
_MAX_PHOTO_BYTES = 300_000_000  # of photos in memory that wait for a decoder
_MAX_FORM_BYTES = 2_000_000_000  # of photos on disk that wait for memory
_WAIT_SECONDS = 120.0  # for memory
_PHOTO_SECONDS = 60.0  # for a client to send a form with photos
_MONITORING_PATHS = ("/health", "/ready", "/model-status", "/metrics")  # answered while draining
log = logging.getLogger("mondrian.http")


def create_app(service: Service) -> FastAPI:
    """Return the application of a service, which starts and ends with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.lifespan_context():
            yield

    app = FastAPI(
        title="Mondrian advisor service",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        description="Critiques photos like a chosen advisor, by a base or a fine-tuned adapter.",
    )
    app.state.service = service
    app.state.wrong_keys = limit_wrong_keys()
    app.state.event_streams = EventStreams()
    app.state.photo_memory = PhotoMemory(_MAX_PHOTO_BYTES, _WAIT_SECONDS)
    for routes in (analyze, jobs, stream, rollouts_api):
        app.include_router(routes.router)
    for pages in (ask, critique_page, actions, history, rollouts_page, login):
        app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for error_type in HANDLED_ERRORS:
        app.add_exception_handler(error_type, _handle_error)
    _add_middleware(app, service)
    return app


def _add_middleware(app: FastAPI, service: Service) -> None:
    settings, serve = service.settings, service.params.serve

    def count_refusal(status: int) -> None:
        service.metrics.refused.labels(str(status)).inc()

    # The middleware that is added last runs first.
    app.add_middleware(InternalErrorMiddleware)
    form_limit = BodyLimit(serve.max_body_mb * 1_000_000, _PHOTO_SECONDS)
    app.add_middleware(
        BodyLimitMiddleware,
        form_limit=form_limit,
        form_disk=FormDisk(_MAX_FORM_BYTES),
        on_refuse=count_refusal,
    )
    app.add_middleware(DrainMiddleware, service=service)
    if service.client_key:
        app.add_middleware(ClientIdentityMiddleware, key=service.client_key)
    app.add_middleware(
        SecurityMiddleware,
        rules=AccessRules(
            api_key=settings.api_key,
            origins=(*settings.origins, settings.public_origin),
            hosts=(*settings.hosts, serve.host),
            requests_per_minute=serve.requests_per_minute,
        ),
        wrong_keys=app.state.wrong_keys,
        on_refuse=count_refusal,
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "PUT"],
            allow_headers=["authorization", "x-api-key", "x-client-id", "idempotency-key"],
        )
    app.add_middleware(HeadMiddleware)
    app.add_middleware(HttpMetricsMiddleware, metrics=service.metrics)
    app.add_middleware(RequestLogMiddleware)


class DrainMiddleware:
    """Answers 503 while the service drains, also to requests that did not finish in time."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            if not self.service.draining or scope["path"] in _MONITORING_PATHS:
                await self.app(scope, receive, send_and_note)
                return
        except asyncio.CancelledError:
            if not self.service.draining:
                raise
        if not has_started:
            error = ServiceUnavailableError(STOPPING)
            status, message, headers = describe_error(error)
            self.service.metrics.refused.labels(str(status)).inc()
            page_message = error_message(error, message)
            request_headers = Headers(scope=scope)
            response = error_response(request_headers, status, message, headers, page_message)
            await response(scope, receive, send)


class HeadMiddleware:
    """Answers HEAD wherever GET is: with the status and headers of GET, without its body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                return
            await send({"type": "http.response.body"})
            if message.get("more_body"):
                raise ClientDisconnect  # ends a stream

        get_scope = {**scope, "method": "GET"}
        try:
            with suppress(ClientDisconnect):
                await self.app(get_scope, receive, send_without_body)
        finally:
            scope["route"] = get_scope.get("route")  # for metrics


class InternalErrorMiddleware:
    """Logs an unexpected exception with the request's id, and answers with 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_response(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_response)
        except ClientDisconnect:  # handled by SecurityMiddleware
            raise
        except Exception:
            log.exception("unexpected error")
            if started or scope["type"] != "http":
                raise
            message = "internal error; its log line has the request's id"
            response = error_response(Headers(scope=scope), 500, message)
            await response(scope, receive, send)


async def _handle_error(request: Request, error: Exception) -> Response:
    """Answer an expected error with {"error": one line}, and count it.

    A browser at an address that no route has gets a page.
    """
    if request.scope.get("route") is None and prefers_page(request.headers):
        return render_message(404, "There is no page at this address.")
    status, message, headers = describe_error(error)
    if isinstance(error, STORAGE_ERRORS):
        log.error("%s: %s", type(error).__name__, format_database_error(error))
    get_service(request).metrics.refused.labels(str(status)).inc()
    return JSONResponse({"error": message}, status, headers)
