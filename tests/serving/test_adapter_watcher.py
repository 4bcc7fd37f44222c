import json
from pathlib import Path

import pytest

from mondrian.core.adapter_folder import CONFIG_FILE, RECIPE_FILE
from mondrian.core.errors import AdapterError
from mondrian.serving.engines.adapter_watcher import find_adapters


def write_recipe(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / RECIPE_FILE).write_text(text)
    return folder


def test_a_folder_or_its_subfolders_hold_adapters(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path / "models/ansel", json.dumps({"advisor": "ansel"}))
    damaged = write_recipe(tmp_path / "models/okeefe", "{")
    assert find_adapters(folder) == ({"ansel": folder}, [])
    adapters, (fault,) = find_adapters(folder.parent)
    assert adapters == {"ansel": folder}
    assert fault.startswith(f"{damaged / RECIPE_FILE} cannot be read: Expecting property name")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "cannot be read: Expecting value"),
        ("{}", "advisor is None; it must be a name"),
        ("[]", "advisor is None; it must be a name"),
        ('{"advisor": 3}', "advisor is 3; it must be a name"),
    ],
)
def test_the_error_about_a_recipe_says_what_is_wrong(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(AdapterError, match=fault):
        find_adapters(write_recipe(tmp_path / "ansel", text))


def test_an_adapter_of_another_trainer_has_to_be_imported(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(AdapterError, match="holds no adapter"):
        find_adapters(tmp_path)
    (tmp_path / "checkpoint" / CONFIG_FILE).touch()
    for path in (tmp_path, tmp_path / "checkpoint"):
        with pytest.raises(
            AdapterError, match=r"checkpoint has no recipe.json; mondrian import-ad"
        ):
            find_adapters(path)


def test_a_misspelt_folder_suggests_the_similar_one(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(AdapterError, match="does not exist; there is .*/models$"):
        find_adapters(tmp_path / "model")
