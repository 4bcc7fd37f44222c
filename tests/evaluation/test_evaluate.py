import json
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.core.errors import AdapterError
from mondrian.critique.prompt import row_messages
from mondrian.critique.rows import ChatRow
from mondrian.critique.schema import DIMENSIONS, Critique, is_schema_valid, serialize_critique
from mondrian.evaluation.answer_cache import AnswerCache, delete_cache_file
from mondrian.evaluation.answer_record import build_answer_record
from mondrian.evaluation.arms import pick_other_photographs, pick_stratified_examples
from mondrian.evaluation.evaluate import _check_no_trained_photos, _same_prompt
from mondrian.evaluation.text_metrics import hash_sentences
from mondrian.model.provenance import BaseId, Recipe
from mondrian.model.vlm import Generation
from tests.conftest import ROOT, assert_one_error, run_stage


def judge(text: str, trained: set[str] | None = None) -> dict[str, Any]:
    return build_answer_record(
        Generation(text, (7,) * 100, seconds=0.5, ended=True, passes=100), trained or set()
    )


def test_raw_compliance_is_judged_without_repair(critique: Critique) -> None:
    text = serialize_critique(critique)
    assert is_schema_valid(text)
    assert not is_schema_valid(f"```json\n{text}\n```")
    fenced = judge(f"```json\n{text}\n```")
    assert not fenced["compliant"]
    assert fenced["scores"] == critique.scores()
    assert judge(text[:300])["fault"].startswith("truncated")


def test_a_sentence_of_train_counts_as_copied(critique: Critique) -> None:
    long = "The ridge holds its deep shadows well into the far, cold valley."
    first = critique.dimensions[0].model_copy(update={"comment": long})
    told = critique.model_copy(update={"dimensions": (first, *critique.dimensions[1:])})
    assert judge(serialize_critique(told), hash_sentences([f"{long.upper()} And more."]))["copied"]
    other = hash_sentences(["Other words stand here, and many more of them."])
    assert not judge(serialize_critique(told), other)["copied"]


def row(name: str, group: str, critique: Critique | None = None, overall: float = 5) -> ChatRow:
    answer = ""
    if critique:
        answer = serialize_critique(critique.model_copy(update={"overall_score": overall}))
    return ChatRow(
        messages=row_messages("You are one.", answer),
        images=["x"],
        id=name,
        photo="",
        photo_group=group,
        prompt_hash="a" * 64,
    )


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12))
def test_shuffled_shows_every_row_another_photograph(groups: list[str]) -> None:
    rows = [row(str(i), group) for i, group in enumerate(groups)]
    found = pick_other_photographs(rows)
    if len(set(groups)) < 2:
        assert found is None
        return
    assert found is not None
    assert all(rows[o].photo_group != r.photo_group for r, o in zip(rows, found, strict=True))
    if len(set(groups)) == len(groups):
        assert sorted(found) == list(range(len(groups)))


def test_examples_go_from_low_to_high(critique: Critique) -> None:
    train = [row(str(i), str(i), critique, i) for i in (9, 1, 5, 3, 7)]
    assert [r.reference_critique().overall_score for r in pick_stratified_examples(train, 2)] == [
        3,
        7,
    ]
    assert len(pick_stratified_examples(train, 8)) == 5


def test_an_answer_is_kept_and_one_of_something_else_is_not(tmp_path: Path) -> None:
    path, given = tmp_path / "answers.jsonl", Generation("text", (5, 6, 7), 0.5, True, 3)
    first = AnswerCache(path, {"base": "a"})
    key = first.key("base", "ansel/1", [1, 2], "ansel/1")
    first.add({key: given})
    with path.open("a") as file:
        file.write('{"identity": "cut sh')
    assert AnswerCache(path, {"base": "a"}).get(key) == given
    assert AnswerCache(path, {"base": "b"}).get(key) is None
    assert first.key("base", "ansel/1", [1, 3], "ansel/1") != key
    delete_cache_file(path)
    assert not path.exists()


def test_rows_of_another_prompt_and_of_training_are_refused() -> None:
    one = row("ansel/1", "group")
    with pytest.raises(AdapterError, match="trained on another prompt"):
        _same_prompt(made("b" * 64, []), [one], Path("adapter"))
    _same_prompt(made("a" * 64, []), [one], Path("adapter"))
    with pytest.raises(AdapterError, match="was trained on the photograph of row ansel/1"):
        _check_no_trained_photos(made("a" * 64, ["group"]), [one], Path("adapter"))
    _check_no_trained_photos(made("a" * 64, ["other"]), [one], Path("adapter"))


def made(prompt: str, groups: list[str]) -> Recipe:
    return Recipe(
        advisor="ansel",
        base=BaseId(source="", sha256=""),
        prompt_sha256=prompt,
        train_photo_groups=groups,
        train_score_means=dict.fromkeys(DIMENSIONS, 5.0),
    )


def evaluation(trained: Path, prepared: Path, folder: Path) -> list[object]:
    """The flags of an evaluation that writes into a folder."""
    return [
        "--lora_path",
        trained,
        "--val_data",
        prepared / "val.json",
        "--train_data",
        prepared / "train.json",
        "--cache_dir",
        folder / "cache",
        "--output_report",
        folder / "report.json",
        "--metrics",
        folder / "evaluate.json",
        "--html",
        folder / "report.html",
        "--score_error_csv",
        folder / "score_error.csv",
    ]


def kept_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("adapter-*.jsonl"))


@pytest.mark.long
def test_an_evaluation_that_is_killed_goes_on_to_the_same_answers(
    trained: Path, prepared_dir: Path, tmp_path: Path
) -> None:
    texts = []
    for name, kill in (("whole", False), ("killed", True)):
        flags = evaluation(trained, prepared_dir, tmp_path / name)
        folder = tmp_path / name / "cache/evaluate"
        if kill:
            command = [sys.executable, str(ROOT / "stages/evaluate.py"), *map(str, flags)]
            env = os.environ | {"PYTHONPATH": str(ROOT)}
            with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=env, cwd=ROOT) as process:
                deadline = monotonic() + 120
                while not kept_bytes(folder) and monotonic() < deadline:
                    sleep(0.02)
                process.kill()
            assert kept_bytes(folder)
            assert not (tmp_path / name / "report.json").exists()
        done = run_stage("evaluate", *flags)
        assert done.returncode == 0, done.stderr
        row = json.loads((tmp_path / name / "report.json").read_text())["photographs"][0]
        texts.append([row[arm]["text"] for arm in ("base", "fine_tuned", "base_constrained")])
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_an_evaluation_is_made_anew_from_its_report(
    trained: Path, prepared_dir: Path, tmp_path: Path
) -> None:
    done = run_stage("evaluate", *evaluation(trained, prepared_dir, tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "evaluate.json").read_text())
    assert (tmp_path / "score_error.csv").read_text().startswith("dimension,score_error\n")
    assert not list((tmp_path / "cache/evaluate").iterdir())
    assert found["verdict"] == "INCONCLUSIVE"
    assert found["photographs"] == 1
    again = run_stage(
        "evaluate",
        "--recompute_from",
        tmp_path / "report.json",
        "--metrics",
        tmp_path / "again.json",
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "evaluate.json").read_bytes()
    page = (tmp_path / "report.html").read_text()
    assert "INCONCLUSIVE" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    report = json.loads((tmp_path / "report.json").read_text())
    del report["cost"]
    (tmp_path / "old.json").write_text(json.dumps(report))
    for more, wanted in (
        (["--recompute_from", tmp_path / "old.json"], "is no report of this version (KeyError"),
        (["--recompute_from", tmp_path / "new.json"], "is named twice"),
        (
            ["--max_examples", 0, *evaluation(trained, prepared_dir, tmp_path)[:-6]],
            "--max_examples is 0; it must be 1 or more",
        ),
    ):
        refused = run_stage("evaluate", *more, "--metrics", tmp_path / "new.json")
        assert_one_error(refused, wanted)
        assert not (tmp_path / "new.json").exists()
    checked = run_stage("evaluate", "--check", "--metrics", tmp_path / "evaluate.json")
    assert checked.returncode == 1
    assert "gates do not hold" in checked.stderr
    assert "Traceback" not in checked.stderr


@pytest.fixture(scope="module")
def trained(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    done = run_stage(
        "train",
        "--train_data",
        prepared_dir / "train.json",
        "--val_data",
        prepared_dir / "val.json",
        "--output_dir",
        folder / "adapter",
        "--metrics",
        folder / "train.json",
        "--cache_dir",
        folder / "cache",
        "--epochs",
        1,
        "--params",
        ROOT / "params.yaml",
    )
    assert done.returncode == 0, done.stderr
    return folder / "adapter"
