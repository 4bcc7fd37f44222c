"""The source of a base: a folder, or an id on the hub."""

import re

_THINKING = re.compile(r"[-_]Thinking\b", re.IGNORECASE)


def check_base_source(source: str) -> str:
    """Return the source, or raise ValueError if its name is that of a base that cannot be used."""
    if _THINKING.search(source.rstrip("/").rpartition("/")[2]):
        instruct = _THINKING.sub("-Instruct", source)
        raise ValueError(
            f"{source} writes thoughts before its answer, which the critique's format forbids; "
            f"use {instruct}"
        )
    return source


def is_hub_id(source: str) -> bool:
    """Return whether a source that is not a folder may be an id on the hub, such as Qwen/NAME."""
    return source.count("/") == 1 and not source.startswith((".", "/", "models/"))
