"""Pages of the service in their frame, and its faults as a page in place of JSON."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute

from mondrian.core.html import render_template
from mondrian.serving.http.error_responses import HANDLED_ERRORS, STORAGE_ERRORS, describe_error
from mondrian.serving.service import get_service

_UNAVAILABLE_MESSAGE = "the jobs or the photographs cannot be read or written just now"
_NO_CACHE_HEADERS = {"cache-control": "private, no-cache"}


def render_html_response(
    template: str, status: int = 200, headers: Mapping[str, str] | None = None, **content: Any
) -> HTMLResponse:
    """A page."""
    body = render_template(template, **content)
    return HTMLResponse(body, status, {**_NO_CACHE_HEADERS, **(headers or {})})


def describe_and_count_error(request: Request, error: Exception) -> tuple[int, str, dict[str, str]]:
    """One of FAULTS as status, words and headers, counted."""
    status, message, headers = describe_error(error)
    if isinstance(error, STORAGE_ERRORS):
        message = _UNAVAILABLE_MESSAGE
    get_service(request).metrics.refused.labels(str(status)).inc()
    return status, message, headers


class PageRoute(APIRoute):
    """A route for people: its faults are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except HANDLED_ERRORS as error:
                status, message, headers = describe_and_count_error(request, error)
                title = HTTPStatus(status).phrase.capitalize()
                return render_html_response(
                    "serving/templates/message.html", status, headers, title=title, told=message
                )

        return handled
