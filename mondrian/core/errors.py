"""Every error a user can cause, as one line: what is wrong, the value, where, and the way out.

MondrianError
├── ParamsError          params.yaml
├── DataError            databases, manifests, rows: nothing usable, or not what it should be
├── PhotoError           one picture that cannot be used
├── BaseModelError       a base model folder that is missing or unfit
├── AdapterError         an adapter that is not whole, not for this base, or does nothing
├── ReleaseError         a version that cannot be made or had, or is not what was released
├── TrainingError        a run that cannot go on
└── EvaluationError      gates that do not hold
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable


class MondrianError(Exception):
    """A fault the user can mend; its text is printed without a traceback."""


class ParamsError(MondrianError):
    pass


class DataError(MondrianError):
    pass


class PhotoError(MondrianError):
    """`reason` is the name under which the record is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class BaseModelError(MondrianError):
    pass


class AdapterError(MondrianError):
    pass


class ReleaseError(MondrianError):
    pass


class TrainingError(MondrianError):
    pass


class EvaluationError(MondrianError):
    pass


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the message of any exception on one line; its type's name if it has none."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def _check_arguments() -> None:
    """Raise MondrianError if an argument is not UTF-8, since it could not be written to a file."""
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise MondrianError(f"{argument!r} is not UTF-8; rename it") from None


def run(main: Callable[[], None]) -> None:
    """Run a command; turn the faults a user can mend into one line and exit status 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is half-written is cleared away
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        _check_arguments()
        main()
    except MondrianError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # who read has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a full disk, a folder that may not be written
        name = f": {error.filename}" if error.filename else ""
        sys.exit(f"error: {error.strerror or error}{name}; mend it and run again")
    except KeyboardInterrupt:
        sys.exit(130)
