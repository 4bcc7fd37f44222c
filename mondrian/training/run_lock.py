"""One run at a time in a folder, and what a killed one left beside it cleared away."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mondrian.core.errors import TrainingError


@contextmanager
def lock_run_folder(folder: Path, targets: Sequence[Path]) -> Iterator[None]:
    """Hold `folder` for as long as the context lasts; the kernel lets go of it with the process.

    targets  files and folders that are written whole (mondrian/core/files.py): what a run that was
             killed had begun to write beside them is removed

    Raises TrainingError where another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"another run is training in {folder}; wait for it, or end it, and run again"
            ) from None
        for target in targets:
            _sweep(target.resolve())
        yield


def _sweep(target: Path) -> None:
    """Remove the halves of `target`; an old folder that was put aside stays where it is missing."""
    for left in target.parent.glob(f".{target.name}.*"):
        if left.name.endswith(".old") and not target.exists():
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
