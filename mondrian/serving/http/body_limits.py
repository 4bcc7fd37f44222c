"""Limits of size and time for the body of every request."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    """The bytes of uploaded photos in memory at a time; other photos wait on disk."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._used_bytes = 0
        self._change = asyncio.Event()

    @asynccontextmanager
    async def reserve(self, num_bytes: int) -> AsyncIterator[None]:
        """Wait until a photo fits; one that is larger than the limit must be alone."""
        while self._used_bytes and self._used_bytes + num_bytes > self.max_bytes:
            self._change.clear()
            await self._change.wait()
        self._used_bytes += num_bytes
        try:
            yield
        finally:
            self._used_bytes -= num_bytes
            self._change.set()


class BodyLimitMiddleware:
    """Rejects bodies that are too large (413) or take too long (408).

    form_limit  of a multipart form, which may contain photos; other bodies have SMALL_BODY
    on_refuse   called with the status of a body that is rejected unread
    """

    def __init__(
        self,
        app: ASGIApp,
        form_limit: BodyLimit,
        on_refuse: Callable[[int], None] = lambda _: None,
        small_limit: BodyLimit = SMALL_BODY,
    ) -> None:
        self.app, self.on_refuse = app, on_refuse
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
            response = JSONResponse({"error": error.detail}, error.status_code)
            await response(scope, receive, send)
            return
        await self.app(scope, _limit_receive(receive, limit), send)


def _limit_receive(receive: Receive, limit: BodyLimit) -> Receive:
    """Return `receive` with the limits of a body; afterwards it waits for the disconnect."""
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
        is_complete = not message.get("more_body", False)
        return message

    return receive_within_limits
