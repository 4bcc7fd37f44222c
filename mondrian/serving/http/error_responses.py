"""What went wrong, as an HTTP answer: one table for programs and for pages."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from mondrian.serving.assignment import UnknownMode
from mondrian.serving.engines.base import EngineFault, TimedOut
from mondrian.serving.http.uploads import RequestRejected
from mondrian.serving.jobs.admission import QueueFullError
from mondrian.serving.service import ServiceUnavailableError
from mondrian.storage.engine import format_database_error

STORAGE_ERRORS = (SQLAlchemyError, OSError)
HANDLED_ERRORS = (
    HTTPException,
    RequestRejected,
    UnknownMode,
    QueueFullError,
    ServiceUnavailableError,
    TimedOut,
    EngineFault,
    *STORAGE_ERRORS,
)


def describe_error(error: Exception) -> tuple[int, str, dict[str, str]]:
    """One of FAULTS as status, words and headers."""
    match error:
        case HTTPException():
            return error.status_code, str(error.detail), dict(error.headers or {})
        case RequestRejected():
            return error.status, str(error), {}
        case UnknownMode():
            return 400, str(error), {}
        case QueueFullError():
            return 429, str(error), {"retry-after": str(error.seconds)}
        case ServiceUnavailableError():
            return 503, str(error), {"retry-after": "5"}
        case TimedOut():
            return 504, str(error), {}
        case EngineFault():
            return 500, str(error), {}
        case OSError():
            return 503, f"the photograph cannot be kept: {error.strerror or 'disk'}", {}
    return 503, f"the jobs database does not take it: {format_database_error(error)}", {}
