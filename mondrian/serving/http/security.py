"""Who may ask: by name of this service, by origin, by key, and not too often."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from hmac import compare_digest
from hmac import new as hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "mondrian"
_PUBLIC_PATHS = ("/health", "/ready", "/login", "/static/")  # without a key
_SAFE = ("GET", "HEAD", "OPTIONS")
_CHARSETS = ("utf-8", "utf8", "us-ascii")
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: "
    "blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with no-referrer a form of our own has the Origin null
    "cross-origin-opener-policy": "same-origin",
}


def _no_key(headers: Headers) -> str:
    if headers.get("x-api-key") or headers.get("authorization"):
        return "the API key is not this service's; it is in MONDRIAN_API_KEY there"
    return "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY"


def session_token(key: str) -> str:
    """What the cookie of a browser that logged in holds: made of the key, never the key."""
    return hmac(key.encode(), b"mondrian pages", sha256).hexdigest()


class SecurityMiddleware:
    """Refuses before a body is read.

    key      that every request brings; empty for none
    origins  pages that may call from elsewhere
    hosts    names that this service is called by, beside addresses, localhost and its own
    each     requests a minute of one address; 0 for no limit
    most     bytes of a body that says how long it is; 0 for no limit
    """

    def __init__(
        self,
        app: ASGIApp,
        key: str,
        origins: Iterable[str],
        hosts: Iterable[str],
        each: int,
        most: int = 0,
    ) -> None:
        self.app, self.key, self.origins, self.most = app, key, frozenset(origins), most
        own = socket.gethostname().lower()
        self.hosts = {"localhost", own, f"{own}.local", *(host.lower() for host in hosts)}
        self.limit = parse(f"{each}/minute") if each else None
        self.limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = self._check_request(scope, Headers(scope=scope))
        if refused is None:
            with suppress(ClientDisconnect):  # in the middle of its body: there is nobody to answer
                await self.app(scope, receive, _with_headers(send))
            return
        await refused(scope, receive, _with_headers(send))

    def _check_request(self, scope: Scope, headers: Headers) -> Response | None:
        path, method = scope["path"], scope["method"]
        host = headers.get("host", "")
        if not self._is_known_host(host):
            return _make_error(
                400, f"{host[:80]!r} is not a name of this service; see --allow_host"
            )
        if method not in _SAFE and not self._may_write(headers, host):
            return _make_error(403, "a page of another address may not do that; see --allow_origin")
        if self.key and not path.startswith(_PUBLIC_PATHS) and not self._has_key(headers):
            if method == "GET" and "text/html" in headers.get("accept", ""):
                return RedirectResponse("/login", 303)
            response = _make_error(401, _no_key(headers))
            response.headers["www-authenticate"] = "Bearer"
            return response
        client = (scope.get("client") or ("",))[0]
        if method not in _SAFE and self.limit and not self.limiter.hit(self.limit, client):
            response = _make_error(
                429, f"more than {self.limit.amount} requests a minute; try again later"
            )
            response.headers["retry-after"] = "10"
            return response
        return self._check_body_headers(headers)

    def _check_body_headers(self, headers: Headers) -> Response | None:
        """Refuse a body for what its headers say of it."""
        length = headers.get("content-length", "")
        if self.most and re.fullmatch(r"[0-9]{1,30}", length) and int(length) > self.most:
            return _make_error(413, f"the body has {length} bytes; most {self.most:,}")
        _, options = parse_options_header(headers.get("content-type"))
        charset = options.get(b"charset", b"utf-8").decode("latin-1")
        if charset.lower() not in _CHARSETS:  # some of Python's decode to what no file can hold
            return _make_error(415, f"the charset is {charset[:40]!r}; it must be utf-8")
        return None

    def _is_known_host(self, host: str) -> bool:
        """An address or a known name: a foreign name that leads here is an attack on the reader."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts
        return True

    def _may_write(self, headers: Headers, host: str) -> bool:
        origin = headers.get("origin", "")
        if origin:
            return origin in self.origins or origin.partition("://")[2] == host
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")

    def _has_key(self, headers: Headers) -> bool:
        sent = headers.get("x-api-key", "")
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            sent = token.strip()
        if compare_digest(sent.encode("latin-1"), self.key.encode()):  # as it came
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return bool(cookie) and compare_digest(
            (cookie.value if cookie else "").encode(), session_token(self.key).encode()
        )


def _make_error(status: int, error: str) -> JSONResponse:
    return JSONResponse({"error": error}, status)


def _with_headers(send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return answer
