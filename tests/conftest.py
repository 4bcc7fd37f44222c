"""Small real inputs for all tests: rendered photos, a database, mondrian-tiny, an application."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("MLX_ENABLE_TF32", "0")  # float32 products in full on a GPU too

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)

import pytest
from filelock import FileLock
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from PIL import Image

from mondrian.core.images import resize_to_fit
from mondrian.core.params import Params, load_params
from mondrian.critique.schema import Critique
from mondrian.sample.application import write_application
from mondrian.sample.chat_row import build_chat_row
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.clone import Clone

ROOT = Path(__file__).parent.parent
PERSONA = "You are Ansel Adams."
SLOWEST_FILES = (  # the slowest first
    "test_shipped_sample",
    "test_pipeline",
    "test_feedback_loop",
    "test_run_cache",
    "serving/test_faults",
    "registry/test_outages",
    "serving/test_rollout",
    "registry/test_pull",
    "serving/test_contract",
    "serving/test_pages",
    "training/test_trainer",
    "evaluation/test_evaluate",
    "sample/test_sample",
    "registry/test_release",
    "evaluation/test_crossvalidation",
    "training/test_resume",
)
SAMPLE_SEED = 7  # not the seed of the shipped sample
JOB_COLUMNS = (
    "id filename advisor status analysis_markdown llm_outputs prompt mode created_at completed_at"
).split()

# The machine may be busy: no example has a deadline, and slow generation is no error.
hypothesis_settings.register_profile(
    "any machine", deadline=None, suppress_health_check=list(HealthCheck)
)
hypothesis_settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slowest files first, so that all processes finish at the same time."""
    ranks = {f"tests/{name}.py": rank for rank, name in enumerate(SLOWEST_FILES)}
    items.sort(key=lambda item: ranks.get(item.nodeid.split("::")[0], len(ranks)))


@pytest.fixture(scope="session")
def params() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.fixture
def critique() -> Critique:
    return write_critique("ansel", draw_scene(5, 1))


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    """Six different landscapes."""
    return [render(draw_scene(5, i), 320, 256) for i in range(6)]


@pytest.fixture
def make_db(tmp_path: Path) -> Callable[..., Path]:
    """Write a database with one job per argument: make_db({"filename": …, "advisor": …}, …).

    drop  a column that the table lacks
    """

    def make(*rows: dict[str, Any], drop: str = "", name: str = "mondrian.db") -> Path:
        (tmp_path / "source").mkdir(exist_ok=True)
        columns = [column for column in JOB_COLUMNS if column != drop]
        path = tmp_path / name
        connection = sqlite3.connect(path)
        connection.execute(f"CREATE TABLE jobs ({', '.join(columns)})")
        for i, row in enumerate(rows):
            job = {"id": f"job-{i}", "advisor": "ansel", "status": "completed", **row}
            placeholders = ", ".join("?" for _ in columns)
            connection.execute(
                f"INSERT INTO jobs VALUES ({placeholders})", [job.get(column) for column in columns]
            )
        connection.commit()
        connection.close()
        return path

    return make


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return a folder that the first process of this test run builds, for all of them to read."""
    in_worker = "PYTEST_XDIST_WORKER" in os.environ
    shared = factory.getbasetemp().parent if in_worker else factory.getbasetemp()
    folder, done = shared / name, shared / f"{name}.done"
    with FileLock(shared / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            build(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def application(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample application, rendered with SAMPLE_SEED."""
    return build_once(
        tmp_path_factory, "application", lambda folder: write_application(folder, SAMPLE_SEED)
    )


@pytest.fixture(scope="session")
def built_clone(tmp_path_factory: pytest.TempPathFactory) -> "Clone":
    """A small clone after `dvc repro`; a test that changes it uses copy_clone."""
    from tests.clone import Clone, make_small_clone

    def build(folder: Path) -> None:
        make_small_clone(folder).run("dvc", "repro")

    return Clone(build_once(tmp_path_factory, "clone", build))


@pytest.fixture(scope="session")
def tiny() -> Any:
    """mondrian-tiny, loaded once; a test that attaches an adapter uses base_vlm."""
    from mondrian.model import vlm

    return vlm.load(str(ROOT / "models/base/mondrian-tiny"))


@pytest.fixture
def base_vlm(tiny: Any) -> Iterator[Any]:
    """mondrian-tiny without an adapter; detaches what the test attaches."""
    from mondrian.model import lora

    lora.detach(tiny.model)
    tiny.model.freeze()
    tiny.model.eval()
    yield tiny
    lora.detach(tiny.model)


@pytest.fixture(scope="session")
def adapters(tiny: Any, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for --lora_path: one small adapter of mondrian-tiny per advisor."""
    from tests.service_process import make_adapter

    folder = tmp_path_factory.mktemp("adapters")
    for seed, advisor in enumerate(params.advisors, 1):
        make_adapter(tiny, folder / f"mondrian-tiny-lora-{advisor}", advisor, params, seed)
    return folder


@pytest.fixture(scope="session")
def rows(photos: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Five prepared rows and their images."""
    folder = tmp_path_factory.mktemp("rows")
    chat_rows = []
    for i, photo in enumerate(photos[:5]):
        path = folder / f"{i}.png"
        resize_to_fit(photo, 4096, 20_480).save(path)
        chat_rows.append(build_chat_row(write_critique("ansel", draw_scene(5, i)), path, PERSONA))
    return chat_rows


@pytest.fixture(scope="session")
def prepared_dir(rows: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.json (twelve rows) and val.json (one row)."""
    folder = tmp_path_factory.mktemp("prepared")
    json_rows = [row.model_dump() for row in rows]
    (folder / "train.json").write_text(json.dumps(json_rows[:4] * 3))
    (folder / "val.json").write_text(json.dumps(json_rows[4:]))
    return folder


def run_stage(name: str, *args: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a stage script as a user does by hand."""
    command = [sys.executable, str(ROOT / "stages" / f"{name}.py"), *map(str, args)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=cwd, timeout=PATIENCE
    )


def assert_one_error(run: subprocess.CompletedProcess[str], *parts: object) -> None:
    """Assert that a run failed with one error message with all parts, and without a traceback."""
    assert run.returncode != 0, run.stdout
    assert "Traceback" not in run.stderr, run.stderr
    lines = run.stderr.splitlines()  # a progress bar may precede the message
    start = next((i for i, line in enumerate(lines) if line.startswith("error: ")), len(lines))
    message = "\n".join(lines[start:])
    assert message, run.stderr
    assert all(line.startswith("  ") for line in lines[start + 1 :]), message
    for part in parts:
        assert str(part) in message, (part, message)
