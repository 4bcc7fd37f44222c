"""List the photos in files and folders; every other file is skipped with a reason."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mondrian.core.errors import DataError, PhotoError, join_first, one_line
from mondrian.core.files import file_hash, is_junk, suggest_path
from mondrian.core.photo_header import read_header
from mondrian.core.terminal import progress_bar

SIDECAR_SUFFIX = ".xmp"
RAW_SUFFIXES = frozenset(
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mos .mrw .nef .nrw .orf .pef .raf "
    ".raw .rw2 .rwl .sr2 .srf .srw .x3f".split()
)
PHOTO_SUFFIXES = RAW_SUFFIXES | frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .tif .tiff .heic .heif .hif".split()
)


@dataclass(frozen=True)
class PhotoFile:
    """A file with the header of a photo."""

    path: Path
    sha256: str

    @property
    def name(self) -> str:
        return self.path.as_posix()


@dataclass(frozen=True)
class SkippedFile:
    """A file or folder that is not critiqued."""

    name: str
    reason: str
    detail: str

    def describe(self) -> str:
        return f"{self.reason}: {self.detail}"


class PhotoListing:
    """The photos among files, in order, and what was skipped.

    excluded  a folder that is not listed: that of the output
    """

    def __init__(self, sources: Sequence[Path], excluded: Path) -> None:
        self.photos: list[PhotoFile] = []
        self.skipped: list[SkippedFile] = []
        self._sources = sources
        self._excluded = excluded.resolve()
        paths = list(self._walk_sources(sources))
        files = sorted({path.absolute(): path for path in reversed(paths)}.values())
        for path in progress_bar(files, "files", unit="file"):
            self._add(path)

    def explain_nothing(self) -> DataError:
        """Return the error of a listing without a photo that can be critiqued."""
        skipped = [f"{file.name} ({file.reason})" for file in self.skipped]
        examples = join_first(skipped, 3) if skipped else "there are no files"
        names = join_first([source.as_posix() for source in self._sources], 3)
        return DataError(
            f"{names}: no photo to critique: {examples}; give photos or folders of photos"
        )

    def skip(self, path: Path, reason: str, detail: str) -> None:
        name = path.as_posix().encode(errors="replace").decode()  # a name that is not UTF-8
        self.skipped.append(SkippedFile(name, reason, detail))

    def _walk_sources(self, sources: Sequence[Path]) -> Iterator[Path]:
        for source in sources:
            if not source.exists():
                raise DataError(f"{source} does not exist{suggest_path(source)}")
            if source.is_dir():
                yield from self._walk(source)
            else:
                yield source

    def _walk(self, folder: Path) -> Iterator[Path]:
        def skip_folder(error: OSError) -> None:
            self.skip(Path(error.filename), "folder_unreadable", one_line(error))

        for parent, folders, files in os.walk(folder, onerror=skip_folder):
            for name in sorted(folders):
                if not self._is_listed(Path(parent, name)):
                    folders.remove(name)
            folders.sort()
            yield from (Path(parent, name) for name in sorted(files))

    def _is_listed(self, folder: Path) -> bool:
        """Return whether a sub-folder is listed; say why if it is not."""
        if folder.is_symlink():
            self.skip(folder, "linked_folder", "a link to a folder; give that folder itself")
            return False
        if folder.name.startswith(".") or is_junk(folder.name):
            self.skip(folder, "system_file", "a hidden folder")
            return False
        return folder.resolve() != self._excluded

    def _add(self, path: Path) -> None:
        try:
            str(path).encode()
            if is_junk(path.name):
                self.skip(path, "system_file", "written by the operating system")
            elif path.suffix.lower() == SIDECAR_SUFFIX:
                self.skip(path, "sidecar", "metadata of a photo")
            elif not path.is_file():
                self.skip(path, "not_a_photo", "a broken link, or no regular file")
            else:
                read_header(path)
                self.photos.append(PhotoFile(path, file_hash(path)))
        except UnicodeEncodeError:
            self.skip(path, "name_not_utf8", "its name is not UTF-8; rename it")
        except PhotoError as error:
            is_other = error.reason == "image_unreadable" and not is_photo_name(path)
            if is_other and path.name.startswith("."):
                self.skip(path, "system_file", "a hidden file")
            else:
                self.skip(path, "not_a_photo" if is_other else error.reason, one_line(error))
        except OSError as error:
            self.skip(path, "image_unreadable", one_line(error))


def check_folder(folder: Path) -> None:
    """Raise DataError if it is a file or does not exist."""
    if not folder.is_dir():
        problem = "is a file; give its folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {problem}{suggest_path(folder)}")


def is_photo_name(path: Path) -> bool:
    """Return whether a file is named like a photo, a raw file too."""
    return path.suffix.lower() in PHOTO_SUFFIXES
