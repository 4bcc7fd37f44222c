"""A section of a YAML file of parameters: strict types, and one error that lists all problems."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mondrian.core.errors import ParamsError, one_line
from mondrian.core.files import suggest_path
from mondrian.core.validation import suggest_name

_REMOVED = {  # parameters of earlier versions
    "image.phash_distance": (
        "was removed: delete the line, and set image.duplicate_similarity to 0.6; photos are "
        "compared by local features now, and its scale has changed"
    ),
    "link.critiques_per_photo": (
        "was removed: delete the line; critiques of one file are compared with each other now, "
        "whatever their number"
    ),
}
_ADDED = {  # parameters that a file of an earlier version lacks
    "train.method": "write method: sft under train, as in the project's file",
    "train.orpo_beta": "write orpo_beta: 0.1 under train, as in the project's file",
    "machine.cache_limit_gb": "write cache_limit_gb: 2.0 under machine, as in the project's file",
    "machine.signers": "write signers: '' under machine, as in the project's file",
    "prepare.session_minutes": "write session_minutes: 60 under prepare, as in the project's file",
    "train.tune_fraction": "write tune_fraction: 0.1 under train, as in the project's file",
    "serve.public_url": "write public_url: '' under serve, as in the project's file",
    "serve.trusted_proxies": "write trusted_proxies: [] under serve, as in the project's file",
    "serve.default_advisor": "write default_advisor: '' under serve, as in the project's file",
    "serve.identify_clients": "write identify_clients: false under serve, as in the project's file",
    "evaluate.calibrate": "write calibrate: true under evaluate, as in the project's file",
    "max_hours": "write max_hours: 168, as in the project's rollout.yaml",
}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy with some values changed; unknown names are an error, unlike in pydantic."""
        unknown = set(update or ()) - set(type(self).model_fields)
        assert not unknown, f"{type(self).__name__} has no field {unknown}"
        return super().model_copy(update=update, deep=deep)


class _Loader(yaml.SafeLoader):
    """YAML 1.1, except that 5e-05 is a number, since `dvc exp run -S` writes it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)
SectionType = TypeVar("SectionType", bound=Section)


def load_yaml(path: Path, section_type: type[SectionType]) -> SectionType:
    """Read and check a file of parameters; raises ParamsError that lists all problems."""
    return parse_yaml(read_text(path), path, section_type)


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = suggest_path(path)
        raise ParamsError(f"{path} does not exist; run from the project's folder{hint}") from None
    except ValueError as error:
        raise ParamsError(f"{path} is not YAML: {one_line(error)}") from None


def parse_yaml(text: str, path: Path, section_type: type[SectionType]) -> SectionType:
    """Check the text of a file of parameters; raises ParamsError that lists all problems."""
    try:
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ParamsError(f"{path} is not YAML: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{path} has no sections")
    try:
        return section_type.model_validate(content)
    except ValidationError as error:
        problems = [_describe_problem(details, section_type) for details in error.errors()]
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ParamsError("\n  ".join([f"{path}: {count}", *problems])) from None


def _describe_problem(details: Any, section_type: type[Section]) -> str:
    location = ".".join(map(str, details["loc"]))
    if not location:
        return str(details["msg"].removeprefix("Value error, "))
    if details["type"] == "missing":
        fix = _ADDED.get(location)
        return f"{location} is missing{f'; {fix}' if fix else ''}"
    if location in _REMOVED:
        return f"{location} {_REMOVED[location]}"
    if details["type"] == "extra_forbidden":
        return f"{location} is not a parameter{_suggest_parameter(details['loc'], section_type)}"
    problem = details["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{location} is {details['input']!r:.80}; {problem}"


def _suggest_parameter(location: tuple[Any, ...], section_type: type[Section]) -> str:
    section: Any = section_type
    for part in location[:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        section = field.annotation if field else None
    parameters = list(getattr(section, "model_fields", ()))
    owner = location[0] if len(location) > 1 else "the file"
    return suggest_name(str(location[-1]), parameters, f"{owner} has")
