"""Decode photos in processes that can be ended: time and memory of one photo are bounded.

A decoder is a child process with one end of a pipe. It receives a function and its arguments,
and sends the result. If it takes too long, needs too much memory or dies, the photo is rejected,
and the next photo gets a new process. A decoder ends when its pipe does, so none is left behind.

What the header proves to be quick (`CHEAP_WORK`) needs no such process in `link`: to start one
takes as long as to decode ten photos.
"""

import atexit
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from threading import BoundedSemaphore, Lock
from time import monotonic
from typing import Any, ParamSpec, TypeVar

import psutil

from mondrian.core import images
from mondrian.core.environment import environment_without_secrets
from mondrian.core.errors import MondrianError, PhotoError
from mondrian.core.images import MAX_PHOTO_PIXELS, Preview
from mondrian.core.photo_header import PhotoHeader, read_header

CHEAP_WORK = 50_000_000  # pixels x scans: one second, 500 MB
CHEAP_FORMATS = ("JPEG", "PNG", "WEBP")  # their decoders take time by the pixel; HEIF and TIFF vary
_BYTES_PER_PIXEL = 16  # a decoder's own copy, RGBA, composed, in sRGB
_BASE_BYTES = 2**29  # interpreter, libraries and the file itself
_START_SECONDS = 60  # on a busy machine
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10  # for the parent to act first
_ROOT = Path(__file__).parents[2]  # from which the decoder imports mondrian
_MEMORY_LIMIT_WORKS = sys.platform == "linux"  # macOS accepts RLIMIT_AS and ignores it
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class DecoderLimits:
    seconds: float  # for one photo
    memory_bytes: int  # above those of an idle decoder

    @classmethod
    def for_pixels(cls, seconds: float, max_pixels: int) -> "DecoderLimits":
        """Return limits with memory for the formats and steps of a photo of that size."""
        return cls(seconds, _BASE_BYTES + _BYTES_PER_PIXEL * max_pixels)


class DecoderPool:
    """At most `size` decoders with the same limits, started when they are needed."""

    def __init__(self, size: int, limits: DecoderLimits) -> None:
        self.limits = limits
        self._free = BoundedSemaphore(size)
        self._idle: list[_Decoder] = []
        self._busy: set[_Decoder] = set()
        self._closings = 0
        self._lock = Lock()
        atexit.register(self.close)

    def call(
        self, function: Callable[Arguments, Result], *args: Arguments.args, **kw: Arguments.kwargs
    ) -> Result:
        """Return function(*args) of a module, as a decoder runs it; waits while all are busy.

        Raises PhotoError as the function does, and with reason image_unreadable if a limit is
        exceeded or the decoder dies.
        """
        with self._acquire() as decoder:
            result: Result = decoder.call(function, args, kw)
        return result

    def close(self) -> None:
        """End all decoders; calls at work raise PhotoError. The pool can be used again."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._closings += 1
            for decoder in self._busy:
                decoder.kill()
        for decoder in idle:
            decoder.close()

    @contextmanager
    def _acquire(self) -> Iterator["_Decoder"]:
        with self._free:
            with self._lock:
                idle, closings = self._idle.pop() if self._idle else None, self._closings
            if idle is not None and not idle.is_running:  # the system ended it
                idle.close()
                idle = None
            decoder = idle or _Decoder(self.limits)
            with self._lock:
                self._busy.add(decoder)
                if closings != self._closings:  # while it was started
                    decoder.kill()
            try:
                yield decoder
            finally:
                with self._lock:
                    self._busy.discard(decoder)
                    if decoder.is_running:
                        self._idle.append(decoder)


class _Decoder:
    def __init__(self, limits: DecoderLimits) -> None:
        self.limits = limits
        self._pipe, child_pipe = Pipe()
        numbers = (child_pipe.fileno(), limits.memory_bytes, ceil(limits.seconds))
        # Photos are from strangers, so the decoder gets no key of the service.
        paths = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, numbers)],
            pass_fds=[child_pipe.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # libraries print warnings about damaged files
            env=environment_without_secrets() | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
        )
        child_pipe.close()
        try:
            self._receive(_START_SECONDS)  # so that the time limit is that of the photo
        except PhotoError:
            command = f"{sys.executable} -m {__name__}"
            raise MondrianError(f"the photo decoder does not start: {command}") from None

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kw: dict[str, Any]) -> Any:
        try:
            self._pipe.send((function, args, kw))
        except OSError:  # it was ended from outside
            self._fail("was ended")
        error, result = self._receive(self.limits.seconds)
        if error is not None:
            raise PhotoError(*error)
        return result

    def kill(self) -> None:
        """End the process; a call in another thread notices it."""
        self._process.kill()

    def close(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.wait()

    def _receive(self, seconds: float) -> Any:
        deadline = monotonic() + seconds
        try:
            while not self._pipe.poll(_POLL_SECONDS):
                if monotonic() > deadline:
                    self._fail(f"took more than {seconds:g} s")
                if self._exceeds_memory():
                    self._fail("needed too much memory")
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            self._fail("crashed")
        except BaseException:  # a limit, or Ctrl-C between question and answer
            self.close()
            raise

    def _exceeds_memory(self) -> bool:
        if _MEMORY_LIMIT_WORKS:
            return False
        with suppress(psutil.Error):
            resident_bytes: int = psutil.Process(self._process.pid).memory_info().rss
            return resident_bytes > self.limits.memory_bytes
        return False

    def _fail(self, event: str) -> None:
        self.close()
        detail = f"its decoding {event}; open it in a photo program and export it as JPEG"
        raise PhotoError("image_unreadable", detail)


def is_cheap(header: PhotoHeader) -> bool:
    """Return whether the header alone bounds the decoding, to about a second."""
    return header.format in CHEAP_FORMATS and header.work <= CHEAP_WORK


_scan_decoder = DecoderPool(1, DecoderLimits.for_pixels(60, MAX_PHOTO_PIXELS))


def read_preview(path: Path) -> Preview:
    """Return `images.read_preview`, within 60 seconds and the memory of 200 megapixels.

    Raises PhotoError as that does, and with reason image_unreadable if a limit is exceeded.
    """
    header = read_header(path)
    if is_cheap(header):
        return images.read_preview(path, header)
    return _scan_decoder.call(images.read_preview, path, header)


def _run(pipe: Connection, memory_bytes: int, seconds: int) -> None:
    """Be a decoder until the pipe ends; also without a parent no photo takes forever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    if _MEMORY_LIMIT_WORKS:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_bytes
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]  # that of the user, if there is one
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send(None)
    while True:
        try:
            function, args, kw = pipe.recv()
        except EOFError:
            return
        signal.alarm(seconds + _GRACE_SECONDS)
        pipe.send_bytes(_call(function, args, kw))
        signal.alarm(0)


def _call(function: Callable[..., Any], args: tuple[Any, ...], kw: dict[str, Any]) -> bytes:
    """Return the pickled pair of error (reason, detail) and result; one of them is None."""
    try:
        return pickle.dumps((None, function(*args, **kw)), pickle.HIGHEST_PROTOCOL)
    except PhotoError as error:
        return pickle.dumps(((error.reason, str(error)), None))
    except MemoryError:
        error_detail = "its decoding needs too much memory; export it smaller, as JPEG"
    except Exception as error:
        error_detail = f"{type(error).__name__}: {error}"
    return pickle.dumps((("image_unreadable", error_detail), None))


if __name__ == "__main__":
    _run(Connection(int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]))
