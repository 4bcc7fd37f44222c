"""Each stage script by hand: what it does with bad input. One clear line, nothing half-written."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mondrian.critique.schema import serialize_critique
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.conftest import ROOT, one_clear_line, stage

MakeDb = Callable[..., Path]


@pytest.fixture
def small(make_db: MakeDb, photos: list[Image.Image], tmp_path: Path) -> Path:
    """A database of six good jobs."""
    rows = [
        {
            "filename": f"{i}.jpg",
            "analysis_markdown": serialize_critique(write_critique("ansel", draw_scene(5, i))),
        }
        for i in range(len(photos))
    ]
    path = make_db(*rows)
    for i, photo in enumerate(photos):
        photo.save(tmp_path / "source" / f"{i}.jpg")
    return path


def link(path: Path, output: Path, *more: object) -> "subprocess.CompletedProcess[str]":
    args = ("--db_path", path, "--advisor", "ansel", "--output_dir", output)
    return stage("link", *args, "--cache_dir", output.parent / "cache", *more)


def test_link_by_hand_needs_three_flags(small: Path, tmp_path: Path) -> None:
    run = link(small, tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert "link ansel: 6 finished jobs → 6 pairs from 6 photos" in run.stdout
    manifest = json.loads((tmp_path / "out/training_data_manifest.json").read_text())
    assert {"records", "rejected"} <= set(manifest)
    counts = json.loads((tmp_path / "out/link.json").read_text())
    wanted = {"jobs": 6, "finished": 6, "linked": 6, "photos": 6, "rejected": {}}
    assert counts == wanted | {
        "suspicions": {},
        "forms": {"json": 6},
        "repairs": {},
        "match_kinds": {"as_stored": 6},
        "reviewed": {},
    }
    assert (tmp_path / "out/reasons.csv").read_text() == "reason,jobs\nlinked,6\n"


def test_bad_databases_leave_the_old_manifest(small: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    link(small, output)
    before = (output / "training_data_manifest.json").read_bytes()
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("not a database" * 400)
    for path, words in (
        (tmp_path / "none.db", "does not exist"),
        (tmp_path / "empty.db", "0 bytes"),
        (tmp_path / "text.db", "not an SQLite database"),
        (tmp_path, "is a folder"),
    ):
        one_clear_line(link(path, output, "--source_dir", tmp_path / "source"), path, words)
    one_clear_line(link(small, output, "--advisor", "x"), "no finished job of advisor 'x'", "ansel")
    one_clear_line(
        link(small, output, "--source_dir", tmp_path / "no"), "is not a folder of photos"
    )
    assert (output / "training_data_manifest.json").read_bytes() == before


def test_no_photograph_left_is_told_with_the_counts(small: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "source")
    (tmp_path / "source").mkdir()
    one_clear_line(link(small, tmp_path / "out"), "none of 6 finished jobs", "image_missing 6")
    assert not (tmp_path / "out").exists()


def test_a_broken_params_file_is_told_whole(small: Path, tmp_path: Path) -> None:
    broken = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    broken.write_text(
        text.replace("lora_r: 16", "lora_r: none").replace("val_fraction", "val_part")
    )
    run = link(small, tmp_path / "out", "--params", broken)
    one_clear_line(run, "3 problems", "train.lora_r is 'none'", "did you mean val_fraction?")


def test_too_few_photographs_stop_prepare(small: Path, tmp_path: Path) -> None:
    link(small, tmp_path / "out")
    args = (
        "--manifest",
        tmp_path / "out/training_data_manifest.json",
        "--advisor",
        "ansel",
        "--output_dir",
        tmp_path / "rows",
        "--metrics",
        tmp_path / "prepare.json",
    )
    one_clear_line(stage("prepare", *args), "train has 4, at least 20", "params.yaml")
    assert not (tmp_path / "rows").exists()
    (tmp_path / "out/training_data_manifest.json").write_text("{}")
    one_clear_line(stage("prepare", *args), "is not a manifest")
    other = ["okeefe" if arg == "ansel" else arg for arg in args]
    link(small, tmp_path / "out")
    one_clear_line(stage("prepare", *other), "is of advisor 'ansel', not 'okeefe'")


def train_args(tmp_path: Path) -> tuple[object, ...]:
    rows = tmp_path / "rows/training_data_ansel_{}.json"
    data = [str(rows).format(part) for part in ("train", "val")]
    return (
        "--train_data",
        data[0],
        "--val_data",
        data[1],
        "--output_dir",
        tmp_path / "adapter",
        "--metrics",
        tmp_path / "metrics/train.json",
    )


@pytest.fixture
def prepared(small: Path, tmp_path: Path) -> Path:
    link(small, tmp_path / "out")
    params = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    text = re.sub(r"min_(train|val|test): \d+", r"min_\1: 1", text)
    params.write_text(re.sub(r"epochs: \d+", "epochs: 1", text))
    run = stage(
        "prepare",
        "--manifest",
        tmp_path / "out/training_data_manifest.json",
        "--advisor",
        "ansel",
        "--output_dir",
        tmp_path / "rows",
        "--metrics",
        tmp_path / "prepare.json",
        "--params",
        params,
    )
    assert run.returncode == 0, run.stderr
    return params


@pytest.mark.slow
def test_training_needs_its_rows_its_photographs_and_its_base(
    prepared: Path, tmp_path: Path
) -> None:
    args = (*train_args(tmp_path), "--params", prepared)
    one_clear_line(stage("train", *args, "--base", "models/base/none"), "no base model at")
    for photo in (tmp_path / "rows/images").iterdir():
        photo.rename(tmp_path / photo.name)
        break
    one_clear_line(stage("train", *args), "has no image", "run prepare again")
    (tmp_path / "rows/training_data_ansel_train.json").write_text("[]")
    one_clear_line(stage("train", *args), "has no rows")
    (tmp_path / "rows/training_data_ansel_train.json").unlink()
    one_clear_line(stage("train", *args), "does not exist")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.slow
def test_an_adapter_for_another_base_stops_evaluate(prepared: Path, tmp_path: Path) -> None:
    run = stage("train", *train_args(tmp_path), "--params", prepared)
    assert run.returncode == 0, run.stderr
    other = tmp_path / "other"
    shutil.copytree(ROOT / "models/base/mondrian-tiny", other)
    (other / "chat_template.jinja").write_text((other / "chat_template.jinja").read_text() + " ")
    args = (
        "--lora_path",
        tmp_path / "adapter",
        "--params",
        prepared,
        "--val_data",
        tmp_path / "rows/training_data_ansel_val.json",
        "--output_report",
        tmp_path / "report.json",
        "--metrics",
        tmp_path / "evaluate.json",
    )
    one_clear_line(stage("evaluate", *args, "--base", other), "was trained on", "not on this base")
    recipe = tmp_path / "adapter/recipe.json"
    recipe.write_text(recipe.read_text().replace('"prompt_sha256": "', '"prompt_sha256": "0'))
    one_clear_line(stage("evaluate", *args), "trained on another prompt")
    recipe.unlink()
    one_clear_line(stage("evaluate", *args), "has no recipe.json")
    assert not (tmp_path / "report.json").exists()
