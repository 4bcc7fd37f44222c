"""Which adapter a command uses: the one trained here, the active version, or a named version."""

import shutil
from pathlib import Path

import pytest

from mondrian.core.errors import AdapterError, ReleaseError
from mondrian.core.params import Params
from mondrian.registry.adapter_choice import find_adapter, find_version
from mondrian.registry.local_store import LocalStore
from mondrian.registry.version import parse_version
from tests.conftest import ROOT
from tests.releasing import write_release

SERVING = Path("serving")
V1 = parse_version("v1")


@pytest.fixture
def version_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the active version v1 and no trained adapter; the current folder."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    store = LocalStore(SERVING / "ansel", "ansel")
    folder = store.version_folder(V1)
    write_release(folder)
    store.activate(V1, (folder / "release.json").read_bytes(), "pull", ())
    return folder


def test_the_trained_adapter_comes_before_the_active_version(
    params: Params, version_folder: Path
) -> None:
    assert find_adapter("ansel", params, SERVING) == version_folder
    trained = Path(f"models/{params.base.name}-lora-ansel")
    trained.mkdir(parents=True)
    (trained / "recipe.json").touch()
    assert find_adapter("ansel", params, SERVING) == trained


def test_a_machine_that_only_serves_uses_the_active_version(
    params: Params, version_folder: Path
) -> None:
    Path("dvc.yaml").unlink()
    assert find_adapter("ansel", params, SERVING) == version_folder


def test_without_an_adapter_the_error_names_all_ways_to_one(
    params: Params, version_folder: Path
) -> None:
    with pytest.raises(AdapterError, match=r"dvc repro.*mondrian pull.*--adapter.*--base"):
        find_adapter("okeefe", params, SERVING)


def test_a_named_version_must_be_as_released(version_folder: Path) -> None:
    assert find_version("ansel", "v1", SERVING) == version_folder
    with pytest.raises(ReleaseError, match=r"v2\.0\.0 is not in .* \(it has ansel@v1\.0\.0\)"):
        find_version("ansel", "v2", SERVING)
    with (version_folder / "adapter_model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ReleaseError, match="is damaged"):
        find_version("ansel", "v1", SERVING)
