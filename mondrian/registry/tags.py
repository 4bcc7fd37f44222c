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
from mondrian.registry.version import Version, check_name, read_version

PATIENCE = 3.0  # seconds that one clock may be behind another


@dataclass(frozen=True)
class Tagged:
    """A version that has a tag, and the stages that it has now."""

    version: Version
    commit: str
    at: datetime
    stages: tuple[str, ...]


def tagged(advisor: str, root: Path = Path()) -> list[Tagged]:
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
    found = [
        Tagged(read_version(version), tag.tag.target, tag.created_at,
               tuple(sorted(s for s, commit in stages.items() if commit == tag.tag.target)))
        for version, tag in versions.items() if _full(version)
    ]  # fmt: skip
    return sorted(found, key=lambda one: one.version)


def version_in(stage: str, known: list[Tagged], advisor: str) -> Tagged:
    """The version that has a stage.

    Raises ReleaseError where none has.
    """
    check_name(stage, "stage")
    for one in known:
        if stage in one.stages:
            return one
    have = sorted({name for one in known for name in one.stages})
    hint = f"there is {', '.join(have)}" if have else "no version has a stage"
    raise ReleaseError(
        f"no version of {advisor} is {stage} ({hint}); mondrian promote {advisor} "
        f"--version {known[-1].version if known else 'V'} --stage {stage}, and push the tag"
    )


def version_at(asked: str, known: list[Tagged], advisor: str) -> Tagged:
    """The version that is asked for.

    Raises ReleaseError where it has no tag.
    """
    wanted = read_version(asked)
    for one in known:
        if one.version == wanted:
            return one
    have = ", ".join(str(one.version) for one in known[-5:]) or "no version"
    raise ReleaseError(f"{advisor} has no version {wanted} (it has {have}); was its tag pushed?")


def register(advisor: str, version: Version, commit: str, message: str) -> None:
    """Tag a commit as a version."""
    with _one_line():
        api.register(".", advisor, commit, version=str(version), message=message)


def assign(advisor: str, version: Version, stage: str) -> str:
    """Give a version a stage; the tag that says so, later than all before it.

    Raises ReleaseError where one of those is of the future, by this machine's clock.
    """
    times = [tag.tag.tag_time for tag in _events(advisor, Path()) if tag.stage == stage]
    wait = max(times, default=0) + 1 - time.time()
    if wait > PATIENCE:
        raise ReleaseError(
            f"the last tag of {advisor}#{stage} is {wait:.0f} s in the future by this machine's "
            "clock, and would win over a new one; set the clock"
        )
    time.sleep(max(0.0, wait))  # tags know whole seconds
    with _one_line():
        made = api.assign(".", advisor, stage, version=str(version), force=True)
    assert made is not None
    return made.tag


def _events(advisor: str, root: Path) -> list[Tag]:
    """All tags about an advisor, the earliest first."""
    with _one_line(), closing(Git(str(root.resolve()))) as scm:
        return [parse_tag(tag) for tag in sorted(
            find(name=advisor, scm=scm),
            key=lambda tag: (tag.tag_time, parse_name(tag.name).get("counter", 0)),
        )]  # fmt: skip


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except (GTOException, SCMError) as error:
        raise ReleaseError(f"the tags of this repository: {' '.join(str(error).split())}") from None


def _full(version: str) -> bool:
    try:
        return str(read_version(version)) == version
    except ReleaseError:
        return False
