"""Durable files: write to a temporary file or folder, fsync, rename."""

import csv
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from fnmatch import fnmatch, translate
from hashlib import file_digest, sha256
from pathlib import Path
from stat import S_IFREG
from typing import Any, TextIO

from mondrian.core.errors import DataError

# What systems and programs put into folders, in lower case; .gitignore and .dvcignore agree.
JUNK_PATTERNS = (
    *(".ds_store", "._*", ".localized", "__macosx", ".appledouble", ".spotlight-v100"),
    *(".trashes", ".fseventsd", ".temporaryitems", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("$recycle.bin", "system volume information", ".nfs*", ".directory", ".trash-*"),
    *("lost+found", "@eadir"),
)
_JUNK = re.compile("|".join(map(translate, JUNK_PATTERNS)))


def write_text(path: Path, text: str) -> None:
    """Write a text file; after an error or a crash the old one is unchanged."""
    with open_atomic_file(path) as file:
        file.write(text)


def write_bytes(path: Path, content: bytes) -> None:
    with _staging_file(path) as staging:
        staging.write_bytes(content)


@contextmanager
def open_atomic_file(path: Path) -> Iterator[TextIO]:
    """Open a temporary text file that replaces `path` if the context ends without an error."""
    with _staging_file(path) as staging, staging.open("w", encoding="utf-8", newline="\n") as file:
        yield file


@contextmanager
def _staging_file(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    staging = Path(name)
    try:
        yield staging
        fsync_path(staging)
        staging.chmod(path.stat().st_mode & 0o777 if path.is_file() else 0o644)
        staging.replace(path)
        fsync_path(path.parent)
    except BaseException as error:
        staging.unlink(missing_ok=True)
        raise _add_filename(error, path) from None


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of `path` that a killed run left; no program may be writing it.

    Only files with the mode and the name that tempfile gives, which has a digit or `_` as a rule,
    are removed: `.NAME.original` stays.
    """
    pattern = re.compile(re.escape(f".{path.name}.") + "(?=.*[0-9_])[a-z0-9_]{8}")
    with suppress(OSError):
        for file in path.parent.iterdir():
            if pattern.fullmatch(file.name) and file.lstat().st_mode == S_IFREG | 0o600:
                file.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write JSON that a person can read and git can compare."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with open_atomic_file(path) as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def suggest_path(path: Path) -> str:
    """Return `; there is PATH`, a similar name in the same folder, or the folder that is missing.

    Returns empty text if the path exists, or if only its name is missing and none is similar.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    if not missing:
        return ""
    with suppress(OSError):
        is_hidden = missing[-1].name.startswith(".")
        names = [n for n in os.listdir(missing[-1].parent) if n.startswith(".") == is_hidden]
        if matches := get_close_matches(missing[-1].name, names, n=1):
            return f"; there is {missing[-1].parent / matches[0]}"
    return f"; there is no {missing[-1]}" if len(missing) > 1 else ""


def is_junk(name: str) -> bool:
    """Return whether the operating system created a file or folder of that name (.DS_Store)."""
    return _JUNK.fullmatch(name.lower()) is not None


def read_json(path: Path) -> Any:
    """Read JSON; raises DataError if the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run the stage that writes it: dvc repro") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None


@contextmanager
def open_atomic_folder(path: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """Create a temporary folder that replaces `path` if the context ends without an error.

    Raises DataError if `path` is a file, or contains a file, other than junk, that no
    pattern matches.
    """
    path = path.resolve()  # a symlink stays; its target is replaced
    old_folders = sorted(path.parent.glob(f".{path.name}.*.old"))
    if old_folders and not path.exists():  # a run was killed in the middle of _swap_folder
        old_folders[-1].replace(path)
    _check_replaceable(path, patterns)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        staging.chmod(0o755)
        yield staging
        for file in staging.rglob("*"):
            fsync_path(file)
        _swap_folder(staging, path)
    except OSError as error:
        if str(error.filename or "").startswith(str(staging)):
            error.filename = None  # the user does not know this name
        raise _add_filename(error, path) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_output_folder(path: Path, patterns: Sequence[str]) -> None:
    """Raise DataError or OSError before the work, if `open_atomic_folder` would raise it after."""
    try:
        path = path.resolve()
    except RuntimeError:
        raise DataError(f"{path} is a link to itself; give another folder") from None
    _check_replaceable(path, patterns)
    _check_writable(path.parent, "folder")


def check_output_file(path: Path) -> None:
    """Raise DataError or OSError before the work, if writing the file would raise it after."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a file to write to")
    _check_writable(path.parent, "file")


def _check_writable(folder: Path, kind: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise DataError(f"{folder} is not writable; give another {kind}")


def _check_replaceable(path: Path, patterns: Sequence[str]) -> None:
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file; give a folder to write to")
    names = (file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir())
    for name in names:
        is_known = any(fnmatch(name, pattern) for pattern in patterns)
        if not is_known and not any(map(is_junk, name.split("/"))):
            raise DataError(
                f"{path} contains {name!r}, which this step did not write; give another folder"
            )


def _add_filename(error: BaseException, path: Path) -> BaseException:
    """Name the path in the error of a full disk, which has no filename."""
    if isinstance(error, OSError) and not error.filename:
        error.filename = str(path)
    return error


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file, after an incomplete one too; it is on disk on return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    try:
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _add_filename(error, path) from None
    if is_new:
        fsync_path(path.parent)


def _swap_folder(staging: Path, path: Path) -> None:
    """Rename the old folder away and the new one into its place; undo if the latter fails."""
    old = staging.with_name(staging.name + ".old")
    if path.exists():
        path.replace(old)
    try:
        staging.replace(path)
    except BaseException:
        if old.exists():
            old.replace(path)
        raise
    fsync_path(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def fsync_path(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def files_hash(folder: Path, names: Iterable[str]) -> str:
    lines = [f"{name} {file_hash(folder / name)}" for name in sorted(names)]
    return sha256("\n".join(lines).encode()).hexdigest()
