"""What there is of each advisor: versions, their verdicts and stages, and what serves here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mondrian.core.errors import ReleaseError
from mondrian.registry import git, history, tags
from mondrian.registry.local_store import Shelf
from mondrian.registry.release_record import RELEASE, Release, read_record, record_path
from mondrian.registry.version import Version, check_name, read_version

COLUMNS = {
    "version": "version", "date": "released", "stages": "stages", "here": "here",
    "verdict": "verdict", "index": "index", "score_mae": "score MAE",
    "adapter_version": "adapter", "because": "released although gates failed",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """release  None where a tag was made by hand"""

    advisor: str
    version: Version
    stages: tuple[str, ...]
    date: str
    here: str
    release: Release | None

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        made = self.release
        figures = made.evaluation.figures if made else None
        return {
            "advisor": self.advisor, "version": str(self.version), "date": self.date,
            "stages": list(self.stages), "here": self.here,
            "verdict": made.evaluation.verdict if made else None,
            "index": figures.index if figures else None,
            "base_index": figures.base_index if figures else None,
            "score_mae": figures.score_mae if figures else None,
            "base_score_mae": figures.base_score_mae if figures else None,
            "failed": list(made.evaluation.failed) if made else [],
            "because": made.because if made else None,
            "adapter_version": made.adapter_version if made else None,
        }  # fmt: skip


def rows(advisor: str, serving_dir: Path) -> list[Row]:
    """Every version with a tag here or a folder on this machine, the newest first."""
    check_name(advisor)
    shelf = Shelf(serving_dir / advisor, advisor)
    here = _here(shelf)
    known = {one.version: one for one in _tagged(advisor)}
    out = []
    for version in sorted({*known, *here}, reverse=True):
        tag = known.get(version)
        release = _of_tag(tag.commit, advisor, version) if tag else None
        release = release or _of_folder(shelf, version)
        date = release.at if release else tag.at.isoformat() if tag else ""
        stages = tag.stages if tag else ()
        out.append(Row(advisor, version, stages, date[:10], here.get(version, ""), release))
    return out


def unfinished(advisor: str, found: list[Row]) -> list[str]:
    """Versions that have a record and no tag: their release was killed."""
    have = {str(row.version) for row in found}
    files = sorted(Path(record_path(advisor, Version(0, 0, 0))).parent.glob("v*.json"))
    return [file.stem for file in files if file.stem not in have]


def table(found: list[Row]) -> list[str]:
    """Lines for a terminal: a header and a line a version; columns without a word are left out."""
    cells = [[_cell(row.told()[key]) for key in COLUMNS] for row in found]
    lines = [list(COLUMNS.values()), *cells]
    used = [i for i in range(len(COLUMNS)) if any(line[i] for line in cells)]
    widths = {i: max(len(line[i]) for line in lines) for i in used}
    number = {i for i, key in enumerate(COLUMNS) if key in ("index", "score_mae")}
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


def _tagged(advisor: str) -> list[tags.Tagged]:
    try:
        git.git("rev-parse", "--git-dir")
    except ReleaseError:
        return []  # a machine that serves, and has no repository
    return tags.tagged(advisor)


def _here(shelf: Shelf) -> dict[Version, str]:
    """What serves, what did before it, and what else lies on the disk."""
    out = {version: "kept" for version in _folders(shelf)}
    serving = shelf.serving()
    if serving is None:
        return out
    entry = history.last_of(str(serving), shelf.entries())
    if entry and entry.before:
        out[read_version(entry.before[0])] = "before"
    return out | {serving: "serves"}


def _folders(shelf: Shelf) -> Iterator[Version]:
    folder = shelf.folder / "versions"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if version := shelf.version_of(path.name):
            yield version


def _of_tag(commit: str, advisor: str, version: Version) -> Release | None:
    path = record_path(advisor, version)
    return _read(git.show(commit, path), advisor, version, path)


def _of_folder(shelf: Shelf, version: Version) -> Release | None:
    file = shelf.place(version) / RELEASE
    content = file.read_bytes() if file.is_file() else None
    return _read(content, shelf.advisor, version, str(file))


def _read(content: bytes | None, advisor: str, version: Version, where: str) -> Release | None:
    try:
        return read_record(content, advisor, version, where) if content is not None else None
    except ReleaseError:
        return None
