"""mondrian serve: start the advisor service, which critiques photos over HTTP."""

import argparse
from contextlib import suppress
from pathlib import Path

from mondrian.cli.parser import add_db, add_params, command_parser, path_name
from mondrian.core.errors import MondrianError
from mondrian.core.params import load_params
from mondrian.serving.http.listener import open_listeners
from mondrian.serving.settings import API_KEY_VARIABLE, ENGINE_KEY_VARIABLE, load_settings

_SERVE_PARAMS = ("model_mode", "ab_test_split", "port", "host")  # that a flag overrides


def main(argv: list[str]) -> None:
    settings = load_settings(parse_args(argv))
    sockets = open_listeners(settings.params.serve.host, settings.params.serve.port)
    # Only now, as it takes seconds: a taken port is reported at once.
    from mondrian.serving.server import run_server

    run_server(settings, sockets)


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "serve",
        "mondrian serve --lora_path models --model_mode ab_test\n"
        "mondrian serve --lora_path models/serving --model_mode ab_test --rollout rollout.yaml",
        f"Other settings are in params.yaml under serve. {API_KEY_VARIABLE} holds the API key,\n"
        f"{ENGINE_KEY_VARIABLE} that of the server of --engine openai.",
    )
    defaults = _describe_defaults(argv)
    add = parser.add_argument
    add("--lora_path", type=path_name, help="an adapter folder, or a folder of them")
    add(
        "--model_mode",
        choices=("base", "fine_tuned", "ab_test"),
        help="default answer mode" + defaults["model_mode"],
    )
    split_help = "fraction of clients that the adapter answers in ab_test"
    add("--ab_test_split", type=float, help=split_help + defaults["ab_test_split"])
    add("--rollout", type=path_name, help="rollout.yaml: steps and guardrails of a new adapter")
    add("--port", type=int, help="TCP port; 0 for any free one" + defaults["port"])
    add("--host", help="address to listen on" + defaults["host"])
    add_db(parser)
    add("--data", type=path_name, default=Path("data/service"), help="folder of uploads")
    add("--open_network", action="store_true", help="serve other machines without an API key")
    add("--allow_origin", action="append", default=[], help="origin of a page that may call")
    add("--allow_host", action="append", default=[], help="host name of this service")
    add("--engine", choices=("mlx", "openai"), default="mlx", help="what generates critiques")
    add("--engine_url", help="URL of an OpenAI-compatible server, with --engine openai")
    model_help = "its model for an advisor; base=MODEL for the base"
    add("--engine_model", action="append", default=[], metavar="ADVISOR=MODEL", help=model_help)
    add_params(parser)
    return parser.parse_args(argv)


def _describe_defaults(argv: list[str]) -> dict[str, str]:
    """Return the defaults in --params as texts for --help, for which alone it is read."""
    values: dict[str, object] = {}
    path = Path("params.yaml")
    if {"-h", "--help"} & set(argv):
        parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
        add_params(parser)
        with suppress(argparse.ArgumentError):
            path = parser.parse_known_args(argv)[0].params
        with suppress(MondrianError):
            values = load_params(path).serve.model_dump()
    source = f"of serve in {path}"
    return {
        name: f" (default: {values[name]}, {source})" if values else f" (default {source})"
        for name in _SERVE_PARAMS
    }
