"""What went wrong, as an HTTP answer: one table for programs and for pages."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from mondrian.serving.assignment import UnknownMode
from mondrian.serving.engines.base import EngineFault, TimedOut
from mondrian.serving.http.uploads import Refused
from mondrian.serving.jobs.admission import Full
from mondrian.serving.service import Busy
from mondrian.storage.engine import one_line

DISK = (SQLAlchemyError, OSError)
FAULTS = (HTTPException, Refused, UnknownMode, Full, Busy, TimedOut, EngineFault, *DISK)


def explained(error: Exception) -> tuple[int, str, dict[str, str]]:
    """One of FAULTS as status, words and headers."""
    match error:
        case HTTPException():
            return error.status_code, str(error.detail), dict(error.headers or {})
        case Refused():
            return error.status, str(error), {}
        case UnknownMode():
            return 400, str(error), {}
        case Full():
            return 429, str(error), {"retry-after": str(error.seconds)}
        case Busy():
            return 503, str(error), {"retry-after": "5"}
        case TimedOut():
            return 504, str(error), {}
        case EngineFault():
            return 500, str(error), {}
        case OSError():
            return 503, f"the photograph cannot be kept: {error.strerror or 'disk'}", {}
    return 503, f"the jobs database does not take it: {one_line(error)}", {}
