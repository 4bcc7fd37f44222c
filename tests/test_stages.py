"""Bad input to the stage scripts, run by hand: one clear error, no partial output."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mondrian.critique.schema import serialize_critique
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.conftest import ROOT, assert_one_error, run_stage


@pytest.fixture
def database(make_db: Callable[..., Path], photos: list[Image.Image], tmp_path: Path) -> Path:
    """A database with six good jobs and their photos."""
    jobs = [
        {
            "filename": f"{i}.jpg",
            "analysis_markdown": serialize_critique(write_critique("ansel", draw_scene(5, i))),
        }
        for i in range(len(photos))
    ]
    path = make_db(*jobs)
    for i, photo in enumerate(photos):
        photo.save(tmp_path / "source" / f"{i}.jpg")
    return path


def link(database: Path, output_dir: Path, *flags: object) -> "subprocess.CompletedProcess[str]":
    args = ("--db_path", database, "--advisor", "ansel", "--output_dir", output_dir)
    return run_stage("link", *args, "--cache_dir", output_dir.parent / "cache", *flags)


def prepare_args(tmp_path: Path, advisor: str = "ansel") -> tuple[object, ...]:
    """Flags for the manifest that link(..., tmp_path / "out") writes."""
    return (
        *("--manifest", tmp_path / "out/training_data_manifest.json"),
        *("--advisor", advisor),
        *("--output_dir", tmp_path / "rows"),
        *("--metrics", tmp_path / "prepare.json"),
    )


def train_args(tmp_path: Path) -> tuple[object, ...]:
    return (
        *("--train_data", tmp_path / "rows/training_data_ansel_train.json"),
        *("--val_data", tmp_path / "rows/training_data_ansel_val.json"),
        *("--output_dir", tmp_path / "adapter"),
        *("--metrics", tmp_path / "metrics/train.json"),
    )


def test_link_by_hand_needs_three_flags(database: Path, tmp_path: Path) -> None:
    run = link(database, tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert "link ansel: 6 finished jobs → 6 pairs from 6 photos" in run.stdout
    manifest = json.loads((tmp_path / "out/training_data_manifest.json").read_text())
    assert {"records", "rejected"} <= set(manifest)
    counts = json.loads((tmp_path / "out/link.json").read_text())
    assert counts == {
        "jobs": 6,
        "finished": 6,
        "linked": 6,
        "photos": 6,
        "rejected": {},
        "suspicions": {},
        "forms": {"json": 6},
        "repairs": {},
        "match_kinds": {"as_stored": 6},
        "reviewed": {},
        "text_only": 0,
    }
    assert (tmp_path / "out/reasons.csv").read_text() == "reason,jobs\nlinked,6\n"


LINK_OUTPUTS = ("training_data_manifest.json", "link.json", "reasons.csv", "data_report.html")


@pytest.mark.slow
def test_after_a_link_that_cannot_start_no_older_output_is_left(
    database: Path, tmp_path: Path
) -> None:
    output_dir = tmp_path / "out"
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("not a database" * 400)
    (tmp_path / "params.yaml").write_text("link: 1")
    source = ("--source_dir", tmp_path / "source")
    for path, flags, problem in (
        (tmp_path / "none.db", source, "does not exist"),
        (tmp_path / "empty.db", source, "0 bytes"),
        (tmp_path / "text.db", source, "not an SQLite database"),
        (tmp_path, source, "is a folder"),
        (database, ("--source_dir", tmp_path / "no"), "is not a folder of photos"),
        (database, ("--params", tmp_path / "params.yaml"), "params.yaml: "),
    ):
        for name in LINK_OUTPUTS:
            output_dir.mkdir(exist_ok=True)
            (output_dir / name).write_text("of an earlier run")
        assert_one_error(link(path, output_dir, *flags), problem)
        assert list(output_dir.iterdir()) == [], problem
    assert_one_error(run_stage("prepare", *prepare_args(tmp_path)), "run link first")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--report", "page.html", "--metrics", "counts.json")])
def test_link_without_a_pair_reports_every_job_and_prepare_refuses(
    database: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    paths = [tmp_path / flag if "." in flag else flag for flag in flags]
    assert link(database, tmp_path / "out", *paths).returncode == 0
    for photo in (tmp_path / "source").iterdir():
        photo.unlink()
    run = link(database, tmp_path / "out", *paths)
    assert_one_error(run, f"{database}: none of 6 finished jobs of 'ansel' gives a pair")
    assert "image_missing 6" in run.stderr.splitlines()[0]
    assert run.stdout == ""
    manifest = json.loads((tmp_path / "out/training_data_manifest.json").read_text())
    counts = json.loads((tmp_path / ("counts.json" if flags else "out/link.json")).read_text())
    assert manifest["counts"] == counts
    assert (counts["finished"], counts["linked"], counts["photos"]) == (6, 0, 0)
    assert manifest["records"] == manifest["left_out"] == []
    assert {job["reason"] for job in manifest["rejected"]} == {"image_missing"}
    assert (tmp_path / "out/reasons.csv").read_text() == (
        "reason,jobs\nlinked,0\nimage_missing,6\n"
    )
    report = tmp_path / ("page.html" if flags else "out/data_report.html")
    for part in ("0 pairs", "none of 6 finished jobs of &#39;ansel&#39;", "no &#39;0.jpg&#39;"):
        assert part in report.read_text()
    run = run_stage("prepare", *prepare_args(tmp_path))
    assert_one_error(run, "training_data_manifest.json has no pair", "run link again")
    if not flags:
        assert str(report) in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not (tmp_path / "rows").exists()


def test_link_of_an_advisor_without_jobs_names_the_others_in_its_report(
    database: Path, tmp_path: Path
) -> None:
    run = link(database, tmp_path / "out", "--advisor", "x")
    problem = "no finished job of advisor 'x'; finished jobs of others: 'ansel' 6"
    assert_one_error(run, f"{database} has {problem}")
    assert len(run.stderr.splitlines()) == 1
    assert json.loads((tmp_path / "out/link.json").read_text())["finished"] == 0
    page = (tmp_path / "out/data_report.html").read_text()
    assert problem.replace("'", "&#39;") in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(LINK_OUTPUTS)


def test_all_problems_of_a_params_file_are_reported_at_once(database: Path, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    params.write_text(
        text.replace("lora_r: 16", "lora_r: none").replace("val_fraction", "val_part")
    )
    run = link(database, tmp_path / "out", "--params", params)
    assert_one_error(run, "3 problems", "train.lora_r is 'none'", "did you mean val_fraction?")


@pytest.mark.slow
def test_prepare_refuses_too_few_photos_and_foreign_manifests(
    database: Path, tmp_path: Path
) -> None:
    link(database, tmp_path / "out")
    run = run_stage("prepare", *prepare_args(tmp_path))
    assert_one_error(run, "train has 4, at least 20", "params.yaml")
    assert not (tmp_path / "rows").exists()
    assert not (tmp_path / "split_report.html").exists()
    report = tmp_path / "refused_split_report.html"
    assert f"{report} shows the counts" in run.stderr
    assert "6 pairs" in report.read_text()
    assert "train has 4, at least 20" in report.read_text()
    (tmp_path / "out/training_data_manifest.json").write_text("{}")
    assert_one_error(run_stage("prepare", *prepare_args(tmp_path)), "is not a manifest")
    link(database, tmp_path / "out")
    run = run_stage("prepare", *prepare_args(tmp_path, "okeefe"))
    assert_one_error(run, "is the manifest of 'ansel', not of 'okeefe'")


@pytest.fixture
def params_path(database: Path, tmp_path: Path) -> Path:
    """params.yaml for one epoch on six photos, whose prepared rows are in tmp_path/rows."""
    link(database, tmp_path / "out")
    path = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    text = re.sub(r"min_(train|val|test): \d+", r"min_\1: 1", text)
    path.write_text(re.sub(r"epochs: \d+", "epochs: 1", text))
    run = run_stage("prepare", *prepare_args(tmp_path), "--params", path)
    assert run.returncode == 0, run.stderr
    return path


@pytest.mark.slow
def test_train_needs_its_rows_photos_and_base(params_path: Path, tmp_path: Path) -> None:
    args = (*train_args(tmp_path), "--params", params_path)
    run = run_stage("train", *args, "--base", "models/base/none")
    assert_one_error(run, "no base model at")
    photo = next((tmp_path / "rows/images").iterdir())
    photo.rename(tmp_path / photo.name)
    assert_one_error(run_stage("train", *args), "has no image", "run prepare again")
    rows = tmp_path / "rows/training_data_ansel_train.json"
    rows.write_text("[]")
    assert_one_error(run_stage("train", *args), "has no rows")
    rows.unlink()
    assert_one_error(run_stage("train", *args), "does not exist")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.slow
def test_evaluate_refuses_an_adapter_of_another_base_or_prompt(
    params_path: Path, tmp_path: Path
) -> None:
    run = run_stage("train", *train_args(tmp_path), "--params", params_path)
    assert run.returncode == 0, run.stderr
    other_base = tmp_path / "other"
    shutil.copytree(ROOT / "models/base/mondrian-tiny", other_base)
    template = other_base / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    args = (
        *("--lora_path", tmp_path / "adapter"),
        *("--params", params_path),
        *("--val_data", tmp_path / "rows/training_data_ansel_val.json"),
        *("--output_report", tmp_path / "report.json"),
        *("--details", tmp_path / "evaluate.json"),
    )
    run = run_stage("evaluate", *args, "--base", other_base)
    assert_one_error(run, "was trained on", "not on this base")
    recipe = tmp_path / "adapter/recipe.json"
    recipe.write_text(recipe.read_text().replace('"prompt_sha256": "', '"prompt_sha256": "0'))
    assert_one_error(run_stage("evaluate", *args), "trained on another prompt")
    recipe.unlink()
    assert_one_error(run_stage("evaluate", *args), "has no recipe.json")
    assert not (tmp_path / "report.json").exists()


def test_a_cross_validation_that_is_not_asked_for_reads_nothing_and_says_so(
    tmp_path: Path,
) -> None:
    missing = tmp_path / "missing.json"
    outputs = ("--output", tmp_path / "cv.json", "--html", tmp_path / "cv.html")
    flags = ("--advisor", "ansel", "--train_data", missing, "--val_data", missing, *outputs)
    run = run_stage("crossvalidate", *flags)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "crossvalidate ansel: not requested (prepare.folds is 0)\n"
    assert json.loads((tmp_path / "cv.json").read_text()) == {"folds": 0}
    assert "no cross-validation" in (tmp_path / "cv.html").read_text()
    params = tmp_path / "params.yaml"
    params.write_text(re.sub(r"folds: 0", "folds: 5", (ROOT / "params.yaml").read_text()))
    assert_one_error(run_stage("crossvalidate", *flags, "--params", params), missing)


def test_a_stage_without_folds_loads_no_model() -> None:
    code = "import stages.crossvalidate, sys; sys.exit('mlx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
