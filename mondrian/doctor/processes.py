"""Run the checks that need MLX in processes, so that a crash of MLX becomes a line of the table."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mondrian.core.errors import ERROR_PREFIX
from mondrian.core.gpu_errors import explain_gpu_error, name_status
from mondrian.doctor.check import REPORT_ADVICE, Check

_TIMEOUT_SECONDS = 300.0  # of a process; the whole takes about 20
_MEMORY_FIX = "end other programs and run it again"


@dataclass(frozen=True)
class WorkerOutput:
    lines: list[Any]  # parsed JSON
    status: int  # exit status; negative: the signal
    messages: list[str]  # stderr

    def describe_end(self) -> str:
        """Return how the process ended, with its last message."""
        message = self._user_error() or (self.messages[-1] if self.messages else "no message")
        return message if self.status >= 0 else f"{name_status(self.status)}: {message}"

    def advise(self) -> str:
        """Return what to do; a user's error says it itself."""
        if self._user_error():
            return ""
        explanations = (explain_gpu_error(text, _MEMORY_FIX) for text in self.messages[-20:])
        return next(filter(None, explanations), REPORT_ADVICE)

    def _user_error(self) -> str:
        """Return a user's error, which ends the messages and may list problems; "" if none."""
        starts = [i for i, text in enumerate(self.messages) if text.startswith(ERROR_PREFIX)]
        if self.status < 0 or not starts:
            return ""
        first, *problems = self.messages[starts[-1] :]
        if not all(text.startswith(" ") for text in problems):
            return ""  # something else came after it
        details = "; ".join(text.strip() for text in problems)
        return first.removeprefix(ERROR_PREFIX) + (f": {details}" if details else "")


def run_worker(*args: str, **variables: str) -> WorkerOutput:
    """Run a phase of mondrian.doctor.worker; a process that hangs is killed."""
    command = [sys.executable, "-m", "mondrian.doctor.worker", *args]
    env = {"PYTHONWARNINGS": "ignore"} | dict(os.environ) | variables
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, env=env, timeout=_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return WorkerOutput([], 1, [f"still running after {_TIMEOUT_SECONDS:.0f} s"])
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    return WorkerOutput(lines, process.returncode, process.stderr.strip().splitlines())


def check_in_processes(project: Path, report: Callable[[str], None]) -> Iterator[Check]:
    """Yield the checks of the device and of the self-test; `report` receives the current step."""
    report("device")
    output = run_worker("device", str(project))
    float_types, *checks = output.lines or [[]]
    yield from (Check(**check) for check in checks)
    if output.status:
        yield Check("MLX", output.describe_end(), "failed", output.advise())
        return
    for float_type in float_types:
        yield from check_type(project, float_type, report)


def check_type(project: Path, float_type: str, report: Callable[[str], None]) -> Iterator[Check]:
    """Yield the self-test's checks in one type."""
    variables = {} if float_type == "float32" else {"MONDRIAN_DEVICE": f"gpu-{float_type}"}
    with tempfile.TemporaryDirectory() as folder:
        args = (str(project), folder)
        report(f"self-test in {float_type}: training, to be killed")
        killed = run_worker("train", *args, **variables)
        if killed.status != -signal.SIGKILL:
            result, advice = killed.describe_end(), killed.advise()
            yield Check(f"{float_type}: self-test", result, "failed", advice)
            return
        report(f"self-test in {float_type}: training, resuming, generating")
        output = run_worker("verify", *args, **variables)
    for line in output.lines:
        check = Check(**line)
        yield replace(check, name=f"{float_type}: {check.name}")
    if output.status:
        yield Check(f"{float_type}: self-test", output.describe_end(), "failed", output.advise())
