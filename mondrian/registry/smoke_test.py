"""The canary: a process that loads the base while an adapter is on its way, and then tries it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import IO, Any

from mondrian.core.errors import MondrianError

TIMEOUT_SECONDS = 900.0  # seconds for the base to load and one critique to be made


@dataclass(frozen=True)
class SmokeTestProcess:
    """A process that waits for a folder on its stdin."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def check_adapter(self, folder: Path, name: str) -> str:
        """The critique that an adapter makes of a rendered photograph.

        Raises MondrianError where it makes none, or what the base would say.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        late = Timer(TIMEOUT_SECONDS, self.process.kill)
        late.start()
        try:
            self.process.stdin.write(json.dumps([str(folder), name]).encode() + b"\n")
            self.process.stdin.close()
            output = self.process.stdout.read()
        except BrokenPipeError:
            output = b""
        finally:
            late.cancel()
        return self._parse_response(output, name)

    def _parse_response(self, output: bytes, name: str) -> str:
        try:
            answer: dict[str, Any] = json.loads(output)
        except ValueError:
            self.log.seek(0)
            lines = self.log.read().decode(errors="replace").strip().splitlines()
            last = lines[-1][:200] if lines else "it said nothing"
            code = self.process.wait()
            raise MondrianError(
                f"{name}: the model that tries it ended with {code}: {last}; is "
                "there memory for another copy of the base?"
            ) from None
        if "fault" in answer:
            raise MondrianError(answer["fault"])
        return str(answer["text"])


@contextmanager
def start_smoke_test(params: Path, advisor: str) -> Iterator[SmokeTestProcess]:
    """A canary that begins to load the base now, and is gone afterwards."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [sys.executable, "-m", "mondrian.registry.smoke_test_worker", str(params), advisor],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for who started it
            env={"OPENBLAS_NUM_THREADS": str(min(os.cpu_count() or 1, 4))} | dict(os.environ),
        ) as process,
    ):
        try:
            yield SmokeTestProcess(process, log)
        finally:
            process.kill()
