"""The whole pipeline in a fresh clone with mondrian-tiny, as `make` runs it."""

import json
import re
import subprocess
import time

import pytest

from tests.clone import Clone, make_clone

pytestmark = pytest.mark.slow
ADVISORS = ("ansel", "okeefe")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = make_clone(tmp_path_factory.mktemp("clone"))
    clone.run("dvc", "repro")
    return clone


@pytest.mark.parametrize("advisor", ADVISORS)
def test_the_adapter_is_closer_to_the_advisor_than_base_and_constant(
    clone: Clone, advisor: str
) -> None:
    metrics = clone.metrics(advisor, "evaluate")
    assert metrics["verdict"] == "BETTER"
    assert metrics["shuffled"]["score_mae"] > metrics["fine_tuned"]["score_mae"] + 0.5
    fine_tuned = metrics["fine_tuned"]
    assert fine_tuned["score_mae"] < metrics["base"]["score_mae"]
    assert fine_tuned["score_mae"] < metrics["constant"]["score_mae"]
    assert fine_tuned["format_compliance"] >= 0.9


@pytest.mark.parametrize("advisor", ADVISORS)
def test_the_counts_of_all_stages_agree(clone: Clone, advisor: str) -> None:
    link, prepare, train, evaluate = (
        clone.metrics(advisor, stage) for stage in ("link", "prepare", "train", "evaluate")
    )
    assert link["linked"] + sum(link["rejected"].values()) == link["finished"] <= link["jobs"]
    splits = [prepare[split] for split in ("train", "val", "test")]
    assert sum(split["critiques"] for split in splits) == link["linked"]
    assert sum(split["photo_groups"] for split in splits) == prepare["photo_groups"]
    assert evaluate["photographs"] == prepare["val"]["critiques"]
    page = (clone.folder / "metrics" / advisor / "data_report.html").read_text()
    assert f"<strong>{link['linked']} pairs</strong>" in page
    assert {"train_loss", "val_loss", "tokens_per_second", "peak_memory_gb"} <= set(train)


@pytest.mark.parametrize("advisor", ADVISORS)
def test_the_report_contains_every_completion(clone: Clone, advisor: str) -> None:
    path = clone.folder / "metrics" / advisor / "comparison_report.json"
    report = json.loads(path.read_text())
    assert len(report["photographs"]) == clone.metrics(advisor, "evaluate")["photographs"]
    for photograph in report["photographs"]:
        for arm in ("base", "few_shot", "fine_tuned", "shuffled"):
            assert photograph[arm]["text"]
            assert photograph[arm]["tokens"] > 0
        assert photograph["base"]["text"] != photograph["fine_tuned"]["text"]
    log = clone.folder / "models" / f"mondrian-tiny-lora-{advisor}" / "training_log.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum("val_loss" in entry for entry in entries) >= 1


def test_a_second_run_does_nothing(clone: Clone) -> None:
    started = time.perf_counter()
    assert "Data and pipelines are up to date" in clone.run("dvc", "repro")
    assert time.perf_counter() - started < 30  # about 2 s; a rerun would take minutes


def test_a_failed_run_keeps_the_outputs_of_the_run_before(clone: Clone) -> None:
    adapter_dir = clone.folder / "models/mondrian-tiny-lora-ansel"
    adapter_files = {p.name: p.read_bytes() for p in adapter_dir.iterdir()}
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
        assert {p.name: p.read_bytes() for p in adapter_dir.iterdir()} == adapter_files
    finally:
        params.write_text(text)


def test_the_summary_shows_the_verdicts(clone: Clone) -> None:
    summary = clone.mondrian("summary")
    assert summary.count("BETTER on 21 critiques of 21 photos not used in training") == 2
    assert "fine_tuned" in summary


def test_the_loss_curves_can_be_plotted(clone: Clone) -> None:
    clone.run("dvc", "plots", "show")
    page = (clone.folder / "dvc_plots" / "index.html").read_text()
    assert "train loss, ansel" in page
    assert "val loss, okeefe" in page
