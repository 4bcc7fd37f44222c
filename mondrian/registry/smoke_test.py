"""Smoke test of an adapter: a process that loads the base during the download, then the adapter."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mondrian.core.errors import MondrianError

TIMEOUT_SECONDS = 900.0  # to load the base and generate one critique


@dataclass(frozen=True)
class SmokeTestProcess:
    """A process that waits for an adapter folder on its stdin."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def check_adapter(self, folder: Path, name: str) -> str:
        """Return the adapter's critique of a rendered photo, or raise MondrianError."""
        request = json.dumps([str(folder), name]).encode() + b"\n"
        try:
            output, _ = self.process.communicate(request, TIMEOUT_SECONDS)
            response: dict[str, Any] = json.loads(output)
        except (ValueError, subprocess.TimeoutExpired):
            self.process.kill()
            self.log.seek(0)
            lines = self.log.read().decode(errors="replace").strip().splitlines()
            last = lines[-1][:200] if lines else "no output"
            raise MondrianError(
                f"{name}: the smoke test ended with {self.process.wait()}: {last}; is there "
                "memory for a second copy of the base?"
            ) from None
        if "fault" in response:
            raise MondrianError(response["fault"])
        return str(response["text"])


@contextmanager
def start_smoke_test(params: Path, advisor: str) -> Iterator[SmokeTestProcess]:
    """Start a process that loads the base; it is killed on exit."""
    command = [sys.executable, "-m", "mondrian.registry.smoke_test_worker", str(params), advisor]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches the parent only
            env={"OPENBLAS_NUM_THREADS": str(min(os.cpu_count() or 1, 4))} | dict(os.environ),
        ) as process,
    ):
        try:
            yield SmokeTestProcess(process, log)
        finally:
            process.kill()
