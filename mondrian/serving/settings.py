"""How the service is set: flags of the command line over the section `serve` of params.yaml."""

from __future__ import annotations

import argparse
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mondrian.core.errors import ParamsError
from mondrian.core.params import Params, Serve, load_params
from mondrian.rollout.config import RolloutConfig, load_rollout

API_KEY_VARIABLE = "MONDRIAN_API_KEY"


@dataclass(frozen=True)
class ServiceSettings:
    """params with the flags in them, and what only flags say.

    lora_path     one adapter folder or a folder of them; None for base alone
    db            SQLite file or database URL
    data          folder that uploads are kept in
    api_key       that every request has to bring; empty for none
    origins       that pages of other addresses may call from (CORS)
    hosts         names that this service is called by, beside addresses
    engine_url    of an OpenAI-compatible server; None for the model process
    engine_models model names there: of the base under "base", else by advisor
    rollout       steps and guardrails of new adapters; None where ab_test_split says it all
    """

    params: Params
    lora_path: Path | None
    db: str
    data: Path
    api_key: str
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    engine_url: str | None = None
    engine_models: tuple[tuple[str, str], ...] = ()
    rollout: RolloutConfig | None = None
    warnings: tuple[str, ...] = ()


def load_settings(args: argparse.Namespace) -> ServiceSettings:
    """Flags and params as one.

    Raises ParamsError where they do not go together.
    """
    params = load_params(args.params)
    serve = _override_params(params.serve, args)
    models = tuple(_parse_engine_model(pair) for pair in args.engine_model)
    _check_engine(args, serve, models)
    for origin in args.allow_origin:
        if urlsplit(origin).scheme not in ("http", "https") or not urlsplit(origin).netloc:
            raise ParamsError(f"--allow_origin is {origin!r}; write it as https://name:port")
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    return ServiceSettings(
        params=params.model_copy(update={"serve": serve}),
        lora_path=args.lora_path,
        db=args.db,
        data=args.data,
        api_key=key,
        origins=tuple(origin.rstrip("/") for origin in args.allow_origin),
        hosts=tuple(args.allow_host),
        engine_url=args.engine_url,
        engine_models=models,
        rollout=_rollout(args, serve),
        warnings=_check_network(serve.host, key, args.open_network),
    )


def _override_params(serve: Serve, args: argparse.Namespace) -> Serve:
    names = ("model_mode", "ab_test_split", "host", "port")
    overrides = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if not 0 <= overrides.get("ab_test_split", 0.5) <= 1:
        raise ParamsError(f"--ab_test_split is {args.ab_test_split}; it must be from 0 to 1")
    if not 0 <= overrides.get("port", 1) <= 65535:
        raise ParamsError(f"--port is {args.port}; it must be from 0 to 65535")
    return serve.model_copy(update=overrides)


def _check_engine(
    args: argparse.Namespace, serve: Serve, models: tuple[tuple[str, str], ...]
) -> None:
    if args.engine == "openai":
        if not args.engine_url or urlsplit(args.engine_url).scheme not in ("http", "https"):
            raise ParamsError("--engine openai wants --engine_url http://host:port/v1")
        if args.lora_path:
            raise ParamsError("--lora_path is for the engine mlx; give --engine_model ansel=NAME")
        if not dict(models).get("base"):
            raise ParamsError("--engine openai wants --engine_model base=NAME")
    elif args.engine_url or models:
        raise ParamsError("--engine_url and --engine_model go with --engine openai")
    elif serve.model_mode != "base" and not args.lora_path:
        raise ParamsError(f"--model_mode {serve.model_mode} wants --lora_path")


def _rollout(args: argparse.Namespace, serve: Serve) -> RolloutConfig | None:
    if args.rollout is None:
        return None
    if serve.model_mode != "ab_test":
        raise ParamsError(f"--rollout wants --model_mode ab_test; it is {serve.model_mode}")
    if args.ab_test_split is not None:
        raise ParamsError("--rollout and --ab_test_split both say who answers; give one of them")
    return load_rollout(args.rollout)


def _parse_engine_model(value: str) -> tuple[str, str]:
    name, _, model = value.partition("=")
    if not name or not model:
        raise ParamsError(f"--engine_model is {value!r}; write it as ansel=NAME or base=NAME")
    return name, model


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_network(host: str, key: str, open_network: bool) -> tuple[str, ...]:
    """What is to be said at each start; raises ParamsError where other machines need a key."""
    if is_loopback(host) or key:
        if key and len(key) < 16:
            raise ParamsError(f"{API_KEY_VARIABLE} has {len(key)} characters; take 16 at least")
        return ()
    if not open_network:
        raise ParamsError(
            f"--host {host} can be reached by other machines: set {API_KEY_VARIABLE} (16 "
            f"characters or more), "
            "or give --open_network where everybody in the network may use it"
        )
    return (
        f"anybody who reaches {host} may use this service, read its photographs and delete its "
        "jobs: --open_network asks for no key",
    )
