"""Limits of size and time for the body of every request."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mondrian.serving.http.html_response import BODY_MESSAGES, error_response

_FORM = "mondrian.form"  # key of the ReceivedForm in the scope of a request
MAX_JSON_BYTES = 256_000  # enough for the longest critique with every character escaped


@dataclass(frozen=True)
class BodyLimit:
    max_bytes: int
    seconds: float  # from the first byte that is read to the last one

    def check(self, size: int) -> None:
        """Raise HTTPException 413 if a body is too large."""
        if size > self.max_bytes:
            raise HTTPException(413, f"the body has {size} bytes; at most {self.max_bytes:,}")


SMALL_BODY = BodyLimit(MAX_JSON_BYTES, 20.0)  # JSON, and forms without files


class PhotoMemory:
    """The bytes of uploaded photos in memory at a time; other photos wait on disk.

    seconds  that a photo may wait
    """

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self.max_bytes, self.seconds = max_bytes, seconds
        self._used_bytes = 0
        self._change = asyncio.Event()

    @asynccontextmanager
    async def reserve(self, num_bytes: int) -> AsyncIterator[None]:
        """Wait until a photo fits; one that is larger than the limit must be alone.

        Raises HTTPException 503 if it does not fit in time.
        """
        try:
            async with asyncio.timeout(self.seconds):
                while self._used_bytes and self._used_bytes + num_bytes > self.max_bytes:
                    self._change.clear()
                    await self._change.wait()
        except TimeoutError:
            raise HTTPException(503, _too_many_photos(30), {"retry-after": "30"}) from None
        self._used_bytes += num_bytes
        try:
            yield
        finally:
            self._used_bytes -= num_bytes
            self._change.set()


class FormDisk:
    """The bytes of forms with photos on disk at a time, from the first one that is received."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0


class ReceivedForm:
    """The bytes of one form on a FormDisk."""

    def __init__(self, disk: FormDisk) -> None:
        self.disk = disk
        self._num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Count received bytes. Raises HTTPException 503 if too many, with those of others."""
        used_bytes = self.disk.used_bytes + num_bytes
        if used_bytes > self.disk.max_bytes and used_bytes > self._num_bytes + num_bytes:
            headers = {"retry-after": "5", "connection": "close"}
            raise HTTPException(503, _too_many_photos(5), headers)
        self._num_bytes += num_bytes
        self.disk.used_bytes = used_bytes

    def release(self) -> None:
        """Count no bytes of the form any more."""
        self.disk.used_bytes -= self._num_bytes
        self._num_bytes = 0


def release_form(scope: Scope) -> None:
    """Count no bytes of a request's form any more, as it is not on disk."""
    if _FORM in scope:
        scope[_FORM].release()


class BodyLimitMiddleware:
    """Rejects bodies that are too large (413), take too long (408) or do not fit on disk (503).

    form_limit  of a multipart form, which may contain photos; other bodies have SMALL_BODY
    form_disk   of all forms; their routes call `release_form`
    on_refuse   called with the status of a body that is rejected unread
    """

    def __init__(
        self,
        app: ASGIApp,
        form_limit: BodyLimit,
        form_disk: FormDisk,
        on_refuse: Callable[[int], None] = lambda _: None,
        small_limit: BodyLimit = SMALL_BODY,
    ) -> None:
        self.app, self.on_refuse, self.form_disk = app, on_refuse, form_disk
        self.form_limit, self.small_limit = form_limit, small_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):  # no route reads theirs
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        limit = self.form_limit if is_form else self.small_limit
        length = headers.get("content-length", "")
        try:
            if re.fullmatch(r"[0-9]{1,30}", length):
                limit.check(int(length))
        except HTTPException as error:
            self.on_refuse(error.status_code)
            page_message = BODY_MESSAGES[error.status_code] if is_form else ""
            response = error_response(
                headers, error.status_code, error.detail, page_message=page_message
            )
            await response(scope, receive, send)
            return
        form = scope[_FORM] = ReceivedForm(self.form_disk)
        on_bytes = form.add if is_form else _ignore
        try:
            await self.app(scope, _limit_receive(receive, limit, on_bytes), send)
        finally:
            form.release()


def _ignore(_: int) -> None: ...


def _too_many_photos(seconds: int) -> str:
    return f"too many photos are being received; try again in {seconds} s"


def _limit_receive(receive: Receive, limit: BodyLimit, on_bytes: Callable[[int], None]) -> Receive:
    """Return `receive` with the limits of a body; afterwards it waits for the disconnect.

    on_bytes  called with the size of each received part
    """
    size, deadline, is_complete = 0, 0.0, False

    async def receive_within_limits() -> Message:
        nonlocal size, deadline, is_complete
        if is_complete:
            return await receive()
        deadline = deadline or asyncio.get_running_loop().time() + limit.seconds
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            detail = f"the body did not arrive within {limit.seconds:g} s"
            raise HTTPException(408, detail, {"connection": "close"}) from None
        size += len(message.get("body", b""))
        limit.check(size)
        on_bytes(len(message.get("body", b"")))
        is_complete = not message.get("more_body", False)
        return message

    return receive_within_limits
