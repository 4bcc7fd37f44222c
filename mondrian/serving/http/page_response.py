"""Routes of the pages, and the HTTP status and message of every expected error."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from mondrian.serving.assignment import UnknownModeError
from mondrian.serving.engines.base import EngineFault, TimedOut
from mondrian.serving.http.error_wording import error_message
from mondrian.serving.http.html_response import render_message
from mondrian.serving.http.uploads import RequestRejectedError
from mondrian.serving.jobs.admission import QueueFullError
from mondrian.serving.service import ServiceUnavailableError, get_service
from mondrian.storage.engine import format_database_error, is_locked

STORAGE_ERRORS = (SQLAlchemyError, OSError)
HANDLED_ERRORS = (
    HTTPException,
    RequestRejectedError,
    UnknownModeError,
    QueueFullError,
    ServiceUnavailableError,
    TimedOut,
    EngineFault,
    *STORAGE_ERRORS,
)
_RETRY_LATER = {"retry-after": "5"}  # seconds
ErrorResponse = tuple[int, str, dict[str, str]]  # status, message, headers
NO_ERROR: ErrorResponse = (200, "", {})


def describe_error(error: Exception) -> ErrorResponse:
    """Return status, message and headers for one of HANDLED_ERRORS."""
    match error:
        case HTTPException():
            return error.status_code, str(error.detail), dict(error.headers or {})
        case RequestRejectedError():
            return error.status, str(error), {}
        case UnknownModeError():
            return 400, str(error), {}
        case QueueFullError():
            return 429, str(error), {"retry-after": str(error.seconds)}
        case ServiceUnavailableError():
            return 503, str(error), _RETRY_LATER
        case TimedOut():
            return 504, str(error), {}
        case EngineFault():
            return 500, str(error), {}
        case OSError():
            message = f"the photo cannot be saved: {error.strerror or 'disk error'}"
            return 503, message, _RETRY_LATER
    if is_locked(error):
        return 503, "the jobs database is locked by other changes; try again", _RETRY_LATER
    return 503, f"the jobs database failed: {format_database_error(error)}", _RETRY_LATER


def describe_and_count_error(request: Request, error: Exception) -> ErrorResponse:
    """Count one of HANDLED_ERRORS; return status, message for a page, and headers."""
    status, message, headers = describe_error(error)
    get_service(request).metrics.refused.labels(str(status)).inc()
    return status, error_message(error, message), headers


class PageRoute(APIRoute):
    """A route of a page: its errors are pages too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_error_page(request: Request) -> Response:
            try:
                return await handle(request)
            except HANDLED_ERRORS as error:
                status, message, headers = describe_and_count_error(request, error)
                return render_message(status, message, headers)

        return handle_with_error_page
