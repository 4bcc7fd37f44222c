"""The workflow of GitHub, which cannot run here, names what exists."""

import os
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from mondrian.cli.parser import COMMANDS
from tests.conftest import ROOT
from tests.makefile import targets

WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
JOBS: dict[str, Any] = WORKFLOW["jobs"]


def commands(job: str) -> list[list[str]]:
    """Return the words of each command of a job, up to a pipe or redirection."""
    lines = [step["run"] for step in JOBS[job]["steps"] if "run" in step]
    return [shlex.split(re.split(r" (?:\||>>) ", line)[0]) for line in lines]


def actions() -> Iterator[str]:
    for job in JOBS.values():
        yield from (step["uses"] for step in job["steps"] if "uses" in step)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_runs_only_commands_that_exist(job: str) -> None:
    assert commands(job)
    for program, *args in commands(job):
        if program == "make":
            assert set(args) <= targets()
        elif program == ".venv/bin/mondrian":
            assert args[0] in COMMANDS
        elif program == ".ci/run":
            assert os.access(ROOT / program, os.X_OK)
        else:
            assert program in ("cat", "git")


def test_linux_runs_all_tests_and_macos_what_needs_a_mac() -> None:
    assert [".ci/run"] in commands("linux")
    expected = [["make"], ["make", "test"], [".venv/bin/mondrian", "doctor"]]
    assert [command for command in commands("macos") if command[0] != "cat"] == expected
    assert re.fullmatch(r"macos-1[45]", JOBS["macos"]["runs-on"])


def test_ci_run_makes_targets_that_exist() -> None:
    text = (ROOT / ".ci/run").read_text()
    used = re.findall(r"^make ([\w-]+)", text, re.MULTILINE)
    assert used == ["lint", "test", "test-all"]
    assert set(used) <= targets()


def test_actions_are_official_and_of_a_major_version() -> None:
    assert len(list(actions())) >= 4
    for action in actions():
        assert re.fullmatch(r"actions/(checkout|setup-python|upload-artifact)@v\d+", action), action


def test_the_table_and_the_reports_are_kept_even_if_a_test_fails() -> None:
    doctor, summary, upload = JOBS["macos"]["steps"][-3:]
    assert "| tee doctor.md" in doctor["run"]
    assert upload["with"]["path"].split() == ["doctor.md", "metrics/"]
    assert all(step["if"] == "${{ !cancelled() }}" for step in (doctor, summary, upload))
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outputs = [out for stage in ("link", "evaluate") for out in stages[stage]["outs"]]
    names = [out if isinstance(out, str) else next(iter(out)) for out in outputs]
    reports = {name.rsplit("/", 1)[-1] for name in names if name.startswith("metrics/")}
    assert reports >= {"data_report.html", "comparison_report.json", "report.html"}
