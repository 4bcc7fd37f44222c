"""mondrian serve: start the advisor service, which critiques photos over HTTP."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from mondrian.cli.parser import add_db, add_params, command_parser
from mondrian.core.errors import MondrianError
from mondrian.serving.app import create_app
from mondrian.serving.http.request_log import configure_logging
from mondrian.serving.service import Service
from mondrian.serving.settings import API_KEY_VARIABLE, load_settings

_EXTRA_CONNECTIONS = 256  # besides requests that wait for a critique: streams, pages, probes


class DrainingServer(uvicorn.Server):
    """A server that drains on SIGTERM and SIGINT and exits with 0; a second signal ends it now."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

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
        self.force_exit = self.should_exit
        self.request_exit()

    def request_exit(self) -> None:
        self.service.drain()
        self.should_exit = True


def main(argv: list[str]) -> None:
    settings = load_settings(parse_args(argv))
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
    service.request_exit = server.request_exit
    try:
        server.run()
    except SystemExit:  # uvicorn could not listen; its log line says why
        raise MondrianError(
            f"cannot listen on {serve.host} port {serve.port}; is it taken? give another --port"
        ) from None
    if service.fatal_error:
        raise MondrianError(service.fatal_error)
    if not server.started:
        sys.exit(1)


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "serve",
        "mondrian serve --lora_path models --model_mode ab_test\n"
        "mondrian serve --lora_path models/serving --model_mode ab_test --rollout rollout.yaml",
        f"Defaults are in params.yaml under serve. {API_KEY_VARIABLE} holds the API key.",
    )
    add = parser.add_argument
    add("--lora_path", type=Path, help="an adapter folder, or a folder of them")
    add("--model_mode", choices=("base", "fine_tuned", "ab_test"), help="default answer mode")
    add("--ab_test_split", type=float, help="fraction of clients that the adapter answers")
    add("--rollout", type=Path, help="rollout.yaml: steps and guardrails of a new adapter")
    add("--port", type=int, help="TCP port; 0 for any free one")
    add("--host", help="address to listen on")
    add_db(parser)
    add("--data", type=Path, default=Path("data/service"), help="folder of uploads")
    add("--open_network", action="store_true", help="serve other machines without an API key")
    add("--allow_origin", action="append", default=[], help="origin of a page that may call")
    add("--allow_host", action="append", default=[], help="host name of this service")
    add("--engine", choices=("mlx", "openai"), default="mlx", help="what generates critiques")
    add("--engine_url", help="URL of an OpenAI-compatible server, with --engine openai")
    model_help = "its model for an advisor; base=MODEL for the base"
    add("--engine_model", action="append", default=[], metavar="ADVISOR=MODEL", help=model_help)
    add_params(parser)
    return parser.parse_args(argv)
