"""What every system of benchmarks/train.py trains on, in files: base, rows, batches, adapter.

FOLDER/job.json         base, batches (numbers of rows)
FOLDER/rows.json        ids and start of each row's answer, grid of its patches
FOLDER/pixels-N.npy     of each row's photograph, (patches, numbers a patch)
FOLDER/adapter/         the first weights, in PEFT's layout
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RANK, ALPHA, RATE = 16, 32, 2.0e-4


@dataclass(frozen=True)
class Job:
    """One model's job."""

    folder: Path
    base: str
    batches: list[list[int]]
    ids: list[list[int]]
    starts: list[int]
    grids: list[tuple[int, int]]

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Of a folder that `write` filled."""
        told = json.loads((folder / "job.json").read_text())
        rows = json.loads((folder / "rows.json").read_text())
        return cls(
            folder,
            told["base"],
            told["batches"],
            [r["ids"] for r in rows],
            [r["start"] for r in rows],
            [tuple(r["grid"]) for r in rows],
        )

    def write(self, pixels: list[NDArray[np.float32]]) -> None:
        """Everything but the adapter."""
        self.folder.mkdir(parents=True)
        told = {"base": self.base, "batches": self.batches}
        (self.folder / "job.json").write_text(json.dumps(told))
        rows = [
            {"ids": ids, "start": start, "grid": grid}
            for ids, start, grid in zip(self.ids, self.starts, self.grids, strict=True)
        ]
        (self.folder / "rows.json").write_text(json.dumps(rows))
        for i, one in enumerate(pixels):
            np.save(self.folder / f"pixels-{i}.npy", one)

    def pixels(self, row: int) -> NDArray[np.float32]:
        """A photograph's patches."""
        found: NDArray[np.float32] = np.load(self.folder / f"pixels-{row}.npy")
        return found

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"


def report(seconds: list[float], losses: list[float], **more: Any) -> None:
    """Say what was measured to who started this process: seconds and loss of each step."""
    found = {"seconds": seconds, "losses": losses, "rss_gb": highest(), **more}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def highest() -> float:
    """This process's largest memory, 10^9 bytes; getrusage would count its parent's."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9
