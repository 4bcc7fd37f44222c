"""Limits of connections: silent, slow and surplus ones are closed, and hold up no others.

A connection waits for its client until the whole request has arrived. If an address has too many
connections, those that wait the longest are closed, so that a new one is always served.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_SWEEP_SECONDS = 0.5  # between two looks at all connections; a new one has time to send a request
_RESERVED = 256  # connections that one address leaves to others
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


@dataclass(frozen=True)
class ConnectionLimits:
    total: int = 4096
    per_address: int = 256
    header_seconds: float = 10.0  # for the head of the first request
    keep_alive_seconds: int = 15  # for the head of the next one
    write_seconds: float = 30.0  # without progress, for a client that does not read its response

    @classmethod
    def for_files(cls, max_files: int) -> "ConnectionLimits":
        """Return limits for a process with a limit of open files, of which half are connections."""
        return cls(total=min(cls.total, max_files // 2))


class ConnectionTable:
    """All open connections by client address.

    exempt     whether an address, such as that of a proxy, may have any number of connections
    on_refuse  called for each connection that is refused, or closed before its request was complete
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        exempt: Callable[[str], bool] = lambda _: False,
        on_refuse: Callable[[], None] = lambda: None,
    ) -> None:
        self.limits, self.exempt, self.on_refuse = limits, exempt, on_refuse
        self._by_address: defaultdict[str, set[LimitedProtocol]] = defaultdict(set)
        self._sweep_timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._by_address.values()))

    def add(self, connection: "LimitedProtocol") -> None:
        address = connection.address
        is_exempt, total = self.exempt(address), self.limits.total
        max_own = total if is_exempt else max(total - _RESERVED, total // 2)
        if len(self) >= total or len(self._by_address[address]) >= max_own:
            self.on_refuse()
            connection.transport.write(_REFUSAL)
            connection.transport.close()
        self._by_address[address].add(connection)
        if self._sweep_timer is None:
            self._schedule_sweep()

    def discard(self, connection: "LimitedProtocol") -> None:
        connections = self._by_address[connection.address]
        connections.discard(connection)
        if not connections:
            del self._by_address[connection.address]

    def _schedule_sweep(self) -> None:
        self._sweep_timer = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        now = monotonic()
        for address, connections in list(self._by_address.items()):
            for connection in list(connections):
                connection.close_if_overdue(now)
            if not self.exempt(address):
                self._close_surplus(connections, now)
        self._sweep_timer = None
        if self._by_address:
            self._schedule_sweep()

    def _close_surplus(self, connections: Iterable["LimitedProtocol"], now: float) -> None:
        """Close the connections beyond the limit of an address that wait the longest."""
        open_connections = [c for c in connections if not c.transport.is_closing()]
        surplus = len(open_connections) - self.limits.per_address
        waiting = [
            c for c in open_connections if c.is_waiting and now - c.waiting_since > _SWEEP_SECONDS
        ]
        for connection in sorted(waiting, key=lambda c: c.waiting_since)[: max(0, surplus)]:
            connection.refuse()


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol with the limits of a table, which a subclass sets."""

    table: ConnectionTable

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waiting_since = monotonic()
        self._stalled_since: float | None = None  # while the client does not read

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def is_waiting_for_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_waiting(self) -> bool:
        """Whether the whole request has not arrived yet."""
        return self.is_waiting_for_head or self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.table.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.table.discard(self)

    def on_response_complete(self) -> None:
        self.waiting_since = monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._stalled_since = monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stalled_since = None
        super().resume_writing()

    def refuse(self) -> None:
        """Close it before its request was complete; a connection between requests is no loss."""
        if self.cycle is None or not self.cycle.response_complete:
            self.table.on_refuse()
        self.transport.close()

    def close_if_overdue(self, now: float) -> None:
        limits, is_closing = self.table.limits, self.transport.is_closing()
        if is_closing and self._stalled_since is None:  # unsent bytes are left
            self._stalled_since = now
        if self._stalled_since is not None and now - self._stalled_since > limits.write_seconds:
            self.transport.abort()
        elif self.is_waiting_for_head and not is_closing:
            is_first = self.cycle is None
            seconds = limits.header_seconds if is_first else limits.keep_alive_seconds
            if now - self.waiting_since > seconds:
                self.refuse()


def limit_protocol(table: ConnectionTable) -> type[LimitedProtocol]:
    """Return the protocol class of a server with its connections in a table."""
    return type("TableProtocol", (LimitedProtocol,), {"table": table})
