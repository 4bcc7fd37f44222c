"""The versions of an advisor with verdict, stages and state on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mondrian.core.errors import ReleaseError
from mondrian.registry import git, tags
from mondrian.registry.local_store import LocalStore
from mondrian.registry.release_record import RELEASE_FILE, Release, read_record, record_path
from mondrian.registry.version import Version, check_name, parse_version, version_tag

COLUMN_TITLES = {
    "version": "version",
    "date": "released",
    "stages": "stages",
    "here": "here",
    "rollout": "rollout",
    "verdict": "verdict",
    "test": "test",
    "index": "index",
    "score_mae": "score MAE",
    "adapter_version": "adapter",
    "reason": "released although gates failed",
}
_NUMBERS = ("index", "score_mae")


@dataclass(frozen=True)
class VersionRow:
    """A version; `release` is None if its tag was made by hand.

    rollout  state of its rollout, if it has one
    """

    advisor: str
    version: Version
    stages: tuple[str, ...]
    date: str
    local_status: str
    release: Release | None
    rollout: str = ""

    @property
    def tag(self) -> str:
        return version_tag(self.advisor, self.version)

    def to_dict(self) -> dict[str, Any]:
        """Return the row for `mondrian list --json`."""
        record = self.release.model_dump() if self.release else {}
        evaluation = record.get("evaluation", {})
        figures = evaluation.get("figures", {})
        return {
            "advisor": self.advisor,
            "version": str(self.version),
            "date": self.date,
            "stages": list(self.stages),
            "here": self.local_status,
            "rollout": self.rollout or None,
            "verdict": evaluation.get("verdict"),
            "test": (record.get("test") or {}).get("verdict"),
            "index": figures.get("index"),
            "base_index": figures.get("base_index"),
            "score_mae": figures.get("score_mae"),
            "base_score_mae": figures.get("base_score_mae"),
            "failed": list(evaluation.get("failed", ())),
            "reason": record.get("reason"),
            "adapter_version": record.get("adapter_version"),
        }


def list_versions(advisor: str, serving_dir: Path) -> list[VersionRow]:
    """Return every version with a tag here or a folder on this machine, newest first."""
    check_name(advisor)
    store = LocalStore(serving_dir / advisor, advisor)
    statuses = _local_statuses(store)
    tag_by_version = {tag.version: tag for tag in _list_local_tags(advisor)}
    rows = []
    for version in sorted({*tag_by_version, *statuses}, reverse=True):
        tag, release = tag_by_version.get(version), None
        if tag:
            path = record_path(advisor, version)
            release = _parse_record(git.read_file_at(tag.commit, path), advisor, version, path)
        if release is None:
            file = store.version_folder(version) / RELEASE_FILE
            content = file.read_bytes() if file.is_file() else None
            release = _parse_record(content, advisor, version, str(file))
        date = release.released_at if release else tag.created_at.isoformat() if tag else ""
        stages, status = tag.stages if tag else (), statuses.get(version, "")
        rows.append(VersionRow(advisor, version, stages, date[:10], status, release))
    return rows


def list_unfinished_releases(advisor: str, version_rows: list[VersionRow]) -> list[str]:
    """Return versions that have a record but no tag: their release was interrupted."""
    known = {str(row.version) for row in version_rows}
    files = sorted(Path(record_path(advisor, Version(0, 0, 0))).parent.glob("v*.json"))
    return [file.stem for file in files if file.stem not in known]


def format_version_table(version_rows: list[VersionRow]) -> list[str]:
    """Return a header and a line for each version; empty columns are left out."""
    dicts = [row.to_dict() for row in version_rows]
    columns = []
    for key, title in COLUMN_TITLES.items():
        cells = [_format_cell(row[key]) for row in dicts]
        if any(cells):
            width = max(map(len, [title, *cells]))
            align = str.rjust if key in _NUMBERS else str.ljust
            columns.append([align(cell, width) for cell in (title, *cells)])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _format_cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return ", ".join(value) if isinstance(value, list) else str(value or "")


def _list_local_tags(advisor: str) -> list[tags.TaggedVersion]:
    try:
        git.git("rev-parse", "--git-dir")
    except ReleaseError:
        return []  # a serving machine without a repository
    return tags.list_tagged_versions(advisor)


def _local_statuses(store: LocalStore) -> dict[Version, str]:
    """Return for each version on disk: active, previous, or installed."""
    folder = store.folder / "versions"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    statuses = {v: "installed" for name in names if (v := store.version_from_name(name))}
    active = store.active_version()
    if active is not None:
        entry = store.latest_entry(active)
        if entry and entry.before:
            statuses[parse_version(entry.before[0])] = "previous"
        statuses[active] = "active"
    return statuses


def _parse_record(data: bytes | None, advisor: str, version: Version, path: str) -> Release | None:
    try:
        return read_record(data, advisor, version, path) if data is not None else None
    except ReleaseError:
        return None
