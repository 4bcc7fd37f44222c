"""Input files that all systems of a benchmark read: base, rows, batches, initial adapter.

FOLDER/workload.json    base; token ids, prompt length and patch grid of each row; batches
FOLDER/pixels-N.npy     patches of row N's photo, (patches, values per patch); further rows have the
                        same photos again
FOLDER/adapter/         the initial weights in PEFT's layout

This module imports neither MLX nor mondrian: benchmarks/systems/torch_peft.py runs without them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

RANK, ALPHA, LEARNING_RATE = 16, 32, 2.0e-4


@dataclass(frozen=True)
class Workload:
    """Rows for one base model.

    ids             (rows, tokens)  prompt and answer of each row
    prompt_lengths  (rows,)         tokens before each answer
    grids           (rows, 2)       patch rows and patch columns of each photo
    batches         (steps, batch)  row numbers of each training step
    """

    folder: Path
    base: str
    ids: list[list[int]]
    prompt_lengths: list[int]
    grids: list[tuple[int, int]]
    batches: list[list[int]]

    @classmethod
    def read(cls, folder: Path) -> Self:
        fields = json.loads((folder / "workload.json").read_text())
        return cls(folder, **fields | {"grids": [tuple(grid) for grid in fields["grids"]]})

    def write(self, pixels: Iterable[NDArray[np.float32]]) -> None:
        """Write everything but the adapter into a new folder."""
        self.folder.mkdir(parents=True)
        fields = {name: value for name, value in vars(self).items() if name != "folder"}
        (self.folder / "workload.json").write_text(json.dumps(fields))
        for row, patches in enumerate(pixels):
            np.save(self.folder / f"pixels-{row}.npy", patches)

    def repeat_rows(self, batch_size: int, num_steps: int) -> Self:
        """Return a workload of equal batches, with the rows over and over again."""
        count = batch_size * num_steps
        rows = [row % len(self.ids) for row in range(count)]
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            prompt_lengths=[self.prompt_lengths[row] for row in rows],
            grids=[self.grids[row] for row in rows],
            batches=[list(range(i, i + batch_size)) for i in range(0, count, batch_size)],
        )

    def pixels(self, row: int) -> NDArray[np.float32]:
        num_photos = sum(1 for _ in self.folder.glob("pixels-*.npy"))
        patches: NDArray[np.float32] = np.load(self.folder / f"pixels-{row % num_photos}.npy")
        return patches

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"
