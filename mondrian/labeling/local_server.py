"""A page for the person at this machine: an HTTP server on the loopback address only."""

import socket
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Timer
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from mondrian.core.errors import MondrianError, one_line
from mondrian.core.html import render_template
from mondrian.serving.http.body_limits import SMALL_BODY, BodyLimitMiddleware, FormDisk
from mondrian.serving.http.listener import BACKLOG, open_listeners
from mondrian.serving.http.security import AccessRules, SecurityMiddleware

_HOST = "127.0.0.1"
_MAX_FORM_BYTES = 8_000_000  # of all forms at a time
_BROWSER_SECONDS = 0.5  # after the server is asked to start
_STATIC = (("mondrian.serving", "templates/static"), ("mondrian.labeling", "static"))


def build_local_app(routes: list[BaseRoute]) -> Starlette:
    """Return an application with the static files and access rules of the service's pages."""
    return Starlette(
        routes=[*routes, Mount("/static", StaticFiles(packages=list(_STATIC)))],
        middleware=[
            Middleware(SecurityMiddleware, rules=AccessRules()),
            Middleware(
                BodyLimitMiddleware, form_limit=SMALL_BODY, form_disk=FormDisk(_MAX_FORM_BYTES)
            ),
        ],
        exception_handlers={
            HTTPException: _handle_http_error,
            MondrianError: _handle_error,
            OSError: _handle_error,
        },
    )


def listen(port: int) -> socket.socket:
    """Return the listening socket; raises MondrianError if the port is taken."""
    if not 0 <= port <= 65535:  # getaddrinfo takes it modulo 65536
        raise MondrianError(f"--port is {port}; it must be from 0 to 65535")
    return open_listeners(_HOST, port, fix="give another --port")[0]


def run_local_app(
    app: Starlette,
    listener: socket.socket,
    print_line: Callable[[str], None],
    opens_browser: bool,
) -> None:
    """Print the address, and serve until Ctrl-C."""
    config = uvicorn.Config(
        app,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=1,
    )
    address = f"http://{_HOST}:{listener.getsockname()[1]}"
    browser = Timer(_BROWSER_SECONDS, webbrowser.open, [address])
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after its shutdown
        print_line(f"{address} (Ctrl-C ends it)")
        if opens_browser:
            browser.start()
        uvicorn.Server(config).run([listener])
    browser.cancel()


def render_page(
    template: str, status: int = 200, headers: Mapping[str, str] | None = None, **content: Any
) -> HTMLResponse:
    """Render a template of this package; pages are never shown from a cache."""
    text = render_template(f"labeling/templates/{template}", **content)
    return HTMLResponse(text, status, {"cache-control": "no-store", **(headers or {})})


def wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


def respond_with_error(request: Request, status: int, message: str) -> Response:
    """Return an error as JSON to a script, as a page to a person."""
    if wants_json(request):
        return JSONResponse({"error": message}, status)
    return render_page("problem.html", status, message=message)


async def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return respond_with_error(request, error.status_code, error.detail)


async def _handle_error(request: Request, error: Exception) -> Response:
    message = one_line(error)
    if isinstance(error, OSError):
        name = f": {error.filename}" if error.filename else ""
        message = f"not saved, {error.strerror or error}{name}"
    return respond_with_error(request, 503 if isinstance(error, OSError) else 422, message)
