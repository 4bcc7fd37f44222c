import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mondrian.core.adapter_folder import adapter_version
from mondrian.core.errors import AdapterError
from mondrian.critique.schema import DIMENSIONS, Critique, is_schema_valid, serialize_critique
from mondrian.evaluation.evaluate import check_rows_match_adapter
from mondrian.evaluation.generation import AnswerCache
from mondrian.evaluation.prompts import pick_stratified_examples
from mondrian.evaluation.text_metrics import hash_sentences
from mondrian.labeling.blind_pairs import build_pairs
from mondrian.model.provenance import BaseId, Recipe
from mondrian.model.vlm import Generation
from tests.conftest import ROOT, assert_one_error, run_stage
from tests.evaluation.answers import answer_record, make_row
from tests.waiting import wait_for


def test_raw_compliance_is_measured_without_repair(critique: Critique) -> None:
    text = serialize_critique(critique)
    assert is_schema_valid(text)
    assert not is_schema_valid(f"```json\n{text}\n```")
    fenced = answer_record(f"```json\n{text}\n```")
    assert not fenced["compliant"]
    assert fenced["scores"] == critique.scores()
    assert answer_record(text[:300])["fault"].startswith("truncated")


def test_a_sentence_of_train_counts_as_copied(critique: Critique) -> None:
    sentence = "The ridge holds its deep shadows well into the far, cold valley."
    first = critique.dimensions[0].model_copy(update={"comment": sentence})
    copy = critique.model_copy(update={"dimensions": (first, *critique.dimensions[1:])})
    same = hash_sentences([f"{sentence.upper()} And more."])
    assert answer_record(serialize_critique(copy), same)["copied"]
    other = hash_sentences(["Other words stand here, and many more of them."])
    assert not answer_record(serialize_critique(copy), other)["copied"]


def test_examples_go_from_low_to_high(critique: Critique) -> None:
    train = [make_row(str(i), str(i), critique, i) for i in (9, 1, 5, 3, 7)]
    examples = pick_stratified_examples(train, 2)
    assert [row.reference_critique().overall_score for row in examples] == [3, 7]
    assert len(pick_stratified_examples(train, 8)) == 5


def test_an_answer_is_cached_for_its_own_identity_and_prompt_only(tmp_path: Path) -> None:
    path, answer = tmp_path / "answers.jsonl", Generation("text", (5, 6, 7), 0.5, True, 3)
    cache = AnswerCache(path, {"base": "a"})
    key = cache.key("base", 1, [1, 2], "ansel/1")
    cache.add(key, answer)
    with path.open("a") as file:
        file.write('{"digest": "cut sh')
    same, other = AnswerCache(path, {"base": "a"}), AnswerCache(path, {"base": "b"})
    assert (same.answers, other.answers) == ({key: answer}, {})
    assert same.describe_other_run() == ""
    assert "starts over: " in (message := other.describe_other_run())
    assert "base (a, now b); restore them to resume it" in message
    other.add(key, answer)
    assert AnswerCache(path, {"base": "a"}).answers == {key: answer}  # settings restored
    assert AnswerCache(path, {"base": "b"}).describe_other_run() == ""
    assert cache.key("base", 1, [1, 3], "ansel/1") != key


def test_rows_of_another_prompt_and_of_training_are_refused() -> None:
    row = make_row("ansel/1", "group")
    with pytest.raises(AdapterError, match="trained on another prompt"):
        check_rows_match_adapter(make_recipe("b" * 64, []), [row], Path("adapter"))
    check_rows_match_adapter(make_recipe("a" * 64, []), [row], Path("adapter"))
    with pytest.raises(AdapterError, match="was trained on the photo of row ansel/1"):
        check_rows_match_adapter(make_recipe("a" * 64, ["group"]), [row], Path("adapter"))
    check_rows_match_adapter(make_recipe("a" * 64, ["other"]), [row], Path("adapter"))


def make_recipe(prompt_hash: str, groups: list[str]) -> Recipe:
    return Recipe(
        advisor="ansel",
        base=BaseId(source="", sha256=""),
        prompt_sha256=prompt_hash,
        train_photo_groups=groups,
        train_score_medians=dict.fromkeys(DIMENSIONS, 5.0),
    )


def evaluation_flags(trained: Path, prepared: Path, folder: Path) -> list[object]:
    """Return the flags of an evaluation that writes into a folder."""
    flags = {
        "--lora_path": trained,
        "--val_data": prepared / "val.json",
        "--train_data": prepared / "train.json",
        "--cache_dir": folder / "cache",
        "--output_report": folder / "report.json",
        "--details": folder / "evaluate.json",
        "--timing": folder / "evaluate_timing.json",
        "--metrics": folder / "metrics.json",
        "--html": folder / "report.html",
        "--score_error_csv": folder / "score_error.csv",
        "--loss_csv": folder / "loss.csv",
    }
    return [word for flag in flags.items() for word in flag]


def cached_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("adapter-*.jsonl"))


def kill_after_an_answer(flags: list[object], folder: Path) -> None:
    """Start an evaluation and kill it once it has cached an answer."""
    command = [sys.executable, str(ROOT / "stages/evaluate.py"), *map(str, flags)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=env, cwd=ROOT) as process:
        wait_for(lambda: cached_bytes(folder / "cache/evaluate") or process.poll() is not None)
        process.kill()
    assert cached_bytes(folder / "cache/evaluate")
    assert not (folder / "report.json").exists()


def texts(folder: Path) -> list[str]:
    photo = json.loads((folder / "report.json").read_text())["photographs"][0]
    return [photo[arm]["text"] for arm in ("base", "fine_tuned", "base_constrained")]


@pytest.mark.slow
def test_a_killed_evaluation_resumes_to_the_same_answers(
    trained: Path, prepared_dir: Path, evaluated: Path, tmp_path: Path
) -> None:
    flags = evaluation_flags(trained, prepared_dir, tmp_path)
    kill_after_an_answer(flags, tmp_path)
    result = run_stage("evaluate", *flags)
    assert result.returncode == 0, result.stderr
    assert texts(tmp_path) == texts(evaluated)


@pytest.mark.slow
def test_the_critiques_of_a_report_can_be_compared_blind(trained: Path, evaluated: Path) -> None:
    report = json.loads((evaluated / "report.json").read_text())
    pairs, left_out = build_pairs(report["photographs"])
    assert len(pairs) + left_out.total() == len(report["photographs"])
    assert report["adapter"]["version"] == adapter_version(trained)


@pytest.mark.slow
def test_metrics_are_recomputed_from_a_report(
    trained: Path, prepared_dir: Path, evaluated: Path, tmp_path: Path
) -> None:
    metrics = json.loads((evaluated / "evaluate.json").read_text())
    assert (evaluated / "score_error.csv").read_text().startswith("dimension,arm,score_error\n")
    assert (evaluated / "loss.csv").read_text().startswith("step,curve,loss\n1,train,")
    assert not list((evaluated / "cache/evaluate").iterdir())
    assert metrics["verdict"] == "INCONCLUSIVE"
    assert metrics["photographs"] == 1
    key_metrics = json.loads((evaluated / "metrics.json").read_text())
    assert len(key_metrics) <= 13
    assert key_metrics["verdict"] == "INCONCLUSIVE"
    assert (
        key_metrics["val_loss"]
        == json.loads((trained.parent / "train.json").read_text())["val_loss"]
    )
    assert (key_metrics["n_train"], key_metrics["n_val"]) == (4, 1)
    assert key_metrics["failed_gates"] >= 1
    recompute = ["--recompute_from", evaluated / "report.json"]
    result = run_stage("evaluate", *recompute, "--details", tmp_path / "recomputed.json")
    assert result.returncode == 0, result.stderr
    recomputed = (tmp_path / "recomputed.json").read_bytes()
    assert recomputed == (evaluated / "evaluate.json").read_bytes()
    page = (evaluated / "report.html").read_text()
    assert "INCONCLUSIVE" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    report = json.loads((evaluated / "report.json").read_text())
    del report["cost"]
    (tmp_path / "old.json").write_text(json.dumps(report))
    damaged = json.loads((evaluated / "report.json").read_text()) | {"packages": "x"}
    (tmp_path / "bad.json").write_text(json.dumps(damaged))
    bad = ["--recompute_from", tmp_path / "bad.json", "--html", tmp_path / "bad.html"]
    for flags, message in (
        (["--recompute_from", tmp_path / "old.json"], "is not a report of this version (KeyError"),
        (bad, "is not a report of this version (UndefinedError"),
        ([*recompute, "--max_examples", 3], "leave out --max_examples"),
        (["--recompute_from", tmp_path / "new.json"], "is named twice"),
        (
            ["--max_examples", 0, *evaluation_flags(trained, prepared_dir, tmp_path)[:-6]],
            "--max_examples is 0; it must be 1 or more",
        ),
    ):
        refused = run_stage("evaluate", *flags, "--details", tmp_path / "new.json")
        assert_one_error(refused, message)
        assert not (tmp_path / "new.json").exists()
    checked = run_stage("evaluate", "--check", "--details", evaluated / "evaluate.json")
    assert checked.returncode == 1
    assert "gates do not hold" in checked.stderr
    assert "Traceback" not in checked.stderr


@pytest.fixture(scope="module")
def trained(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    flags = {
        "--train_data": prepared_dir / "train.json",
        "--val_data": prepared_dir / "val.json",
        "--output_dir": folder / "adapter",
        "--metrics": folder / "train.json",
        "--cache_dir": folder / "cache",
        "--epochs": 1,
        "--params": ROOT / "params.yaml",
    }
    result = run_stage("train", *(word for flag in flags.items() for word in flag))
    assert result.returncode == 0, result.stderr
    return folder / "adapter"


@pytest.fixture(scope="module")
def evaluated(trained: Path, prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation that was not interrupted."""
    folder = tmp_path_factory.mktemp("evaluation")
    result = run_stage("evaluate", *evaluation_flags(trained, prepared_dir, folder))
    assert result.returncode == 0, result.stderr
    return folder
