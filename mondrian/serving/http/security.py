"""Access control before a body is read: Host, Origin, API key, rate limit, security headers."""

import ipaddress
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
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
_PUBLIC_PATHS = ("/health", "/ready", "/login", "/static/")  # need no API key
_READ_METHODS = ("GET", "HEAD", "OPTIONS")
_CHARSETS = ("utf-8", "utf8", "us-ascii")
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: "
    "blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # no-referrer would make the Origin of our own forms null
    "cross-origin-opener-policy": "same-origin",
}


@dataclass(frozen=True)
class AccessRules:
    api_key: str = ""  # required in every request; empty: none
    origins: Iterable[str] = ()  # other origins whose pages may send requests
    hosts: Iterable[str] = ()  # names of this service besides addresses, localhost and host name
    requests_per_minute: int = 0  # per client address, without GET; 0: no limit
    max_body_bytes: int = 0  # by Content-Length; 0: no limit


def session_token(key: str) -> str:
    """Return the cookie value of a logged-in browser: an HMAC with the API key."""
    return hmac(key.encode(), b"mondrian pages", sha256).hexdigest()


class SecurityMiddleware:
    """Rejects requests that break the access rules, and adds SECURITY_HEADERS to every response."""

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self.app, self.rules = app, rules
        self.origins = frozenset(rules.origins)
        host = socket.gethostname().lower()
        self.hosts = {"localhost", host, f"{host}.local", *map(str.lower, rules.hosts)}
        per_minute = rules.requests_per_minute
        self.limit = parse(f"{per_minute}/minute") if per_minute else None
        self.limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        app = self._check_request(scope, Headers(scope=scope)) or self.app
        with suppress(ClientDisconnect):  # while its body was read: no response is possible
            await app(scope, receive, _with_headers(send))

    def _check_request(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the response that rejects a request; None if it is accepted."""
        path, host = scope["path"], headers.get("host", "")
        is_write = scope["method"] not in _READ_METHODS
        if not self._is_known_host(host):
            return _error(400, f"{host[:80]!r} is not a name of this service; see --allow_host")
        if is_write and not self._is_same_origin(headers, host):
            return _error(403, "pages of other origins may not do this; see --allow_origin")
        if self.rules.api_key and not path.startswith(_PUBLIC_PATHS) and not self._has_key(headers):
            if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                return RedirectResponse("/login", 303)
            return _missing_key_error(headers)
        client = (scope.get("client") or ("",))[0]
        if is_write and self.limit and not self.limiter.hit(self.limit, client):
            message = f"more than {self.limit.amount} requests a minute; try again later"
            return _error(429, message, {"retry-after": "10"})
        length, max_bytes = headers.get("content-length", ""), self.rules.max_body_bytes
        if max_bytes and re.fullmatch(r"[0-9]{1,30}", length) and int(length) > max_bytes:
            return _error(413, f"the body has {length} bytes; at most {max_bytes:,}")
        _, options = parse_options_header(headers.get("content-type"))
        charset = options.get(b"charset", b"utf-8").decode("latin-1")
        if charset.lower() not in _CHARSETS:  # some codecs yield text that UTF-8 cannot encode
            return _error(415, f"the charset is {charset[:40]!r}; it must be utf-8")
        return None

    def _is_known_host(self, host: str) -> bool:
        """Accept IP addresses and known names, against DNS rebinding."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts
        return True

    def _is_same_origin(self, headers: Headers, host: str) -> bool:
        """Accept requests of our own pages, of allowed origins and of programs (no header)."""
        origin = headers.get("origin", "")
        if origin:
            return origin in self.origins or origin.partition("://")[2] == host
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")

    def _has_key(self, headers: Headers) -> bool:
        key = headers.get("x-api-key", "")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            key = token.strip()
        # Starlette decodes headers as latin-1; this restores the bytes
        if compare_digest(key.encode("latin-1"), self.rules.api_key.encode()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        token = session_token(self.rules.api_key)
        return cookie is not None and compare_digest(cookie.value.encode(), token.encode())


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


def _missing_key_error(headers: Headers) -> JSONResponse:
    if headers.get("x-api-key") or headers.get("authorization"):
        message = "wrong API key; it must equal MONDRIAN_API_KEY of the service"
    else:
        message = "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY"
    return _error(401, message, {"www-authenticate": "Bearer"})


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
