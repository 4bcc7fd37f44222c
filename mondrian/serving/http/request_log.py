"""Logs as JSON lines, each with the id of the request it belongs to."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from time import perf_counter
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

request_id: ContextVar[str] = ContextVar("request_id", default="")
_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_QUIET = ("/health", "/ready", "/metrics", "/static/")
log = logging.getLogger("mondrian.http")


class JsonLinesFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, request and what the caller adds."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            fields["request"] = request_id.get()
        fields |= getattr(record, "more", {})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def configure_logging() -> None:
    """Everything to stderr, as JSON lines; uvicorn's own lines too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLinesFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("httpx2", "httpcore2", "httpx", "multipart", "python_multipart"):
        logging.getLogger(name).setLevel(logging.WARNING)


class RequestLogMiddleware:
    """Gives each request an id, in its answer too, and logs how it ended."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        header_value = Headers(scope=scope).get("x-request-id", "")
        id = header_value if _ID.match(header_value) else uuid4().hex[:16]
        token = request_id.set(id)
        status, started = 0, perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = id
            await send(message)

        try:
            await self.app(scope, receive, answer)
        finally:
            self._log_request(scope, status, perf_counter() - started)
            request_id.reset(token)

    def _log_request(self, scope: Scope, status: int, seconds: float) -> None:
        path = scope["path"]
        quiet = path.startswith(_QUIET)
        client = (scope.get("client") or ("",))[0]
        more = {
            "method": scope["method"],
            "path": path[:200],
            "status": status,
            "client": client,
            "seconds": round(seconds, 4),
        }
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s",
            scope["method"],
            path[:200],
            extra={"more": more},
        )
