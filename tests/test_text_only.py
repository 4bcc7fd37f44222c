"""From link to evaluate on few photos, a third of them with a text that has no usable scores."""

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mondrian.critique.rows import read_rows
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.sample.corruptions import build_example_prompt, replace_scores
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique
from tests.conftest import ROOT, SAMPLE_SEED, build_once, run_stage

COUNT = 30  # photos
TEMPLATES = (8, 7, 9, 6, 7, 8, 7), (2, 9, 1, 4, 3, 5, 8)
pytestmark = pytest.mark.slow


def write_text(critique: Critique, i: int, template: tuple[float, ...]) -> str:
    """Return a critique as it is, without scores (1 in 6), or with those of a template (1 in 6)."""
    if i % 6 == 1:
        return re.sub(r'"score": [\d.]+, ', "", serialize_critique(critique))
    overall = round(sum(template) / 7, 1)
    scored = replace_scores(critique, template, overall) if i % 6 == 4 else critique
    return serialize_critique(scored)


def write_database(folder: Path, template: tuple[float, ...]) -> Path:
    path = folder / "mondrian.db"
    prompt = build_example_prompt()
    for old, new in zip(TEMPLATES[0], template, strict=True):
        prompt = prompt.replace(f'"score": {old}', f'"score": #{new}', 1)
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE jobs (id, filename, advisor, status, analysis_markdown, prompt)"
    )
    for i in range(COUNT):
        text = write_text(write_critique("ansel", draw_scene(SAMPLE_SEED, i)), i, template)
        row = (f"job-{i}", f"{i}.jpg", "ansel", "done", text, prompt.replace("#", ""))
        connection.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.commit()
    connection.close()
    return path


def write_params(folder: Path) -> Path:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["base"]["source"] = str(ROOT / "models/base/mondrian-tiny")
    params["link"] |= {"unscored": "text_only", "template_scores": "text_only"}
    params["prepare"] |= {"val_fraction": 0.3, "test_fraction": 0.0}
    params["prepare"] |= {"min_train": 10, "min_val": 5}
    params["train"]["epochs"] = 1
    params["evaluate"]["few_shot_examples"] = 1
    params["evaluate"]["consistency"] |= {"photos": 0, "samples": 0}
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    return path


def run(name: str, folder: Path, *flags: str, **paths: str) -> str:
    """Run a stage; `paths` are flags with a path in the folder."""
    words = [word for flag, path in paths.items() for word in (f"--{flag}", folder / path)]
    done = run_stage(name, *flags, *words, "--params", folder / "params.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def link_and_prepare(folder: Path, template: tuple[float, ...]) -> str:
    """Write application and params into the folder; return what link and prepare print."""
    (folder / "source").mkdir(parents=True)
    for i in range(COUNT):
        render(draw_scene(SAMPLE_SEED, i), 320, 256).save(folder / "source" / f"{i}.jpg")
    write_database(folder, template)
    write_params(folder)
    advisor = ("--advisor", "ansel")
    linked = run("link", folder, *advisor, db_path="mondrian.db", output_dir="linked")
    manifest = "linked/training_data_manifest.json"
    outputs = {"output_dir": "rows", "metrics": "metrics/prepare.json"}
    return linked + run("prepare", folder, *advisor, manifest=manifest, **outputs)


def train_and_evaluate(folder: Path) -> None:
    train, val = (f"rows/training_data_ansel_{part}.json" for part in ("train", "val"))
    data = {"train_data": train, "val_data": val, "cache_dir": "cache"}
    run("train", folder, **data, output_dir="adapter", metrics="metrics/train.json")
    outputs = {
        "output_report": "metrics/comparison_report.json",
        "details": "metrics/evaluate.json",
        "metrics": "metrics/metrics.json",
        "timing": "metrics/evaluate_timing.json",
        "html": "metrics/report.html",
        "score_error_csv": "metrics/score_error.csv",
    }
    run("evaluate", folder, **data, lora_path="adapter", **outputs)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(folder: Path) -> None:
        printed = link_and_prepare(folder, TEMPLATES[0])
        (folder / "printed.txt").write_text(printed)
        train_and_evaluate(folder)

    return build_once(tmp_path_factory, "text-only", build)


def metrics(folder: Path, name: str) -> Any:
    return json.loads((folder / "metrics" / f"{name}.json").read_text())


def test_all_stages_count_the_text_only_critiques(built: Path) -> None:
    printed = (built / "printed.txt").read_text()
    assert f"link ansel: {COUNT} finished jobs → {COUNT} pairs" in printed
    assert "text only, scores neither learned nor judged: 10 pairs" in printed
    prepare = metrics(built, "prepare")
    counts = [prepare[part]["text_only"] for part in ("train", "val")]
    assert sum(counts) == 10
    assert abs(counts[1] - 3) <= 1  # a third of nine photos
    assert f"text only, without scores: {counts[0]} train, {counts[1]} val" in printed
    recipe = json.loads((built / "adapter/recipe.json").read_text())
    assert recipe["train_text_only_rows"] == counts[0]
    evaluation = metrics(built, "evaluate")
    assert evaluation["text_only_photographs"] == counts[1]
    assert evaluation["photographs"] == prepare["val"]["critiques"]
    data = {f"{part}_data": f"rows/training_data_ansel_{part}.json" for part in ("train", "val")}
    plan = run("train", built, "--plan", "--memory_gb", "16", **data)
    assert f"{prepare['train']['critiques']} ({counts[0]} text only) train, " in plan


def test_no_stage_takes_a_filler_score_for_the_advisors(built: Path) -> None:
    train = read_rows(built / "rows/training_data_ansel_train.json")
    recipe = json.loads((built / "adapter/recipe.json").read_text())
    scores = [row.reference_critique().scores() for row in train if row.scored]
    medians = np.median(scores, axis=0)
    assert list(recipe["train_score_medians"].values()) == pytest.approx(medians, abs=1e-3)
    report, evaluation = metrics(built, "comparison_report"), metrics(built, "evaluate")
    val = read_rows(built / "rows/training_data_ansel_val.json")
    assert [photo["reference_scores"] for photo in report["photographs"]] == [
        list(row.reference_critique().scores()) if row.scored else None for row in val
    ]
    scored = np.array([row.reference_critique().scores() for row in val if row.scored])
    assert evaluation["constant"]["scored"] == len(scored)
    assert evaluation["constant"]["score_mae"] == pytest.approx(
        np.abs(np.array(list(recipe["train_score_medians"].values())) - scored).mean(), abs=1e-3
    )
    answered = [p["fine_tuned_constrained"]["scores"] is not None for p in report["photographs"]]
    both = sum(a and row.scored for a, row in zip(answered, val, strict=True))
    assert evaluation["comparisons"]["constant"]["groups"] == both
    assert evaluation["comparisons"]["index"]["groups"] == len(val)
    text_only = evaluation["text_only_photographs"]
    sentence = f"{text_only} of the critiques without scores and judged by their text alone"
    assert sentence in (built / "metrics/report.html").read_text()


def test_other_template_scores_give_the_same_rows(built: Path, tmp_path: Path) -> None:
    """They are neither targets nor context, so the adapter is the same too."""
    link_and_prepare(tmp_path / "text-only", TEMPLATES[1])
    for part in ("train", "val"):
        name = f"rows/training_data_ansel_{part}.json"
        rows = [row.model_dump() for row in read_rows(built / name)]
        others = [row.model_dump() for row in read_rows(tmp_path / "text-only" / name)]
        for row in (*rows, *others):
            row["images"] = [Path(path).name for path in row["images"]]
        assert rows == others
