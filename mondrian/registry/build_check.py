"""Check that the adapter built by `dvc repro` is that of the last commit, and list its files.

Code, params, data and adapter are the committed ones if git finds no change in what the stages
read, and DVC finds everything that they read and wrote as recorded in dvc.lock.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo

from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import ReleaseError, join_first, one_line
from mondrian.core.files import file_hash
from mondrian.core.params import Params
from mondrian.registry import git
from mondrian.registry.release_record import ReleaseFile


@dataclass(frozen=True)
class BuiltAdapter:
    """An adapter that matches dvc.lock of the last commit."""

    folder: Path
    evaluation: Path  # evaluate.json
    files: tuple[ReleaseFile, ...]
    commit: str
    remote: str | None  # DVC's default one


def verify_built_adapter(advisor: str, params: Params) -> BuiltAdapter:
    """Return the built adapter, or raise ReleaseError that names what differs from HEAD."""
    commit = git.read_head()
    if advisor not in params.advisors:
        known = ", ".join(params.advisors)
        raise ReleaseError(f"params.yaml has no advisor {advisor!r} (it has {known})")
    paths = read_stage_flags("evaluate", ["lora_path", "details"], params)
    folder, evaluation = paths[params.advisors.index(advisor)]
    try:
        with Repo() as repo, lock_repo(repo):
            stages = list(repo.stage.collect(f"evaluate@{advisor}", with_deps=True))
            _check_git(stages)
            _check_dvc(stages)
            files = tuple(_verify_files(stages, folder))
            remote = repo.config["core"].get("remote")
    except DvcException as error:
        raise ReleaseError(f"DVC: {one_line(error)}") from None
    return BuiltAdapter(folder, evaluation, files, commit, remote)


def _check_git(stages: list[Any]) -> None:
    """Raise ReleaseError if a file that the stages read differs from the last commit."""
    paths = {"params.yaml"}
    for stage in stages:
        file = Path(stage.path_in_repo)
        paths |= {str(file), str(file.with_name("dvc.lock"))}
        items = (*stage.deps, *(out for out in stage.outs if not out.use_cache))
        paths |= {item.def_path for item in items if item.is_in_repo}
    changed = git.list_changed_paths(sorted(p for p in paths if not Path(p).is_absolute()))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        verb = "is" if len(changed) == 1 else "are"
        raise ReleaseError(
            f"{', '.join(changed[:3])}{more} {verb} not as in the last commit; commit what the "
            f"adapter was made with (git add {changed[0]} …), or undo it, and release again"
        )


def _check_dvc(stages: list[Any]) -> None:
    """Raise ReleaseError if a stage differs from dvc.lock."""
    status = {name: changes for stage in stages for name, changes in stage.status().items()}
    if status:
        lines = [f"{stage}: {_format_changes(changes)}" for stage, changes in status.items()]
        first = "stages differ from dvc.lock; dvc repro, commit, and release again"
        raise ReleaseError("\n  ".join([first, *lines]))


def _format_changes(reasons: list[Any]) -> str:
    """Return DVC's changes of a stage as text, such as `modified mondrian/training`."""
    changes = []
    for reason in reasons:
        for kind, items in reason.items() if isinstance(reason, dict) else [(reason, {})]:
            changes += list(_flatten_changes(items)) or [str(kind)]
    return join_first(changes, 4)


def _flatten_changes(items: Any) -> Iterator[str]:
    for name, status in items.items() if isinstance(items, dict) else ():
        if isinstance(status, dict):  # params, by file
            yield from _flatten_changes(status)
        else:
            yield f"{status} {name}"


def _verify_files(stages: list[Any], folder: Path) -> Iterator[ReleaseFile]:
    """Yield the adapter's files; each is read and hashed, as DVC compares size and time only."""
    for key, hashed in _list_tracked_files(stages, folder):
        if len(key) > 1:
            raise ReleaseError(
                f"{folder / '/'.join(key)} is in a subfolder; an adapter has files of one folder "
                "only: train again"
            )
        file = folder / key[0]
        digest = md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        if digest != hashed.value:
            raise ReleaseError(
                f"{file} differs from dvc.lock (md5 {digest[:8]}…, {hashed.value[:8]}… there); "
                f"dvc checkout --force {folder}"
            )
        yield ReleaseFile(name=key[0], size=file.stat().st_size, sha256=file_hash(file))


def _list_tracked_files(stages: list[Any], folder: Path) -> list[tuple[tuple[str, ...], Any]]:
    """Return path parts and hash of each file of the adapter, as DVC recorded them."""
    for out in (out for stage in stages for out in stage.outs):
        if out.def_path == str(folder) and (tree := out.get_obj()) is not None:
            return [(key, hashed) for key, _, hashed in tree]
    raise ReleaseError(f"{folder} is not in DVC's cache; dvc repro, then release again")
