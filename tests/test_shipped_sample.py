"""The whole pipeline on the shipped sample with the shipped training: both adapters are better."""

import re

import pytest

from tests.clone import Clone, make_clone

pytestmark = pytest.mark.slow
ADVISORS = ("ansel", "okeefe")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = make_clone(tmp_path_factory.mktemp("clone"))
    leave_out_what_no_verdict_uses(clone)
    clone.run("dvc", "repro")
    return clone


def leave_out_what_no_verdict_uses(clone: Clone) -> None:
    """Set no few-shot comparison and no consistency, which are over half of the generation."""
    params = clone.folder / "params.yaml"
    pattern = r"^( +(?:few_shot_examples|photos|samples): )[1-9]\b"
    text, count = re.subn(pattern, r"\g<1>0", params.read_text(), flags=re.MULTILINE)
    assert count == 3
    params.write_text(text)


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
def test_every_finished_job_is_linked_or_rejected_and_every_pair_is_in_one_split(
    clone: Clone, advisor: str
) -> None:
    link, prepare, evaluate = (
        clone.metrics(advisor, stage) for stage in ("link", "prepare", "evaluate")
    )
    assert link["linked"] + sum(link["rejected"].values()) == link["finished"] <= link["jobs"]
    splits = [prepare[split] for split in ("train", "val", "test")]
    assert sum(split["critiques"] for split in splits) == link["linked"]
    assert sum(split["photo_groups"] for split in splits) == prepare["photo_groups"]
    assert evaluate["photographs"] == prepare["val"]["critiques"]


def test_a_second_run_does_nothing(clone: Clone) -> None:
    assert "Data and pipelines are up to date" in clone.run("dvc", "repro")


def test_the_summary_shows_the_verdicts(clone: Clone) -> None:
    summary = clone.mondrian("summary")
    for advisor in ADVISORS:
        photos = clone.metrics(advisor, "metrics")["n_val"]
        verdict = f"{advisor}: BETTER on {photos} critiques of {photos} photos not used in training"
        assert verdict in summary
    assert "fine_tuned" in summary
