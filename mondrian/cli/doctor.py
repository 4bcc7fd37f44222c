"""mondrian doctor: check this machine, and show the result as a table to paste into an issue."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import mondrian
from mondrian.cli.parser import command_parser
from mondrian.core.errors import MondrianError
from mondrian.core.terminal import progress_bar
from mondrian.doctor.check import Check, hide_paths, print_checks
from mondrian.doctor.machine import check_machine
from mondrian.doctor.processes import check_in_processes

_BASE = Path("models/base/mondrian-tiny/config.json")


def main(argv: list[str]) -> None:
    parser = command_parser(
        "doctor",
        "mondrian doctor",
        "Trains mondrian-tiny for two steps, kills and resumes the training, and generates a\n"
        "critique; takes about 20 s. The exit status is 1 if a check failed.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    project = find_project()
    home = Path(os.path.expanduser("~"))  # Path.home() raises without a home folder
    checks = [hide_paths(check, project, home) for check in run_checks(project)]
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        print_checks(checks, sys.stdout)
    if any(check.verdict == "failed" for check in checks):
        sys.exit(1)


def find_project() -> Path:
    """Return the checkout: this folder, or the one that mondrian is installed from."""
    checkout = Path(mondrian.__file__).parent.parent
    for folder in (Path.cwd(), checkout):
        if (folder / _BASE).is_file():
            return folder
    raise MondrianError(
        f"{_BASE.parent} was not found; run mondrian doctor in a checkout of the project"
    )


def run_checks(project: Path) -> list[Check]:
    """Run all checks, with the current one on stderr."""
    with progress_bar(desc="doctor", bar_format="{desc}") as bar:
        report = bar.set_description_str
        report("machine")
        return [*check_machine(project), *check_in_processes(project, report)]
