"""`make test` proves the main job, and each test is in it or in `make test-all`."""

import re
import subprocess
import sys

from tests.conftest import ROOT, SLOWEST_FILES
from tests.waiting import PATIENCE

MAIN_JOB = (
    "tests/test_pipeline.py::test_the_adapter_is_closer_to_the_advisor_than_base",
    "tests/serving/test_contract.py::test_todays_clients_get_the_responses_they_need",
    "tests/serving/test_pages.py::test_a_critique_appears_while_it_is_generated",
)


def read_selections() -> dict[str, str]:
    """Return the marker expression of each target that runs tests."""
    recipe = r'^(test[\w-]*):.*\n\t.*\$\(PYTEST\) -m "?([^"\n]+)"?$'
    return dict(re.findall(recipe, (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_each_test_is_in_exactly_one_target() -> None:
    assert read_selections() == {"test": "not slow", "test-all": "slow"}


def test_make_test_runs_the_pipeline_the_service_and_a_page() -> None:
    files = sorted({name.split("::")[0] for name in MAIN_JOB})
    selection = ["--collect-only", "-q", "-m", read_selections()["test"]]
    command = [sys.executable, "-m", "pytest", *selection, *files]
    collected = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE
    ).stdout
    assert [name for name in MAIN_JOB if name not in collected] == []


def test_the_files_that_start_first_exist() -> None:
    assert [name for name in SLOWEST_FILES if not (ROOT / f"tests/{name}.py").exists()] == []


def test_no_test_module_imports_another() -> None:
    pattern = re.compile(r"^\s*(?:from|import) (?:tests\S*\.)?test_\w+", re.MULTILINE)
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert len(files) > 100
    assert [file.name for file in files if pattern.search(file.read_text())] == []
