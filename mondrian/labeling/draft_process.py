"""The process that critiques photos in the background; a page shows a draft once there is one."""

import subprocess
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from threading import Thread

from pydantic import BaseModel

from mondrian.core.errors import DataError, one_line
from mondrian.core.gpu_errors import describe_exit
from mondrian.inference.critique_log import CritiqueLog, CritiqueRecord

_COMMAND = (sys.executable, "-m", "mondrian.labeling.draft_worker")
_LOG_PREFIX = "drafts: "  # of the line that names the log
_KEPT_LINES = 20  # of the output of the process, to say why it ended
_MEMORY_FIX = "close other programs, or label without --draft"


class DraftRequest(BaseModel):
    """What the process reads from stdin, as one line."""

    params: Path
    advisor: str
    adapter: Path | None  # None for the base
    folder: Path  # of logs and previews; may be deleted
    photos: list[Path]


class DraftProcess:
    """Drafts by the photos' sha256; `fault` says why there will be no more of them."""

    def __init__(self, request: DraftRequest) -> None:
        self.fault = ""
        self._log_path: Path | None = None
        self._log_size = 0
        self._drafts: dict[str, CritiqueRecord] = {}
        self._is_closed = False
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended at once; _watch says why
            self._process.stdin.write(f"{request.model_dump_json()}\n")
            self._process.stdin.flush()
        Thread(target=self._watch, name="drafts", daemon=True).start()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def find(self, photo: str) -> CritiqueRecord | None:
        """Return the draft of a photo, if there is one yet."""
        path = self._log_path
        try:
            size = path.stat().st_size if path is not None and path.is_file() else 0
            if path is not None and size != self._log_size:
                self._drafts = {r.sha256: r for r in CritiqueLog(path).records.values()}
                self._log_size = size
        except (DataError, OSError) as error:
            self.fault = one_line(error)
        return self._drafts.get(photo)

    def close(self) -> None:
        self._is_closed = True
        self._process.kill()
        self._process.wait()

    def _watch(self) -> None:
        lines: deque[str] = deque(maxlen=_KEPT_LINES)
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                lines.append(line)
                if line.startswith(_LOG_PREFIX):
                    self._log_path = Path(line.removeprefix(_LOG_PREFIX).rstrip("\n"))
        status = self._process.wait()
        if status and not self._is_closed:
            self.fault = describe_exit(status, lines, _MEMORY_FIX)


def format_log_line(path: Path) -> str:
    return f"{_LOG_PREFIX}{path}\n"
