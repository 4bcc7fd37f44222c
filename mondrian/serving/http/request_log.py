"""Logs as JSON lines, each with the id of its request; on a terminal as plain lines."""

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

from mondrian.serving.http.security import client_address

request_id: ContextVar[str] = ContextVar("request_id", default="")
_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_DEBUG_PATHS = ("/health", "/ready", "/metrics", "/static/")
log = logging.getLogger("mondrian.http")


class JsonLinesFormatter(logging.Formatter):
    """One object per line: time, level, logger, message, request id and the record's `more`."""

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


class TerminalFormatter(logging.Formatter):
    """Time, level if it is not info, message, and the record's `more`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f" {record.levelname.lower()}:"
        more = "".join(f" {name}={value}" for name, value in getattr(record, "more", {}).items())
        text = f"{time}{level} {record.getMessage()}{more}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def configure_logging() -> None:
    """Write all logs to stderr, including uvicorn's."""
    handler = logging.StreamHandler(sys.stderr)
    is_terminal = sys.stderr.isatty()
    handler.setFormatter(TerminalFormatter() if is_terminal else JsonLinesFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("httpx2", "httpcore2", "httpx", "multipart", "python_multipart"):
        logging.getLogger(name).setLevel(logging.WARNING)


class RequestLogMiddleware:
    """Gives each request an id (X-Request-Id, also in the response) and logs its outcome."""

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

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            _log_request(scope, status, perf_counter() - started)
            request_id.reset(token)


def _log_request(scope: Scope, status: int, seconds: float) -> None:
    method, path = scope["method"], scope["path"][:200]
    level = logging.DEBUG if path.startswith(_DEBUG_PATHS) else logging.INFO
    more = {
        "method": method,
        "path": path,
        "status": status,
        "client": client_address(scope),
        "seconds": round(seconds, 4),
    }
    log.log(level, "%s %s", method, path, extra={"more": more})
