"""Versions as in GTO's tags, such as ansel@v2.0.0, and the rules for names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mondrian.core.errors import ReleaseError

_VERSION = re.compile(r"v?(0|[1-9]\d{0,8})(?:\.(0|[1-9]\d{0,8}))?(?:\.(0|[1-9]\d{0,8}))?", re.ASCII)
_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?", re.ASCII)  # GTO's, without folders


@dataclass(frozen=True, order=True)
class Version:
    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}.{self.patch}"


def parse_version(text: str) -> Version:
    """Parse v2, 2.1 or v2.1.3, or raise ReleaseError; missing parts are 0."""
    match = _VERSION.fullmatch(text)
    if not match:
        raise ReleaseError(f"{text!r} is not a version; give one such as v2, v2.1 or v2.1.3")
    return Version(*(int(number or 0) for number in match.groups()))


def parse_new_version(advisor: str, requested_version: str, known: Sequence[Version]) -> Version:
    """Return the requested version, or raise ReleaseError if it or a higher one exists."""
    version = parse_version(requested_version)
    top = max(known, default=None)
    if top is None or version > top:
        return version
    reason = "exists" if version in known else f"is below {top}, which exists"
    free = f"{Version(top.major, top.minor, top.patch + 1)} or {Version(top.major + 1, 0, 0)}"
    raise ReleaseError(f"{advisor}@{version} {reason}; the next free versions are {free}")


def check_name(name: str, kind: str = "advisor") -> None:
    """Raise ReleaseError unless GTO can tag an advisor or a stage of this name."""
    if not _NAME.fullmatch(name):
        raise ReleaseError(
            f"{kind} {name!r} cannot be part of a tag: use letters, digits, - and _, with a letter "
            "or a digit first and last"
        )


def version_tag(advisor: str, version: Version) -> str:
    return f"{advisor}@{version}"
