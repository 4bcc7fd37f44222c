"""What mondrian judge needs: the report of an evaluation of this version, and its photos."""

import json
from pathlib import Path

import pytest

from mondrian.cli import judge
from mondrian.cli.judge import main
from mondrian.core.errors import MondrianError
from mondrian.core.files import write_json
from mondrian.evaluation.preference import VOTES_FILE, Vote, VoteLog
from tests.conftest import ROOT
from tests.labeling.report_photos import make_photo


def make_project(root: Path) -> Path:
    """Make a project with an evaluation of ansel; return the folder of its metrics."""
    for name in ("params.yaml", "dvc.yaml", "models"):
        (root / name).symlink_to(ROOT / name)
    folder = root / "metrics" / "ansel"
    evaluation = {"verdict": "BETTER", "photographs": 1, "photograph_groups": 1}
    write_json(folder / "evaluate.json", evaluation)
    return folder


def test_a_damaged_evaluation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_project(tmp_path)
    report = {"adapter": {"version": "a1"}, "photographs": []}
    (folder / "comparison_report.json").write_text(json.dumps(report))
    (folder / "evaluate.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MondrianError, match=r"evaluate.json is not a report of this version"):
        main(["--advisor=ansel", "--no-browser", "--port=0"])


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (None, "comparison_report.json does not exist; run the stage that writes it"),
        ({"adapter": {}}, r"not a report of this version \(KeyError: 'version'\); evaluate again"),
        ({"adapter": {"version": 5}, "photographs": []}, "not a report .* version is not a text"),
        (
            {"adapter": {"version": "a1"}, "photographs": [make_photo(1) | {"photo_group": None}]},
            "not a report of this version .* photo_group is not a text",
        ),
        ({"adapter": {"version": "a1"}, "photographs": []}, "has no photo to compare"),
        ({"adapter": {"version": "a1"}, "photographs": [make_photo(1)]}, "no file 1.png; dvc"),
    ],
)
def test_a_missing_or_older_report_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: object, message: str
) -> None:
    folder = make_project(tmp_path)
    if report is not None:
        (folder / "comparison_report.json").write_text(json.dumps(report))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MondrianError, match=message):
        main(["--advisor=ansel", "--no-browser", "--port=0"])
    assert not (folder / "votes.jsonl").exists()


def test_the_end_says_to_commit_votes_with_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_project(tmp_path)
    report = {"adapter": {"version": "a1"}, "photographs": [make_photo(1)]}
    write_json(folder / "comparison_report.json", report)
    (tmp_path / "1.png").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(judge, "run_local_app", lambda _app, listener, *_: listener.close())
    command = ["--advisor=ansel", "--no-browser", "--port=0"]
    main(command)
    assert "commit" not in capsys.readouterr().out
    vote = Vote(adapter="a1", photo_group="g", pair="", side="left", choice="equal", at="")
    VoteLog(folder / VOTES_FILE).add(vote)
    main(command)
    out = capsys.readouterr().out
    assert out.endswith("commit them with the metrics: git add metrics/ansel/votes.jsonl\n")


def test_an_unknown_advisor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(MondrianError, match="no advisor 'weston' .it has ansel, okeefe"):
        main(["--advisor=weston"])
