"""Listening sockets and the limit of open files."""

import errno
import os
import resource
import socket
from collections.abc import Iterable
from typing import Any

from mondrian.core.errors import MondrianError

BACKLOG = 2048  # connections that wait to be accepted
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_MAX_FILES = 10_240  # the most that macOS grants, though it reports no hard limit


def open_listeners(
    host: str, port: int, fix: str = "give another --port or --host"
) -> list[socket.socket]:
    """Listen on every address of a host name. Raises MondrianError if it is not possible.

    port  0 for any free one, the same on every address
    fix   what the error advises
    """
    try:
        addresses = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return _listen_on_all(dict.fromkeys((info[0], info[4]) for info in addresses))
    except OSError as error:
        is_name = isinstance(error, socket.gaierror)  # its number is not one of the system
        reason = error.strerror if is_name else os.strerror(error.errno or 0)
        raise MondrianError(f"cannot listen on {host} port {port}: {reason}; {fix}") from None


def _listen_on_all(addresses: Iterable[tuple[Any, Any]]) -> list[socket.socket]:
    """Listen on (family, address) pairs, without those that this machine does not have.

    Raises OSError if none is left, or one is taken.
    """
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in addresses:
        if sockets:
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            listener = socket.create_server(address, family=family, backlog=BACKLOG)
            # Accepted connections inherit it. asyncio sets it only if their protocol number is that
            # of TCP, and here it is 0; without it a second small packet waits up to 40 ms.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets.append(listener)
        except OSError as error:
            if error.errno not in _NO_SUCH_ADDRESS:
                for opened in sockets:
                    opened.close()
                raise
            missing = error  # localhost is also ::1, even without IPv6
    if missing and not sockets:
        raise missing
    return sockets


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard limit, at most 10,240; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft == resource.RLIM_INFINITY or soft >= limit:
        return _MAX_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit
