"""Settings of the service: command-line flags over the section `serve` of params.yaml."""

import argparse
import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from mondrian.core.errors import ParamsError
from mondrian.core.params import Params, ServeParams, load_params
from mondrian.rollout.config import RolloutConfig, load_rollout_config

API_KEY_VARIABLE = "MONDRIAN_API_KEY"
ENGINE_KEY_VARIABLE = "MONDRIAN_ENGINE_KEY"
_MIN_KEY_CHARS = 16
_HTTP = ("http", "https")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9])?|[0-9a-f.]*:[0-9a-f:.]*")  # a name or IPv6


@dataclass(frozen=True)
class ServiceSettings:
    """Parameters with the flags applied, and what only flags set."""

    params: Params
    lora_path: Path | None
    db: str
    uploads_folder: Path  # folder of uploads
    api_key: str
    origins: tuple[str, ...] = ()  # from which pages may call (CORS)
    hosts: tuple[str, ...] = ()  # names of this service, with that of serve.public_url
    engine_url: str | None = None  # of an OpenAI-compatible server; None for the model process
    engine_models: tuple[tuple[str, str], ...] = ()  # names there; the base's under "base"
    engine_key: str = field(default="", repr=False)  # API key of that server
    rollout: RolloutConfig | None = None
    trusted_proxies: tuple[str, ...] = ()  # networks
    warnings: tuple[str, ...] = ()

    @property
    def public_origin(self) -> str:
        """Scheme, host name and port of `serve.public_url`, or ""."""
        url = urlsplit(self.params.serve.public_url)
        return f"{url.scheme}://{url.netloc}" if url.netloc else ""


def load_settings(args: argparse.Namespace) -> ServiceSettings:
    """Combine flags and params. Raises ParamsError if they contradict each other."""
    params = load_params(args.params)
    serve = _override_params(params.serve, args)
    _check_contract(serve, params.advisors, args.params)
    models = tuple(_parse_engine_model(value) for value in args.engine_model)
    _check_engine(args, serve, dict(models))
    for origin in args.allow_origin:
        if urlsplit(origin).scheme not in _HTTP or not urlsplit(origin).netloc:
            raise ParamsError(f"--allow_origin is {origin!r}; write it as https://name:port")
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    return ServiceSettings(
        params=params.model_copy(update={"serve": serve}),
        lora_path=args.lora_path,
        db=args.db,
        uploads_folder=args.data,
        api_key=key,
        origins=tuple(origin.rstrip("/") for origin in args.allow_origin),
        hosts=tuple(filter(None, (*args.allow_host, urlsplit(serve.public_url).hostname))),
        engine_url=args.engine_url,
        engine_models=models,
        engine_key=_read_engine_key(),
        rollout=_load_rollout(args, serve),
        trusted_proxies=tuple(_parse_networks(args.params, serve.trusted_proxies)),
        warnings=_check_network(serve, key, args.open_network),
    )


def _override_params(serve: ServeParams, args: argparse.Namespace) -> ServeParams:
    names = ("model_mode", "ab_test_split", "host", "port")
    overrides = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if not 0 <= overrides.get("ab_test_split", 0.5) <= 1:
        raise ParamsError(f"--ab_test_split is {args.ab_test_split}; it must be from 0 to 1")
    if not 0 <= overrides.get("port", 1) <= 65535:
        raise ParamsError(f"--port is {args.port}; it must be from 0 to 65535")
    return serve.model_copy(update=overrides)


def _check_contract(serve: ServeParams, advisors: list[str], path: Path) -> None:
    """Raise ParamsError if clients could not use the values in responses."""
    url, advisor, names = serve.public_url, serve.default_advisor, ", ".join(advisors)
    if url and not _is_base_url(url):
        raise ParamsError(
            f"{path}: serve.public_url is {url!r}; write it as https://name or https://name:port, "
            "or '' for the address that the client called"
        )
    if advisor and advisor not in advisors:
        raise ParamsError(
            f"{path}: serve.default_advisor is {advisor!r}; it must be one of {names}, "
            "or '' to refuse unknown advisors"
        )


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in _HTTP and bool(_HOST.fullmatch(parts.hostname or ""))
        is_address = is_address and parts.port != 0 and not parts.netloc.endswith(":")
    except ValueError:  # of the port or an IPv6 address
        return False
    is_plain = not (parts.query or parts.fragment or parts.username) and url.isprintable()
    return is_address and is_plain and " " not in url and parts.path in ("", "/")


def _check_engine(args: argparse.Namespace, serve: ServeParams, models: dict[str, str]) -> None:
    if args.engine == "openai":
        if not args.engine_url or urlsplit(args.engine_url).scheme not in _HTTP:
            raise ParamsError("--engine openai needs --engine_url http://host:port/v1")
        if args.lora_path:
            raise ParamsError("--lora_path is for --engine mlx; give --engine_model ansel=NAME")
        if not models.get("base"):
            raise ParamsError("--engine openai needs --engine_model base=NAME")
    elif args.engine_url or models:
        raise ParamsError("--engine_url and --engine_model need --engine openai")
    elif serve.model_mode != "base" and not args.lora_path:
        raise ParamsError(f"--model_mode {serve.model_mode} needs --lora_path")


def _read_engine_key() -> str:
    key = os.environ.get(ENGINE_KEY_VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable():  # not possible in a header
        raise ParamsError(f"{ENGINE_KEY_VARIABLE} has characters other than printable ASCII")
    return key


def _load_rollout(args: argparse.Namespace, serve: ServeParams) -> RolloutConfig | None:
    if args.rollout is None:
        return None
    if serve.model_mode != "ab_test":
        raise ParamsError(f"--rollout needs --model_mode ab_test; it is {serve.model_mode}")
    if args.ab_test_split is not None:
        raise ParamsError("--rollout and --ab_test_split both say who answers; give one of them")
    return load_rollout_config(args.rollout)


def _parse_engine_model(value: str) -> tuple[str, str]:
    name, _, model = value.partition("=")
    if not name or not model:
        raise ParamsError(f"--engine_model is {value!r}; write it as ansel=NAME or base=NAME")
    return name, model


def _parse_networks(params_path: Path, values: Sequence[str]) -> Iterator[str]:
    """Yield the networks of `serve.trusted_proxies`. Raises ParamsError."""
    for value in values:
        try:
            yield str(ipaddress.ip_network(value, strict=False))
        except ValueError:
            raise ParamsError(
                f"{params_path}: serve.trusted_proxies has {value!r}; "
                "write an address, such as 127.0.0.1, or a network, such as 10.0.0.0/8"
            ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_network(serve: ServeParams, key: str, open_network: bool) -> tuple[str, ...]:
    """Return warnings. Raises ParamsError if other machines could call without a key."""
    if key and len(key) < _MIN_KEY_CHARS:
        raise ParamsError(f"{API_KEY_VARIABLE} has {len(key)} characters; it needs 16 or more")
    reachable = serve.public_url or ("its proxy" if serve.trusted_proxies else "")
    if not _is_loopback(serve.host):
        reachable = serve.host
        if not key and not open_network:
            raise ParamsError(
                f"--host {serve.host} can be reached by other machines: set {API_KEY_VARIABLE} (16 "
                "characters or more), or give --open_network if everyone on the network may use it"
            )
    if key or not reachable:
        return ()
    return (
        f"everyone who reaches {reachable} may use this service, read its photos and delete its "
        f"jobs: no API key is required; set {API_KEY_VARIABLE}",
    )
