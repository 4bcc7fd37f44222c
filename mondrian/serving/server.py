"""The HTTP server of the service: from its sockets to the end of its drain."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address, ip_network
from threading import Timer
from types import FrameType

import psutil
import uvicorn

from mondrian.core.errors import MondrianError
from mondrian.serving.app import create_app
from mondrian.serving.http.connections import ConnectionLimits, ConnectionTable, limit_protocol
from mondrian.serving.http.listener import BACKLOG, raise_file_limit
from mondrian.serving.http.request_log import configure_logging
from mondrian.serving.service import Service
from mondrian.serving.settings import ServiceSettings

_MAX_HEAD_BYTES = 64 * 1024
_EXIT_SECONDS = 10.0  # after drain_seconds, for the model process to end and jobs to be requeued
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
log = logging.getLogger("mondrian.service")


class DrainingServer(uvicorn.Server):
    """A server that drains on SIGTERM and SIGINT and exits with 0; a second signal ends it now.

    While it drains it still listens, so that clients and load balancers get its 503.
    """

    def __init__(self, config: uvicorn.Config, service: Service, url: str) -> None:
        super().__init__(config)
        self.service, self.url = service, url
        self._was_ready = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        signals = (signal.SIGTERM, signal.SIGINT)
        handlers = {sig: signal.signal(sig, self.handle_exit) for sig in signals}
        try:
            yield
        finally:
            for sig, handler in handlers.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.service.draining:
            end_process(128 + sig)
        self.request_exit()

    def request_exit(self) -> None:
        self.service.drain()
        seconds = self.service.drain_seconds_left + _EXIT_SECONDS
        timer = Timer(seconds, end_process, [1])  # whatever its threads wait for
        timer.daemon = True
        timer.start()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._log_started_message(sockets or [])

    async def on_tick(self, counter: int) -> bool:
        if self.service.ready and not self._was_ready:
            self._was_ready = True
            log.info("ready at %s", self.url)
        if self.service.draining:
            is_busy = bool(self.server_state.tasks) or self.service.job_runner.running
            self.should_exit = not (is_busy and self.service.drain_seconds_left)
        return await super().on_tick(counter)


def run_server(settings: ServiceSettings, sockets: list[socket.socket]) -> None:
    """Run the service on listening sockets until it has drained.

    Raises MondrianError if it cannot start or continue.
    """
    configure_logging()
    limits = ConnectionLimits.for_files(raise_file_limit())
    service = Service(settings)
    table = ConnectionTable(
        limits,
        exempt=lambda address: _is_in_networks(address, settings.trusted_proxies),
        on_refuse=service.metrics.refused.labels("closed").inc,
    )
    config = uvicorn.Config(
        create_app(service),
        host=settings.params.serve.host,
        port=sockets[0].getsockname()[1],
        http=limit_protocol(table),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=limits.keep_alive_seconds,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        backlog=BACKLOG,
        timeout_graceful_shutdown=1,  # after the drain
    )
    server = DrainingServer(config, service, _public_url(settings, config.port))
    service.request_exit = server.request_exit
    try:
        server.run(sockets)
    except SystemExit:
        raise MondrianError("the service could not start; its log says why") from None
    _end_children()  # decoders of photos that nobody waits for any more
    if service.fatal_error:
        raise MondrianError(service.fatal_error)


def end_process(status: int) -> None:
    """End this process and its children now."""
    _end_children()
    os._exit(status)


def _end_children() -> None:
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            child.kill()


def _is_in_networks(address: str, networks: tuple[str, ...]) -> bool:
    with suppress(ValueError):
        return any(ip_address(address) in ip_network(network) for network in networks)
    return False


def _public_url(settings: ServiceSettings, port: int) -> str:
    host = settings.params.serve.host
    host = _WILDCARDS.get(host, f"[{host}]" if ":" in host else host)
    return settings.params.serve.public_url or f"http://{host}:{port}"
