"""The test split is read once for each adapter, at its release, and never selects."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mondrian.core.adapter_folder import adapter_version
from mondrian.core.errors import DataError
from mondrian.core.images import resize_to_fit
from mondrian.core.params import Params
from mondrian.registry.final_test import describe_final_test, find_test_rows, run_final_test
from mondrian.registry.release_record import Release
from mondrian.sample.chat_row import build_chat_row
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.conftest import ROOT
from tests.releasing import ADAPTER, make_final_test, write_release
from tests.service_process import make_adapter
from tests.waiting import wait_for

ROWS = Path("data/prepared/ansel/training_data_ansel_test.json")
ANSWERS = Path(".cache/final_test/mondrian-tiny-lora-ansel.jsonl")


def test_too_few_photos_are_said_to_be_too_few() -> None:
    line = "test: INCONCLUSIVE on 6 critiques of 5 photos, too few for a verdict: at least 8"
    assert describe_final_test(make_final_test(groups=5)) == line
    assert describe_final_test(make_final_test("BETTER")) == (
        "test: BETTER on 12 critiques of 11 photos: quality index above base +9.50 (-1.25 to "
        "+20.00), raw score error below base +9.50 (-1.25 to +20.00)"
    )


@pytest.fixture
def project(
    photos: list[Image.Image],
    tiny: Any,
    params: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Release:
    """Change to a folder with an adapter and two test photos; return the adapter's record."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    Path("models").mkdir()
    Path("models/base").symlink_to(ROOT / "models/base")
    make_adapter(tiny, Path(ADAPTER), "ansel", params, size=0.01)
    (ROWS.parent / "images").mkdir(parents=True)
    rows = []
    for i, photo in enumerate(photos[:2]):
        path = ROWS.parent / "images" / f"{i}.png"
        resize_to_fit(photo, 4096, 20_480).save(path)
        critique = write_critique("ansel", draw_scene(5, i))
        rows.append(build_chat_row(critique, path, params.persona("ansel")).model_dump())
    ROWS.write_text(json.dumps(rows))
    record = write_release(tmp_path / "record")
    return record.model_copy(update={"adapter_version": adapter_version(Path(ADAPTER))})


def test_an_advisor_without_a_test_split_has_no_test(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    assert find_test_rows("ansel", params) is None
    assert "no test split" in describe_final_test(None)


@pytest.mark.slow
def test_test_is_read_once(project: Release, params: Params) -> None:
    result = run_final_test(project, [], params)
    assert result is not None
    assert (result.verdict, result.photographs, result.photograph_groups) == ("INCONCLUSIVE", 2, 2)
    assert not ANSWERS.exists()
    shutil.rmtree(ROWS.parent / "images")  # nothing could be evaluated now
    assert run_final_test(project, [], params) == result
    shutil.rmtree(".cache")
    released = project.model_copy(update={"test": result})
    assert run_final_test(project, [released], params) == result
    for update in ({"adapter_version": "another"}, {"test": None}):
        with pytest.raises(DataError, match="has no image"):
            run_final_test(project, [released.model_copy(update=update)], params)


_RUN = """
import sys
from pathlib import Path
from mondrian.core.params import load_params
from mondrian.registry.final_test import run_final_test
from mondrian.registry.release_record import Release
record = Release.model_validate_json(Path("record.json").read_bytes())
run_final_test(record, [], load_params(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_killed_test_resumes(project: Release, params: Params) -> None:
    Path("record.json").write_text(project.model_dump_json())
    command = [sys.executable, "-c", _RUN, str(ROOT / "params.yaml")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=env) as process:
        wait_for(lambda: _count_answers() > 1 or process.poll() is not None)
        process.kill()
    assert _count_answers() > 1
    assert [path.name for path in Path(".cache/final_test").iterdir()] == [ANSWERS.name]
    result = run_final_test(project, [], params)
    assert result is not None
    assert result.photographs == 2
    assert [path.suffix for path in Path(".cache/final_test").iterdir()] == [".json"]


def _count_answers() -> int:
    return ANSWERS.read_bytes().count(b'"answer"') if ANSWERS.exists() else 0
