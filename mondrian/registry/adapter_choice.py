"""The adapter of an advisor that a command uses if none is named, or the one of a version."""

from pathlib import Path

from mondrian.core.adapter_folder import RECIPE_FILE
from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import AdapterError, ParamsError, ReleaseError
from mondrian.core.params import Params
from mondrian.registry.local_store import LocalStore, check_integrity, read_local_record
from mondrian.registry.version import parse_version, version_tag


def find_adapter(advisor: str, params: Params, serving_dir: Path) -> Path:
    """Return the adapter of the last dvc repro, or the active version of this machine.

    Raises AdapterError if there is neither.
    """
    trained = _find_trained(advisor, params)
    if trained is not None and (trained / RECIPE_FILE).is_file():
        return trained
    store = LocalStore(serving_dir / advisor, advisor)
    version = store.active_version()
    if version is not None:
        return store.version_folder(version)
    raise AdapterError(
        f"{advisor} has no adapter in {trained or 'dvc.yaml'} and no version in {store.folder}; "
        "train one (dvc repro), pull one (mondrian pull), name one (--adapter), or give --base"
    )


def _find_trained(advisor: str, params: Params) -> Path | None:
    try:
        folders = read_stage_flags("train", ["output_dir"], params)
    except ParamsError:  # a machine that only serves
        return None
    return {name: path for name, (path,) in zip(params.advisors, folders, strict=True)}.get(advisor)


def find_version(advisor: str, version: str, serving_dir: Path) -> Path:
    """Return the folder of a version on this machine; ReleaseError if it is not as released."""
    store, parsed = LocalStore(serving_dir / advisor, advisor), parse_version(version)
    folder = store.version_folder(parsed)
    if not folder.is_dir():
        names = sorted(path.name for path in folder.parent.glob(f"{advisor}@*"))
        raise ReleaseError(
            f"{version_tag(advisor, parsed)} is not in {store.folder} (it has "
            f"{', '.join(names) or 'no version'}); mondrian pull {advisor} --rev {version}"
        )
    _, release = read_local_record(store, parsed)
    check_integrity(folder, release)
    return folder
