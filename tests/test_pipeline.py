"""The whole pipeline in a fresh clone, on mondrian-tiny, as `make` runs it."""

import json
import re
import subprocess
import sys
import time

import pytest

from tests.cloned import Clone, cloned

pytestmark = pytest.mark.slow
ADVISORS = ("ansel", "okeefe")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    made = cloned(tmp_path_factory.mktemp("fresh"))
    made.run("dvc", "repro")
    return made


@pytest.mark.parametrize("advisor", ADVISORS)
def test_the_adapter_is_nearer_to_the_advisor_than_base_and_constant(
    clone: Clone, advisor: str
) -> None:
    found = clone.metrics(advisor, "evaluate")
    assert found["verdict"] == "BETTER"
    assert found["shuffled"]["score_mae"] > found["fine_tuned"]["score_mae"] + 0.5
    tuned = found["fine_tuned"]
    assert tuned["score_mae"] < found["base"]["score_mae"]
    assert tuned["score_mae"] < found["constant"]["score_mae"]
    assert tuned["format_compliance"] >= 0.9


@pytest.mark.parametrize("advisor", ADVISORS)
def test_the_counts_of_all_stages_agree(clone: Clone, advisor: str) -> None:
    link, prepare, train, evaluate = (
        clone.metrics(advisor, stage) for stage in ("link", "prepare", "train", "evaluate")
    )
    assert link["linked"] + sum(link["rejected"].values()) == link["finished"] <= link["jobs"]
    parts = [prepare[part] for part in ("train", "val", "test")]
    assert sum(part["critiques"] for part in parts) == link["linked"]
    assert sum(part["photo_groups"] for part in parts) == prepare["photo_groups"]
    assert evaluate["photographs"] == prepare["val"]["critiques"]
    page = (clone.folder / "metrics" / advisor / "data_report.html").read_text()
    assert f"<strong>{link['linked']} pairs</strong>" in page
    assert {"train_loss", "val_loss", "tokens_per_second", "peak_memory_gb"} <= set(train)


@pytest.mark.parametrize("advisor", ADVISORS)
def test_the_report_holds_every_output(clone: Clone, advisor: str) -> None:
    path = clone.folder / "metrics" / advisor / "comparison_report.json"
    report = json.loads(path.read_text())
    assert len(report["photographs"]) == clone.metrics(advisor, "evaluate")["photographs"]
    for photograph in report["photographs"]:
        for arm in ("base", "few_shot", "fine_tuned", "shuffled"):
            assert photograph[arm]["text"]
            assert photograph[arm]["tokens"] > 0
        assert photograph["base"]["text"] != photograph["fine_tuned"]["text"]
    log = clone.folder / "models" / f"mondrian-tiny-lora-{advisor}" / "training_log.jsonl"
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum("val_loss" in step for step in steps) >= 1


def test_a_second_run_does_nothing(clone: Clone) -> None:
    started = time.perf_counter()
    assert "Data and pipelines are up to date" in clone.run("dvc", "repro")
    assert time.perf_counter() - started < 30  # about 2 s; a rerun would take minutes


def test_a_run_that_fails_leaves_the_outputs_of_the_last(clone: Clone) -> None:
    folder = clone.folder / "models/mondrian-tiny-lora-ansel"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    params = clone.folder / "params.yaml"
    text = params.read_text()
    try:
        params.write_text(re.sub(r"max_seq_length: \d+ ", "max_seq_length: 100 ", text))
        run = subprocess.run(
            ["dvc", "repro", "train@ansel"],
            cwd=clone.folder,
            env=clone.env,
            timeout=300,
            capture_output=True,
            text=True,
        )
        assert run.returncode != 0
        assert "more than train.max_seq_length (100) tokens: ansel/" in run.stderr
        assert "Traceback" not in run.stderr
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    finally:
        params.write_text(text)


def test_the_summary_says_what_was_found(clone: Clone) -> None:
    shown = clone.run(sys.executable, "-m", "mondrian", "summary")
    assert shown.count("BETTER on 21 critiques of 21 photographs that were not trained on") == 2
    assert "fine_tuned" in shown


def test_the_loss_curves_can_be_plotted(clone: Clone) -> None:
    clone.run("dvc", "plots", "show")
    page = (clone.folder / "dvc_plots" / "index.html").read_text()
    assert "train loss, ansel" in page
    assert "val loss, okeefe" in page
