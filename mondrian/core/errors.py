"""Errors that a user can cause, each on one line: the problem, value, place and fix."""

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence

ERROR_PREFIX = "error: "  # before the one line of a user's error


class MondrianError(Exception):
    """An error that the user can fix; it is printed without a traceback."""


class ParamsError(MondrianError):
    """params.yaml or another file of parameters is missing or invalid."""


class DataError(MondrianError):
    """A database, manifest, row file or output folder is missing, invalid or empty."""


class PhotoError(MondrianError):
    """A photo cannot be used; `reason` is the reason code under which its job is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class BaseModelError(MondrianError):
    """The folder of a base model is missing or not supported."""


class AdapterError(MondrianError):
    """An adapter is incomplete, belongs to another base, or has no effect."""


class ReleaseError(MondrianError):
    """A version cannot be created, downloaded or verified."""


class TrainingError(MondrianError):
    """A training run cannot start or continue."""


class EvaluationError(MondrianError):
    """An evaluation cannot run, or its gates fail."""


def one_line(error: BaseException, max_length: int = 300) -> str:
    """Return the message of any exception on one line, or its type's name if it has none."""
    return " ".join(str(error).split())[:max_length] or type(error).__name__


def join_first(items: Sequence[str], count: int, separator: str = ", ") -> str:
    """Join the first `count` items, and say how many more there are."""
    suffix = f" (+{len(items) - count} more)" if len(items) > count else ""
    return separator.join(items[:count]) + suffix


def run_command(main: Callable[[], None]) -> None:
    """Run a command; report an error that the user can fix as one line and exit status 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are removed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        for argument in sys.argv[1:]:
            if any("\ud800" <= char <= "\udfff" for char in argument):  # not possible in a file
                raise MondrianError(f"{argument!r} is not UTF-8; rename it")
        main()
    except MondrianError as error:
        sys.exit(f"{ERROR_PREFIX}{error}")
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a full disk, a folder without write permission
        name = f": {error.filename}" if error.filename else ""
        sys.exit(f"{ERROR_PREFIX}{error.strerror or error}{name}; fix it and run again")
    except KeyboardInterrupt:
        sys.exit(130)
