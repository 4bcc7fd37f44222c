"""Versions and stages of an advisor: GTO's tags of a repository.

The version of a stage is that of its latest tag by the time in it, as DVC has it
(dvc.repo.artifacts.Artifacts.get_rev); GTO's own table goes by the first time instead, and would
not see that an earlier version was promoted again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gto import api
from gto.constants import Action
from gto.exceptions import GTOException
from gto.tag import Tag, find, parse_name, parse_tag
from scmrepo.exceptions import SCMError
from scmrepo.git import Git

from mondrian.core.errors import ReleaseError
from mondrian.registry.version import Version, check_name, parse_version

MAX_CLOCK_SKEW_SECONDS = 3.0  # seconds that one clock may be behind another


@dataclass(frozen=True)
class TaggedVersion:
    """A version that has a tag, and the stages that it has now."""

    version: Version
    commit: str
    created_at: datetime
    stages: tuple[str, ...]


def list_tagged_versions(advisor: str, root: Path = Path()) -> list[TaggedVersion]:
    """All versions of an advisor, the lowest first.

    Raises ReleaseError where there is no repository, or git and GTO cannot read its tags.
    """
    versions: dict[str, Tag] = {}
    stages: dict[str, str] = {}  # commit by stage
    for tag in _events(advisor, root):
        commit = tag.tag.target
        if tag.action is Action.REGISTER:
            versions[tag.version or ""] = tag
        elif tag.action is Action.DEREGISTER:
            versions.pop(tag.version or "", None)
        elif tag.action is Action.ASSIGN:
            stages[tag.stage or ""] = commit
        elif tag.action is Action.UNASSIGN and stages.get(tag.stage or "") == commit:
            del stages[tag.stage or ""]
    tagged_versions = [
        TaggedVersion(
            parse_version(version),
            tag.tag.target,
            tag.created_at,
            tuple(sorted(s for s, commit in stages.items() if commit == tag.tag.target)),
        )
        for version, tag in versions.items()
        if _is_full_version(version)
    ]
    return sorted(tagged_versions, key=lambda item: item.version)


def find_by_stage(stage: str, known: list[TaggedVersion], advisor: str) -> TaggedVersion:
    """The version that has a stage.

    Raises ReleaseError where none has.
    """
    check_name(stage, "stage")
    for tag in known:
        if stage in tag.stages:
            return tag
    have = sorted({name for tag in known for name in tag.stages})
    hint = f"there is {', '.join(have)}" if have else "no version has a stage"
    raise ReleaseError(
        f"no version of {advisor} is {stage} ({hint}); mondrian promote {advisor} "
        f"--version {known[-1].version if known else 'V'} --stage {stage}, and push the tag"
    )


def find_by_version(
    requested_version: str, known: list[TaggedVersion], advisor: str
) -> TaggedVersion:
    """The version that is asked for.

    Raises ReleaseError where it has no tag.
    """
    version = parse_version(requested_version)
    for tag in known:
        if tag.version == version:
            return tag
    have = ", ".join(str(tag.version) for tag in known[-5:]) or "no version"
    raise ReleaseError(f"{advisor} has no version {version} (it has {have}); was its tag pushed?")


def register(advisor: str, version: Version, commit: str, message: str) -> None:
    """Tag a commit as a version."""
    with _translate_tag_errors():
        api.register(".", advisor, commit, version=str(version), message=message)


def assign(advisor: str, version: Version, stage: str) -> str:
    """Give a version a stage; the tag that says so, later than all before it.

    Raises ReleaseError where one of those is of the future, by this machine's clock.
    """
    times = [tag.tag.tag_time for tag in _events(advisor, Path()) if tag.stage == stage]
    wait = max(times, default=0) + 1 - time.time()
    if wait > MAX_CLOCK_SKEW_SECONDS:
        raise ReleaseError(
            f"the last tag of {advisor}#{stage} is {wait:.0f} s in the future by this machine's "
            "clock, and would win over a new one; set the clock"
        )
    time.sleep(max(0.0, wait))  # tags know whole seconds
    with _translate_tag_errors():
        assignment = api.assign(".", advisor, stage, version=str(version), force=True)
    assert assignment is not None
    return assignment.tag


def _events(advisor: str, root: Path) -> list[Tag]:
    """All tags about an advisor, the earliest first."""
    with _translate_tag_errors(), closing(Git(str(root.resolve()))) as scm:
        return [
            parse_tag(tag)
            for tag in sorted(
                find(name=advisor, scm=scm),
                key=lambda tag: (tag.tag_time, parse_name(tag.name).get("counter", 0)),
            )
        ]


@contextmanager
def _translate_tag_errors() -> Iterator[None]:
    try:
        yield
    except (GTOException, SCMError) as error:
        raise ReleaseError(f"the tags of this repository: {' '.join(str(error).split())}") from None


def _is_full_version(version: str) -> bool:
    try:
        return str(parse_version(version)) == version
    except ReleaseError:
        return False
