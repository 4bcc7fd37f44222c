"""What there is of each advisor: versions, their verdicts and stages, and what serves here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mondrian.core.errors import ReleaseError
from mondrian.registry import git, history, tags
from mondrian.registry.local_store import Shelf
from mondrian.registry.release_record import RELEASE_FILENAME, Release, read_record, record_path
from mondrian.registry.version import Version, check_name, parse_version

COLUMN_TITLES = {
    "version": "version",
    "date": "released",
    "stages": "stages",
    "here": "here",
    "verdict": "verdict",
    "index": "index",
    "score_mae": "score MAE",
    "adapter_version": "adapter",
    "reason": "released although gates failed",
}


@dataclass(frozen=True)
class VersionRow:
    """release  None where a tag was made by hand"""

    advisor: str
    version: Version
    stages: tuple[str, ...]
    date: str
    local_status: str
    release: Release | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        release = self.release
        figures = release.evaluation.figures if release else None
        return {
            "advisor": self.advisor,
            "version": str(self.version),
            "date": self.date,
            "stages": list(self.stages),
            "here": self.local_status,
            "verdict": release.evaluation.verdict if release else None,
            "index": figures.index if figures else None,
            "base_index": figures.base_index if figures else None,
            "score_mae": figures.score_mae if figures else None,
            "base_score_mae": figures.base_score_mae if figures else None,
            "failed": list(release.evaluation.failed) if release else [],
            "reason": release.reason if release else None,
            "adapter_version": release.adapter_version if release else None,
        }


def list_versions(advisor: str, serving_dir: Path) -> list[VersionRow]:
    """Every version with a tag here or a folder on this machine, the newest first."""
    check_name(advisor)
    shelf = Shelf(serving_dir / advisor, advisor)
    here = _local_statuses(shelf)
    known = {tagged.version: tagged for tagged in _list_local_tags(advisor)}
    out = []
    for version in sorted({*known, *here}, reverse=True):
        tag = known.get(version)
        release = _read_tagged_release(tag.commit, advisor, version) if tag else None
        release = release or _read_local_release(shelf, version)
        date = release.released_at if release else tag.created_at.isoformat() if tag else ""
        stages = tag.stages if tag else ()
        out.append(VersionRow(advisor, version, stages, date[:10], here.get(version, ""), release))
    return out


def list_unfinished_releases(advisor: str, version_rows: list[VersionRow]) -> list[str]:
    """Versions that have a record and no tag: their release was killed."""
    have = {str(row.version) for row in version_rows}
    files = sorted(Path(record_path(advisor, Version(0, 0, 0))).parent.glob("v*.json"))
    return [file.stem for file in files if file.stem not in have]


def format_version_table(version_rows: list[VersionRow]) -> list[str]:
    """Lines for a terminal: a header and a line a version; columns without a word are left out."""
    cells = [[_cell(row.to_dict()[key]) for key in COLUMN_TITLES] for row in version_rows]
    lines = [list(COLUMN_TITLES.values()), *cells]
    used = [i for i in range(len(COLUMN_TITLES)) if any(line[i] for line in cells)]
    widths = {i: max(len(line[i]) for line in lines) for i in used}
    number = {i for i, key in enumerate(COLUMN_TITLES) if key in ("index", "score_mae")}
    return [
        "  ".join(
            line[i].rjust(widths[i]) if i in number else line[i].ljust(widths[i]) for i in used
        ).rstrip()
        for line in lines
    ]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return ", ".join(value) if isinstance(value, list) else str(value or "")


def _list_local_tags(advisor: str) -> list[tags.TaggedVersion]:
    try:
        git.git("rev-parse", "--git-dir")
    except ReleaseError:
        return []  # a machine that serves, and has no repository
    return tags.list_tagged_versions(advisor)


def _local_statuses(shelf: Shelf) -> dict[Version, str]:
    """What serves, what did before it, and what else lies on the disk."""
    out = {version: "kept" for version in _list_local_versions(shelf)}
    serving = shelf.serving_version()
    if serving is None:
        return out
    entry = history.latest_entry(str(serving), shelf.entries())
    if entry and entry.before:
        out[parse_version(entry.before[0])] = "before"
    return out | {serving: "serves"}


def _list_local_versions(shelf: Shelf) -> Iterator[Version]:
    folder = shelf.folder / "versions"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if version := shelf.version_from_name(path.name):
            yield version


def _read_tagged_release(commit: str, advisor: str, version: Version) -> Release | None:
    path = record_path(advisor, version)
    return _parse_release(git.show(commit, path), advisor, version, path)


def _read_local_release(shelf: Shelf, version: Version) -> Release | None:
    file = shelf.version_dir(version) / RELEASE_FILENAME
    content = file.read_bytes() if file.is_file() else None
    return _parse_release(content, shelf.advisor, version, str(file))


def _parse_release(
    content: bytes | None, advisor: str, version: Version, path: str
) -> Release | None:
    try:
        return read_record(content, advisor, version, path) if content is not None else None
    except ReleaseError:
        return None
