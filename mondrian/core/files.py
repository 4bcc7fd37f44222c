"""Files that are whole or absent: write beside, fsync, rename."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

from mondrian.core.errors import DataError


def write_text(path: Path, text: str) -> None:
    """Write a text file; a crash or a full disk leaves the old one as it was."""
    with open_atomic(path) as file:
        file.write(text)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; a crash or a full disk leaves the old one as it was."""
    with _staging_file(path) as beside:
        with beside.open("wb") as file:
            file.write(content)
        fsync_path(beside)


@contextmanager
def open_atomic(path: Path) -> Iterator[TextIO]:
    """A text file to fill that takes the place of `path` once everything in it is written."""
    with _staging_file(path) as beside:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        fsync_path(beside)


@contextmanager
def _staging_file(path: Path) -> Iterator[Path]:
    """A file to fill that takes the place of `path` when the context ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        beside.chmod(0o644)
        beside.replace(path)
        fsync_path(path.parent)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        raise _add_filename(error, path) from None


def write_json(path: Path, content: Any) -> None:
    """Write JSON that a person can read and git can compare."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with a header."""
    with open_atomic(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows(rows)


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises DataError where the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run the stage that writes it: dvc repro") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None


@contextmanager
def atomic_folder(path: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """A folder to fill that takes the place of `path` once everything in it is written.

    patterns  patterns of the files that may be replaced, as paths below the folder

    Raises DataError where `path` is a file, or holds anything else.
    """
    path = path.resolve()  # where a link leads
    _restore_old_folder(path)
    _check_replaceable(path, patterns)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        beside.chmod(0o755)
        yield beside
        for file in beside.rglob("*"):
            fsync_path(file)
        _swap_folder(beside, path)
    except OSError as error:
        if str(error.filename or "").startswith(str(beside)):
            error.filename = None  # a name the user never gave
        raise _add_filename(error, path) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_output_folder(path: Path, patterns: Sequence[str]) -> None:
    """Raise DataError or OSError now where `atomic_folder` would after the work."""
    try:
        path = path.resolve()
    except RuntimeError:
        raise DataError(f"{path} is a link to itself; give another folder") from None
    _check_replaceable(path, patterns)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"{path.parent} may not be written to; give another folder")


def check_output_file(path: Path) -> None:
    """Raise DataError or OSError now where writing a file would after the work."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a file to write to")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"{path.parent} may not be written to; give another file")


def _add_filename(error: BaseException, path: Path) -> BaseException:
    """A full disk says nothing of where: let the error name what was written."""
    if isinstance(error, OSError) and not error.filename:
        error.filename = str(path)
    return error


def _check_replaceable(path: Path, patterns: Sequence[str]) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise DataError(f"{path} is a file; give a folder to write to")
    names = [p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()]
    others = [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)]
    if others:
        raise DataError(
            f"{path} holds {others[0]!r}, which this step did not write; give another folder"
        )


def _restore_old_folder(path: Path) -> None:
    """The old folder, where a run was killed between the two renames of `_swap_folder`."""
    aside = sorted(path.parent.glob(f".{path.name}.*.old")) if not path.exists() else []
    if aside:
        aside[-1].replace(path)


def _swap_folder(beside: Path, path: Path) -> None:
    """Rename, the old folder aside first and back again where that fails."""
    old = beside.with_name(beside.name + ".old")
    if path.exists():
        path.replace(old)
    try:
        beside.replace(path)
    except BaseException:
        if old.exists():
            old.replace(path)
        raise
    fsync_path(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def fsync_path(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_hash(folder: Path, names: Iterable[str]) -> str:
    """sha256 over the names and hashes of files in a folder."""
    lines = [f"{name} {file_hash(folder / name)}" for name in sorted(names)]
    return sha256("\n".join(lines).encode()).hexdigest()
