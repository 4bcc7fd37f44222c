"""Access control before a body is read: Host, Origin, API key, rate limit, security headers."""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from hmac import new as hmac
from http.cookies import CookieError, SimpleCookie
from math import ceil
from time import time
from urllib.parse import urlsplit

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mondrian.serving.http.html_response import error_response, prefers_page

COOKIE = "mondrian"
_PUBLIC_PATHS = ("/health", "/ready", "/login", "/static/")  # need no API key
_READ_METHODS = ("GET", "HEAD", "OPTIONS")
_WRONG_KEYS_PER_MINUTE = 5
_SIGN_IN = "The API key is missing or wrong. Sign in on the start page, then try again."
_OTHER_SITE = "This was sent by a page of another site. Open this service, and do it there."
_WRONG_NAME = (
    "This service does not answer to the name in the address bar. Open it by its IP address, or "
    "start it with --allow_host and the name."
)
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


def client_address(scope: Scope) -> str:
    """Return the client's address; uvicorn replaces that of a trusted proxy."""
    return (scope.get("client") or ("",))[0]


def session_token(key: str) -> str:
    """Return the cookie value of a logged-in browser: an HMAC with the API key."""
    return hmac(key.encode(), b"mondrian pages", sha256).hexdigest()


class RateLimiter:
    """Counts events of client addresses in a moving window."""

    def __init__(self, limit: RateLimitItem) -> None:
        self.limit = limit
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def hit(self, address: str) -> int:
        """Count an event; return 0, or after how many seconds one more is within the limit."""
        if self._limiter.hit(self.limit, address):
            return 0
        return max(1, ceil(self._limiter.get_window_stats(self.limit, address).reset_time - time()))


def limit_wrong_keys() -> RateLimiter:
    """Return the limit of wrong API keys, in headers and in the login form.

    A right key is always accepted: others behind the same address must not be locked out, and
    with 16 characters or more it cannot be guessed at any rate.
    """
    return RateLimiter(RateLimitItemPerMinute(_WRONG_KEYS_PER_MINUTE))


class SecurityMiddleware:
    """Rejects requests that break the access rules, and adds SECURITY_HEADERS to every response.

    wrong_keys  limit of wrong API keys, shared with the login form
    on_refuse   called with the status of each rejected request
    """

    def __init__(
        self,
        app: ASGIApp,
        rules: AccessRules,
        wrong_keys: RateLimiter | None = None,
        on_refuse: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.app, self.rules, self.on_refuse = app, rules, on_refuse
        self.wrong_keys = wrong_keys or limit_wrong_keys()
        self.origins = frozenset(rules.origins) - {""}
        host = socket.gethostname().lower()
        self.hosts = {"localhost", host, f"{host}.local", *map(str.lower, rules.hosts)} - {""}
        per_minute = rules.requests_per_minute
        self.writes = RateLimiter(RateLimitItemPerMinute(per_minute)) if per_minute else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._check_request(scope, Headers(scope=scope))
        if refusal and refusal.status_code >= 400:
            self.on_refuse(refusal.status_code)
        app = refusal or self.app
        with suppress(ClientDisconnect):  # while its body was read: no response is possible
            await app(scope, receive, _with_headers(send))

    def _check_request(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the response that rejects a request; None if it is accepted."""
        path, host = scope["path"], headers.get("host", "")
        client = client_address(scope)
        is_write = scope["method"] not in _READ_METHODS
        if not self._is_known_host(host):
            message = f"{host[:80]!r} is not a name of this service; see --allow_host"
            return error_response(headers, 400, message, page_message=_WRONG_NAME)
        if is_write and not self._is_same_origin(headers, host):
            message = "pages of other origins may not do this; see --allow_origin"
            return error_response(headers, 403, message, page_message=_OTHER_SITE)
        is_public = path.startswith(_PUBLIC_PATHS)
        if not is_public and not has_api_key(headers, self.rules.api_key):
            return self._refuse_key(scope["method"], headers, client)
        if is_write and self.writes and (seconds := self.writes.hit(client)):
            return _limit_error(headers, f"{self.writes.limit.amount} requests", seconds)
        _, options = parse_options_header(headers.get("content-type"))
        charset = options.get(b"charset", b"utf-8").decode("latin-1")
        if charset.lower() not in _CHARSETS:  # some codecs yield text that UTF-8 cannot encode
            message = f"the charset is {charset[:40]!r}; it must be utf-8"
            return error_response(headers, 415, message)
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

    def _refuse_key(self, method: str, headers: Headers, client: str) -> Response:
        """Return the response to a missing or wrong key; wrong ones are counted."""
        if not (headers.get("x-api-key") or headers.get("authorization")):
            if method == "GET" and prefers_page(headers):
                return RedirectResponse("/login", 303)
            message = "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY"
            return _key_error(headers, message)
        if seconds := self.wrong_keys.hit(client):
            what = f"{self.wrong_keys.limit.amount} wrong API keys"
            return _limit_error(headers, what, seconds)
        return _key_error(headers, "wrong API key; it must equal MONDRIAN_API_KEY of the service")


def has_api_key(headers: Headers, api_key: str) -> bool:
    """Return whether a request has the key in a header or cookie, or needs none."""
    key = headers.get("x-api-key", "")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        key = token.strip()
    # Starlette decodes headers as latin-1; this restores the bytes
    if not api_key or compare_digest(key.encode("latin-1"), api_key.encode()):
        return True
    token = session_token(api_key)
    return compare_digest(read_cookie(headers, COOKIE).encode(), token.encode())


def read_cookie(headers: Headers, name: str) -> str:
    """Return the value of a cookie; "" if there is none."""
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


def _key_error(headers: Headers, message: str) -> Response:
    return error_response(headers, 401, message, {"www-authenticate": "Bearer"}, _SIGN_IN)


def _limit_error(headers: Headers, what: str, seconds: int) -> Response:
    message = f"more than {what} a minute; try again in {seconds} s"
    return error_response(headers, 429, message, {"retry-after": str(seconds)})


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
