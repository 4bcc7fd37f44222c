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

from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import ReleaseError
from mondrian.core.files import file_hash
from mondrian.core.params import Params
from mondrian.registry import git
from mondrian.registry.release_record import ReleaseFile

_RELEASE_AGAIN_HINT = "dvc repro, commit, and release again"


@dataclass(frozen=True)
class BuiltAdapter:
    """An adapter that is what dvc.lock of the last commit says.

    metrics  evaluate.json of it
    remote   DVC's default one, or none
    """

    folder: Path
    metrics: Path
    files: tuple[ReleaseFile, ...]
    commit: str
    remote: str | None


def verify_built_adapter(advisor: str, params: Params) -> BuiltAdapter:
    """The adapter that dvc repro built.

    Raises ReleaseError that names what is not as it is in the last commit.
    """
    commit = git.head()
    if advisor not in params.advisors:
        known = ", ".join(params.advisors)
        raise ReleaseError(f"params.yaml has no advisor {advisor!r} (it has {known})")
    paths = read_stage_flags("evaluate", ["lora_path", "metrics"], params)
    folder, metrics = paths[params.advisors.index(advisor)]
    with _translate_dvc_errors(), Repo() as repo, lock_repo(repo):
        stages = list(repo.stage.collect(f"evaluate@{advisor}", with_deps=True))
        _check_git(stages)
        _check_dvc(stages)
        files = tuple(_verify_adapter_files(stages, folder))
        remote = repo.config["core"].get("remote")
    return BuiltAdapter(folder, metrics, files, commit, remote)


@contextmanager
def _translate_dvc_errors() -> Iterator[None]:
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
        uncached_outs = [out for out in stage.outs if not out.use_cache]
        paths |= {item.def_path for item in (*stage.deps, *uncached_outs) if item.is_in_repo}
    changed_paths = git.list_changed_paths(
        sorted(path for path in paths if not Path(path).is_absolute())
    )
    if changed_paths:
        raise ReleaseError(
            f"{_join_names(changed_paths)} not as in the last commit; commit what the adapter "
            f"was made with "
            f"(git add {changed_paths[0]} …), or undo it, and release again"
        )


def _check_dvc(stages: list[Any]) -> None:
    """Raise ReleaseError where a stage is not as dvc.lock has it."""
    status = {name: why for stage in stages for name, why in stage.status().items()}
    if status:
        lines = [f"{stage}: {_format_changes(reasons)}" for stage, reasons in status.items()]
        raise ReleaseError("\n  ".join([f"not what dvc.lock says; {_RELEASE_AGAIN_HINT}", *lines]))


def _format_changes(reasons: list[Any]) -> str:
    """`modified mondrian/training`, of what DVC says of a stage."""
    changes = []
    for reason in reasons:
        for kind, items in reason.items() if isinstance(reason, dict) else [(reason, {})]:
            changes += [f"{status} {what}" for what, status in _flatten_changes(items)] or [
                str(kind)
            ]
    return ", ".join(changes[:4]) + (f" (+{len(changes) - 4} more)" if len(changes) > 4 else "")


def _flatten_changes(items: Any) -> Iterator[tuple[str, str]]:
    for what, status in items.items() if isinstance(items, dict) else ():
        if isinstance(status, dict):  # params, by file
            yield from _flatten_changes(status)
        else:
            yield what, status


def _verify_adapter_files(stages: list[Any], folder: Path) -> Iterator[ReleaseFile]:
    """The adapter's files by DVC's record of them, each read and held to it.

    Raises ReleaseError where one is another, although size and time are those of the record.
    """
    for key, hashed in _tree(stages, folder):
        if len(key) > 1:
            raise ReleaseError(
                f"{folder / '/'.join(key)} lies in a folder of its own; an adapter "
                "is files of one folder: train again"
            )
        file = folder / key[0]
        content = md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        if content != hashed.value:
            raise ReleaseError(
                f"{file} is not the one of dvc.lock (md5 {content[:8]}…, {hashed.value[:8]}… "
                f"there); dvc checkout --force {folder}"
            )
        yield ReleaseFile(name=key[0], size=file.stat().st_size, sha256=file_hash(file))


def _tree(stages: list[Any], folder: Path) -> list[tuple[tuple[str, ...], Any]]:
    """Names and hashes of the adapter's files, as DVC has them on record."""
    for out in (out for stage in stages for out in stage.outs):
        if out.def_path == str(folder) and (tree := out.get_obj()) is not None:
            return [(key, hashed) for key, _, hashed in tree]
    raise ReleaseError(f"{folder} is not in DVC's cache; dvc repro, then release again")


def _join_names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} {'is' if len(names) == 1 else 'are'}"
