"""XMP sidecars next to photos, for Lightroom, darktable, digiKam and others.

Originals are never written. The sidecar of photo.jpg is photo.xmp, or photo.jpg.xmp if that file
exists already or if another photo of the folder has the same stem.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import lexists
from pathlib import Path

from mondrian.core.errors import join_first, one_line
from mondrian.core.files import write_bytes
from mondrian.inference.photo_critiques import CritiquedPhoto
from mondrian.inference.photo_files import SIDECAR_SUFFIX, is_photo_name
from mondrian.inference.xmp import DamagedXmpError, merge_critique


@dataclass
class SidecarReport:
    """What was written, by the names of the sidecars."""

    written: int = 0
    full_names: list[str] = field(default_factory=list)  # named after the whole file name
    unchanged: list[str] = field(default_factory=list)  # with a rating or text of others
    failed: list[str] = field(default_factory=list)  # name and reason; left alone

    def to_lines(self) -> list[str]:
        lines = [f"{self.written} XMP sidecars written or up to date"]
        if self.full_names:
            names = join_first(self.full_names, 3)
            lines.append(f"  {len(self.full_names)} named after the whole file name: {names}")
        if self.unchanged:
            count, names = len(self.unchanged), join_first(self.unchanged, 3)
            lines.append(f"  {count} keep the rating or description they had: {names}")
        if self.failed:
            lines.append(f"  {len(self.failed)} not written: {join_first(self.failed, 3, '; ')}")
        return lines


def write_sidecars(photos: Sequence[CritiquedPhoto]) -> SidecarReport:
    """Write or merge the sidecar of each photo, with the critique of its first arm."""
    report = SidecarReport()
    stems = {folder: count_stems(folder) for folder in {p.file.path.parent for p in photos}}
    for photo in photos:
        path = photo.file.path
        try:
            path = sidecar_path(path, stems[path.parent])
            _write(path, photo, report)
        except (DamagedXmpError, OSError) as error:
            report.failed.append(f"{path}: {one_line(error)}")
            continue
        report.written += 1
        if path.name == photo.file.path.name + SIDECAR_SUFFIX:
            report.full_names.append(str(path))
    return report


def count_stems(folder: Path) -> Counter[str]:
    """Return the number of photos in a folder by stem, in lower case."""
    return Counter(path.stem.lower() for path in folder.iterdir() if is_photo_name(path))


def sidecar_path(photo: Path, stems: Mapping[str, int]) -> Path:
    """Return the path of a photo's sidecar.

    stems  of the photo's folder, as `count_stems` returns them
    """
    full_name = photo.with_name(photo.name + SIDECAR_SUFFIX)
    num_others = stems.get(photo.stem.lower(), 0) - is_photo_name(photo)
    is_full = full_name.exists() or num_others > 0
    return full_name if is_full else photo.with_suffix(SIDECAR_SUFFIX)


def _write(path: Path, photo: CritiquedPhoto, report: SidecarReport) -> None:
    record = photo.records[0]
    if lexists(path) and not path.is_file():
        raise DamagedXmpError("a broken link, or no regular file")
    old = path.read_bytes() if path.is_file() else None
    origin = {"Advisor": record.advisor, "Base": record.base[:12], "Adapter": record.adapter}
    result = merge_critique(old, record.critique, origin)
    if result.unchanged:
        report.unchanged.append(f"{path} ({', '.join(result.unchanged)})")
    if result.content != old:
        write_bytes(path.resolve(), result.content)
