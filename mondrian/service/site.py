"""Pages of the service in their frame, and its faults as a page in place of JSON."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from mondrian.report import page
from mondrian.service.desk import Full
from mondrian.service.intake import Refused
from mondrian.service.modes import UnknownMode
from mondrian.service.service import Busy, service_of

FAULTS = (Refused, Full, Busy, UnknownMode, HTTPException, SQLAlchemyError, OSError)
_FRESH = {"cache-control": "private, no-cache"}


def site(
    template: str, status: int = 200, headers: Mapping[str, str] | None = None, **content: Any
) -> HTMLResponse:
    """A page."""
    told = page(template, **content)
    return HTMLResponse(told, status, {**_FRESH, **(headers or {})})


def fault(request: Request, error: Exception) -> tuple[int, str, dict[str, str]]:
    """One of FAULTS as status, words and headers, counted."""
    status, told, headers = _explained(error)
    service_of(request).metrics.refused.labels(str(status)).inc()
    return status, told, headers


def _explained(error: Exception) -> tuple[int, str, dict[str, str]]:
    match error:
        case Refused():
            return error.status, str(error), {}
        case Full():
            return 429, str(error), {"retry-after": str(error.seconds)}
        case Busy():
            return 503, str(error), {"retry-after": "5"}
        case UnknownMode():
            return 400, str(error), {}
        case HTTPException():
            return error.status_code, str(error.detail), dict(error.headers or {})
    return 503, "the jobs or the photographs cannot be read or written just now", {}


class PageRoute(APIRoute):
    """A route for people: its faults are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except FAULTS as error:
                status, told, headers = fault(request, error)
                title = HTTPStatus(status).phrase.capitalize()
                return site("message.html", status, headers, title=title, told=told)

        return handled
