"""python -m mondrian.doctor.worker PHASE …: print one JSON object per line for `mondrian doctor`.

device PROJECT          the types of the self-test, then the checks of the device
train PROJECT FOLDER    train until the process kills itself
verify PROJECT FOLDER   the checks of the self-test
"""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from mondrian.core.errors import run_command
from mondrian.doctor.check import Check


def write_checks(checks: Iterable[Check], output: TextIO) -> None:
    for check in checks:
        write_line(asdict(check), output)


def write_line(content: object, output: TextIO) -> None:
    output.write(f"{json.dumps(content)}\n")
    output.flush()


def main() -> None:
    phase, *args = sys.argv[1:]
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not write into the lines
    if phase == "device":
        from mondrian.doctor.worker.device import check_device, self_test_types

        write_line(self_test_types(), output)
        write_checks(check_device(Path(args[0])), output)
        return
    from mondrian.doctor.worker import self_test

    test = self_test.prepare(Path(args[0]), Path(args[1]))
    if phase == "train":
        self_test.train_until_killed(test)
    else:
        write_checks(self_test.run_checks(test), output)


if __name__ == "__main__":
    run_command(main)
