"""What `dvc repro` built: whether it is what the last commit says, and of which files it consists.

Code, params, data and adapter are the committed ones where git finds no change in what the stages
read, and DVC finds all that they read and wrote as dvc.lock has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo

from mondrian.core.dvc_paths import flags_of
from mondrian.core.errors import ReleaseError
from mondrian.core.files import file_hash
from mondrian.core.params import Params
from mondrian.registry import git
from mondrian.registry.release_record import Piece

_AGAIN = "dvc repro, commit, and release again"


@dataclass(frozen=True)
class Built:
    """An adapter that is what dvc.lock of the last commit says.

    metrics  evaluate.json of it
    remote   DVC's default one, or none
    """

    folder: Path
    metrics: Path
    files: tuple[Piece, ...]
    commit: str
    remote: str | None


def look(advisor: str, params: Params) -> Built:
    """The adapter that dvc repro built.

    Raises ReleaseError that names what is not as it is in the last commit.
    """
    commit = git.head()
    if advisor not in params.advisors:
        known = ", ".join(params.advisors)
        raise ReleaseError(f"params.yaml has no advisor {advisor!r} (it has {known})")
    paths = flags_of("evaluate", ["lora_path", "metrics"], params)
    folder, metrics = paths[params.advisors.index(advisor)]
    with _plainly(), Repo() as repo, lock_repo(repo):
        stages = list(repo.stage.collect(f"evaluate@{advisor}", with_deps=True))
        _check_git(stages)
        _check_dvc(stages)
        files = tuple(_pieces(stages, folder))
        remote = repo.config["core"].get("remote")
    return Built(folder, metrics, files, commit, remote)


@contextmanager
def _plainly() -> Iterator[None]:
    try:
        yield
    except DvcException as error:
        raise ReleaseError(f"DVC: {' '.join(str(error).split())[:300]}") from None


def _check_git(stages: list[Any]) -> None:
    """Raise ReleaseError where the last commit has other files than those that the stages read."""
    paths = {"params.yaml"}
    for stage in stages:
        file = Path(stage.path_in_repo)
        paths |= {str(file), str(file.with_name("dvc.lock"))}
        kept = [out for out in stage.outs if not out.use_cache]
        paths |= {one.def_path for one in (*stage.deps, *kept) if one.is_in_repo}
    found = git.changed(sorted(path for path in paths if not Path(path).is_absolute()))
    if found:
        raise ReleaseError(
            f"{_some(found)} not as in the last commit; commit what the adapter was made with "
            f"(git add {found[0]} …), or undo it, and release again"
        )


def _check_dvc(stages: list[Any]) -> None:
    """Raise ReleaseError where a stage is not as dvc.lock has it."""
    found = {name: why for stage in stages for name, why in stage.status().items()}
    if found:
        told = [f"{stage}: {_why(reasons)}" for stage, reasons in found.items()]
        raise ReleaseError("\n  ".join([f"not what dvc.lock says; {_AGAIN}", *told]))


def _why(reasons: list[Any]) -> str:
    """`modified mondrian/training`, of what DVC says of a stage."""
    told = []
    for reason in reasons:
        for kind, items in reason.items() if isinstance(reason, dict) else [(reason, {})]:
            told += [f"{how} {what}" for what, how in _flat(items)] or [str(kind)]
    return ", ".join(told[:4]) + (f" (+{len(told) - 4} more)" if len(told) > 4 else "")


def _flat(items: Any) -> Iterator[tuple[str, str]]:
    for what, how in items.items() if isinstance(items, dict) else ():
        if isinstance(how, dict):  # params, by file
            yield from _flat(how)
        else:
            yield what, how


def _pieces(stages: list[Any], folder: Path) -> Iterator[Piece]:
    """The adapter's files by DVC's record of them, each read and held to it.

    Raises ReleaseError where one is another, although size and time are those of the record.
    """
    for key, hashed in _tree(stages, folder):
        if len(key) > 1:
            raise ReleaseError(f"{folder / '/'.join(key)} lies in a folder of its own; an adapter "
                               "is files of one folder: train again")  # fmt: skip
        file = folder / key[0]
        content = md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        if content != hashed.value:
            raise ReleaseError(
                f"{file} is not the one of dvc.lock (md5 {content[:8]}…, {hashed.value[:8]}… "
                f"there); dvc checkout --force {folder}"
            )
        yield Piece(name=key[0], size=file.stat().st_size, sha256=file_hash(file))


def _tree(stages: list[Any], folder: Path) -> list[tuple[tuple[str, ...], Any]]:
    """Names and hashes of the adapter's files, as DVC has them on record."""
    for out in (out for stage in stages for out in stage.outs):
        if out.def_path == str(folder) and (tree := out.get_obj()) is not None:
            return [(key, hashed) for key, _, hashed in tree]
    raise ReleaseError(f"{folder} is not in DVC's cache; dvc repro, then release again")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} {'is' if len(names) == 1 else 'are'}"
