"""Who sends a request: in A/B tests and rollouts, a client has one arm and counts once.

A client is known by its own id (X-Client-Id), else by a cookie of its browser, else by its address.
Of cookie and address only an HMAC is stored, with a key that stays in the data folder.
"""

import ipaddress
import os
from contextlib import suppress
from hashlib import sha256
from hmac import compare_digest
from hmac import new as hmac
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Self

from filelock import FileLock
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mondrian.core.errors import DataError
from mondrian.core.files import fsync_path
from mondrian.serving.http.html_response import prefers_page
from mondrian.serving.http.security import client_address, read_cookie

COOKIE = "mondrian_client"
_CLIENT = "mondrian.client"  # key of the client in the scope of a request
_KEY_FILE, _KEY_BYTES = "client.key", 32
_COOKIE_SECONDS = 180 * 24 * 3600
_IPV6_PREFIX = 64  # bits that a network gives to a home; devices change the others


def known_client(scope: Scope) -> str:
    """Return by what the service knows the client of a request; "" if it identifies none."""
    return str(scope.get(_CLIENT, ""))


class ClientKey:
    """The key that signs cookies, and hides cookies and addresses in stored ids."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the key of a data folder, which is made by the first service that needs it.

        Raises DataError if it cannot be read, made, or is damaged.
        """
        path = folder / _KEY_FILE
        try:
            with FileLock(folder / f".{_KEY_FILE}.lock"):
                if not path.exists():
                    _write_key(path)
                key = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; serve.identify_clients needs it") from None
        if len(key) != _KEY_BYTES:
            raise DataError(
                f"{path} has {len(key)} bytes instead of {_KEY_BYTES}; delete it, then clients "
                "without an id of their own are assigned again"
            )
        return cls(key)

    def make_cookie(self) -> str:
        """Return the value of a new client's cookie: a random id and its signature."""
        id = token_hex(16)
        return f"{id}.{self._digest('signature', id)}"

    def identify_cookie(self, value: str) -> str:
        """Return the stored id of a cookie; "" if its signature is not ours."""
        id, _, signature = value.partition(".")
        expected = self._digest("signature", id)
        is_ours = compare_digest(signature.encode(), expected.encode())
        return f"browser-{self._digest('browser', id)}" if is_ours else ""

    def identify_address(self, address: str) -> str:
        """Return the stored id of an address, the same for all IPv6 addresses of a home."""
        with suppress(ValueError):
            ip = ipaddress.ip_address(address)
            if isinstance(ip, ipaddress.IPv6Address) and not ip.is_link_local:
                network = ipaddress.ip_network((int(ip), _IPV6_PREFIX), strict=False)
                address = str(ip.ipv4_mapped or network)
        return f"address-{self._digest('address', address)}"

    def _digest(self, purpose: str, text: str) -> str:
        return hmac(self._key, f"{purpose}\0{text}".encode(), sha256).hexdigest()[:32]


class ClientIdentityMiddleware:
    """Identifies the client of each request, and gives a cookie to browsers that open a page."""

    def __init__(self, app: ASGIApp, key: ClientKey) -> None:
        self.app, self.key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        client = self.key.identify_cookie(read_cookie(headers, COOKIE))
        scope[_CLIENT] = client or self.key.identify_address(client_address(scope))
        needs_cookie = not client and scope["method"] == "GET" and prefers_page(headers)

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{COOKIE}={self.key.make_cookie()}; Max-Age={_COOKIE_SECONDS}; Path=/"
                secure = "; Secure" if scope["scheme"] == "https" else ""
                value = f"{cookie}; HttpOnly; SameSite=Lax{secure}"
                MutableHeaders(scope=message).append("set-cookie", value)
            await send(message)

        await self.app(scope, receive, send_with_cookie if needs_cookie else send)


def _write_key(path: Path) -> None:
    """Write a new key that only this user may read."""
    staging = path.with_name(f".{path.name}.new")
    staging.unlink(missing_ok=True)  # of a service that was killed
    handle = os.open(staging, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(token_bytes(_KEY_BYTES))
    fsync_path(staging)
    staging.replace(path)
    fsync_path(path.parent)
