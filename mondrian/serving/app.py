"""The HTTP application: routes, what stands before them, and faults as one kind of answer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mondrian import __version__
from mondrian.serving.http.page_response import HANDLED_ERRORS, STORAGE_ERRORS, describe_error
from mondrian.serving.http.request_log import RequestLogMiddleware
from mondrian.serving.http.security import AccessRules, SecurityMiddleware
from mondrian.serving.routes import analyze, jobs, pages, rollouts_api, rollouts_page, stream
from mondrian.serving.service import Service
from mondrian.storage.engine import format_database_error

STATIC = Path(__file__).parent / "templates" / "static"
log = logging.getLogger("mondrian.http")


def create_app(service: Service) -> FastAPI:
    """The application around a service, which starts and ends with it."""

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
        description="Critiques of photographs in the manner of an advisor, by a base model or by "
        "its fine-tuned adapter.",
    )
    app.state.service = service
    for routes in (
        analyze,
        jobs,
        stream,
        pages,
        rollouts_page,
        rollouts_api,
    ):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    _explain_faults(app)
    settings, serve = service.settings, service.params.serve
    # The last one stands first.
    app.add_middleware(InternalErrorMiddleware)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=serve.max_body_mb * 1_000_000)
    app.add_middleware(
        SecurityMiddleware,
        rules=AccessRules(
            api_key=settings.api_key,
            origins=settings.origins,
            hosts=(*settings.hosts, serve.host),
            requests_per_minute=serve.requests_per_minute,
            max_body_bytes=serve.max_body_mb * 1_000_000,
        ),
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "PUT"],
            allow_headers=["authorization", "x-api-key", "x-client-id", "idempotency-key"],
        )
    app.add_middleware(RequestLogMiddleware)
    return app


class InternalErrorMiddleware:
    """What nobody foresaw is logged with the request's id, and told as an answer like others."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except ClientDisconnect:  # the guard's matter
            raise
        except Exception:
            log.exception("unforeseen")
            if begun or scope["type"] != "http":
                raise
            payload = {"error": "internal error; its log line has the request's id"}
            await JSONResponse(payload, 500)(scope, receive, send)


def _explain_faults(app: FastAPI) -> None:
    """Every fault that is foreseen is {"error": one line}, counted."""

    async def handle_error(request: Request, error: Exception) -> JSONResponse:
        status, words, headers = describe_error(error)
        if isinstance(error, STORAGE_ERRORS):
            log.error("%s: %s", type(error).__name__, format_database_error(error))
        service: Service = request.app.state.service
        service.metrics.refused.labels(str(status)).inc()
        return JSONResponse({"error": words}, status, headers)

    for kind in HANDLED_ERRORS:
        app.add_exception_handler(kind, handle_error)
