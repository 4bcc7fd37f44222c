"""Messages for invalid params.yaml files, request bodies and files that Mondrian wrote."""

from collections.abc import Collection
from difflib import get_close_matches

from pydantic import ValidationError


def format_validation_error(error: ValidationError) -> str:
    """Return the first error as `location: message`."""
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    return f"{location}: {first['msg']}" if location else first["msg"]


def suggest_name(name: str, names: Collection[str], owner: str = "there are") -> str:
    """Return `; did you mean NAME?`, or `; OWNER NAMES` if no name is similar."""
    if matches := get_close_matches(name, names, n=1):
        return f"; did you mean {matches[0]}?"
    return f"; {owner} {', '.join(names)}" if names else ""
