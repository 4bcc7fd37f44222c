"""Versions and stages of an advisor: GTO's tags in a repository.

The version of a stage is that of its latest tag by the tag's time, as in DVC
(dvc.repo.artifacts.Artifacts.get_rev). GTO's own table uses the first time and misses that an
earlier version was promoted again.
"""

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
from mondrian.registry import git
from mondrian.registry.signature import git_signing_config
from mondrian.registry.version import Version, check_name, parse_version

MAX_CLOCK_SKEW_SECONDS = 3.0


@dataclass(frozen=True)
class TaggedVersion:
    """A version with a tag, and its current stages."""

    version: Version
    commit: str
    created_at: datetime
    stages: tuple[str, ...]


def list_tagged_versions(advisor: str, root: Path = Path()) -> list[TaggedVersion]:
    """Return all versions of an advisor, lowest first; raise ReleaseError without readable tags."""
    tag_by_version: dict[str, Tag] = {}
    commit_by_stage: dict[str, str] = {}
    for tag in _list_tags(advisor, root):
        commit, version, stage = tag.tag.target, tag.version or "", tag.stage or ""
        if tag.action is Action.REGISTER:
            tag_by_version[version] = tag
        elif tag.action is Action.DEREGISTER:
            tag_by_version.pop(version, None)
        elif tag.action is Action.ASSIGN:
            commit_by_stage[stage] = commit
        elif tag.action is Action.UNASSIGN and commit_by_stage.get(stage) == commit:
            del commit_by_stage[stage]
    versions = []
    for name, tag in tag_by_version.items():
        if _is_full_version(name):
            commit = tag.tag.target
            stages = tuple(sorted(s for s, target in commit_by_stage.items() if target == commit))
            versions.append(TaggedVersion(parse_version(name), commit, tag.created_at, stages))
    return sorted(versions, key=lambda item: item.version)


def find_by_stage(stage: str, versions: list[TaggedVersion], advisor: str) -> TaggedVersion:
    """Return the version that has a stage, or raise ReleaseError."""
    check_name(stage, "stage")
    for tag in versions:
        if stage in tag.stages:
            return tag
    stages = sorted({name for tag in versions for name in tag.stages})
    hint = f"there is {', '.join(stages)}" if stages else "no version has a stage"
    raise ReleaseError(
        f"no version of {advisor} is {stage} ({hint}); mondrian promote {advisor} "
        f"--version {versions[-1].version if versions else 'V'} --stage {stage}, and push the tag"
    )


def find_by_version(rev: str, versions: list[TaggedVersion], advisor: str) -> TaggedVersion:
    """Return the requested version, or raise ReleaseError if it has no tag."""
    version = parse_version(rev)
    for tag in versions:
        if tag.version == version:
            return tag
    last = ", ".join(str(tag.version) for tag in versions[-5:]) or "no version"
    raise ReleaseError(f"{advisor} has no version {version} (it has {last}); was its tag pushed?")


def register(tag: str, commit: str, message: str, key: Path | None) -> None:
    """Tag a commit as a version, as GTO does, and sign the tag if there is a key."""
    config = git_signing_config(key) if key else ("tag.gpgSign=false",)
    kind = "--sign" if key else "--annotate"
    git.git("tag", kind, "--cleanup=verbatim", "-m", message, tag, commit, config=config)


def promote(advisor: str, requested_version: str, stage: str) -> str | None:
    """Assign a stage, such as prod; return the new tag, or None if the version has the stage.

    Raises ReleaseError for an unknown version, an invalid name, or a stage tagged in the future.
    """
    check_name(advisor)
    check_name(stage, "stage")
    git.read_head()
    tagged = find_by_version(requested_version, list_tagged_versions(advisor), advisor)
    if stage in tagged.stages:
        return None
    times = [tag.tag.tag_time for tag in _list_tags(advisor, Path()) if tag.stage == stage]
    wait = max(times, default=0) + 1 - time.time()
    if wait > MAX_CLOCK_SKEW_SECONDS:
        raise ReleaseError(
            f"the last tag of {advisor}#{stage} is {wait:.0f} s in the future by this machine's "
            "clock, and would override a new one; set the clock"
        )
    time.sleep(max(0.0, wait))  # the new tag must be later, and tags have whole seconds
    with _translate_errors():
        assignment = api.assign(".", advisor, stage, version=str(tagged.version), force=True)
    assert assignment is not None
    return assignment.tag


def _list_tags(advisor: str, root: Path) -> list[Tag]:
    """Return all tags of an advisor, earliest first."""
    with _translate_errors(), closing(Git(str(root.resolve()))) as scm:
        git_tags = find(name=advisor, scm=scm)
        git_tags.sort(key=lambda tag: (tag.tag_time, parse_name(tag.name).get("counter", 0)))
        return [parse_tag(tag) for tag in git_tags]


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except (GTOException, SCMError) as error:
        raise ReleaseError(f"the tags of this repository: {' '.join(str(error).split())}") from None


def _is_full_version(version: str) -> bool:
    try:
        return str(parse_version(version)) == version
    except ReleaseError:
        return False
