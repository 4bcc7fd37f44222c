"""python mondrian/ai_advisor_service.py --lora_path FOLDER --model_mode ab_test: critiques by HTTP.

mondrian/serving has the parts; params.yaml, section serve, the choices.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from mondrian.core.errors import MondrianError, run
from mondrian.serving.app import create_app
from mondrian.serving.http.request_log import configure_logging
from mondrian.serving.service import Service
from mondrian.serving.settings import load_settings, parse_args

_EXTRA_CONNECTIONS = (
    256  # connections beside those that wait for a critique: streams, pages, probes
)
log = logging.getLogger("mondrian.service")


class DrainingServer(uvicorn.Server):
    """Drains on SIGTERM and SIGINT, and then ends well; a second signal ends it now."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        kinds = (signal.SIGTERM, signal.SIGINT)
        before = {kind: signal.signal(kind, self.handle_exit) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.service.drain()
        self.should_exit = True

    def request_exit(self) -> None:
        """As if asked to, but now."""
        self.service.drain()
        self.should_exit = True


def main() -> None:
    settings = load_settings(parse_args())
    configure_logging()
    service = Service(settings)
    serve = settings.params.serve
    config = uvicorn.Config(
        create_app(service),
        host=serve.host,
        port=serve.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=64 * 1024,
        limit_concurrency=serve.max_waiting_requests + _EXTRA_CONNECTIONS,
        timeout_graceful_shutdown=max(1, int(serve.drain_seconds)),
    )
    server = DrainingServer(config, service)
    service.stop = server.request_exit
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say that it could not listen; its log line says why
        raise MondrianError(
            f"cannot listen on {serve.host} port {serve.port}; is it taken? give another --port"
        ) from None
    if service.fatal:
        raise MondrianError(service.fatal)
    if not server.started:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
