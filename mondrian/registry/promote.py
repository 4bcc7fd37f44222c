"""A version gets a stage, such as prod: GTO's tag <advisor>#<stage>#<number>."""

from __future__ import annotations

from mondrian.registry import git, tags
from mondrian.registry.version import check_name


def promote(advisor: str, requested_version: str, stage: str) -> str | None:
    """Give a version a stage; the new tag, or None where it has it already.

    Raises ReleaseError where there is no such version, or GTO can take no such name.
    """
    check_name(advisor)
    check_name(stage, "stage")
    git.head()
    tag = tags.find_by_version(requested_version, tags.list_tagged_versions(advisor), advisor)
    if stage in tag.stages:
        return None
    return tags.assign(advisor, tag.version, stage)
