"""Pages of the service in their frame, and its faults as a page in place of JSON."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute

from mondrian.core.html import page
from mondrian.serving.http.error_responses import DISK, FAULTS, explained
from mondrian.serving.service import service_of

_NOT_NOW = "the jobs or the photographs cannot be read or written just now"
_FRESH = {"cache-control": "private, no-cache"}


def site(
    template: str, status: int = 200, headers: Mapping[str, str] | None = None, **content: Any
) -> HTMLResponse:
    """A page."""
    told = page(template, **content)
    return HTMLResponse(told, status, {**_FRESH, **(headers or {})})


def fault(request: Request, error: Exception) -> tuple[int, str, dict[str, str]]:
    """One of FAULTS as status, words and headers, counted."""
    status, told, headers = explained(error)
    if isinstance(error, DISK):
        told = _NOT_NOW
    service_of(request).metrics.refused.labels(str(status)).inc()
    return status, told, headers


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
                return site(
                    "serving/templates/message.html", status, headers, title=title, told=told
                )

        return handled
