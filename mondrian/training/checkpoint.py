"""All of a training run in one file, written whole or not at all, and refused where it differs.

Adapter, optimizer, the best adapter so far, and the numbers: step, place in the epoch, losses, log.
Order, dropout and rate follow from seed and step, so nothing else has to be kept.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from mondrian.core.errors import TrainingError, one_line
from mondrian.core.files import write_bytes

Tensors = dict[str, mx.array]


@dataclass
class TrainingProgress:
    """Where a run is, in numbers.

    epoch, position  the epoch under way from 1, and its updates that are done
    total, count     weighted loss and weight of the epoch so far
    smooth, lowest   the running mean of the loss, and the lowest it was
    best             epoch and val loss of the best weights; waited: epochs since then
    seconds, tokens  spent and learned from, over all runs that this one goes on from
    """

    step: int = 0
    epoch: int = 1
    position: int = 0
    total: float = 0.0
    count: float = 0.0
    smooth: float | None = None
    lowest: float | None = None
    best: dict[str, float] | None = None
    waited: int = 0
    seconds: float = 0.0
    tokens: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class CheckpointState:
    """What a checkpoint holds; `best` is empty before the first epoch's end."""

    progress: TrainingProgress
    adapter: Tensors
    optimizer: Tensors
    best: Tensors


@dataclass(frozen=True)
class Checkpoint:
    """One file, and what the run it is of was made from: parameters, data, base, packages."""

    path: Path
    identity: dict[str, Any]

    def save(self, state: CheckpointState) -> None:
        """Replace the file; a crash leaves the one before."""
        parts = {"adapter": state.adapter, "optimizer": state.optimizer, "best": state.best}
        arrays = {
            f"{part} {name}": np.array(value)
            for part, tensors in parts.items()
            for name, value in tensors.items()
        }
        about = {"identity": self.identity, "progress": asdict(state.progress)}
        about_json = json.dumps(about)
        write_bytes(
            self.path,
            to_bytes(arrays, {"about": about_json, "sha256": _digest(arrays, about_json)}),
        )

    def load(self) -> CheckpointState | None:
        """The run as it was, or None where there is none to go on with.

        Raises TrainingError where it is of another run, by what differs, or damaged.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "numpy") as file:
                metadata = file.metadata()
                plain = {name: file.get_tensor(name) for name in file.keys()}
                if _digest(plain, metadata["about"]) != metadata["sha256"]:
                    raise ValueError("its bytes are not those that were written")
                about = json.loads(metadata["about"])
                arrays = {name: mx.array(value) for name, value in plain.items()}
            identity = about["identity"]
            progress = TrainingProgress(**about["progress"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            first = one_line(error, 120)
            raise TrainingError(
                f"{self.path} is damaged ({first}); delete it to begin anew"
            ) from None
        self._check_identity(identity)
        parts: dict[str, Tensors] = {"adapter": {}, "optimizer": {}, "best": {}}
        for name, value in arrays.items():
            part, rest = name.split(" ", 1)
            parts[part][rest] = value
        return CheckpointState(progress, **parts)

    def _check_identity(self, saved_identity: dict[str, Any]) -> None:
        names = sorted(self.identity.keys() | saved_identity.keys())
        other = [name for name in names if self.identity.get(name) != saved_identity.get(name)]
        if other:
            differences = ", ".join(
                f"{n} ({_short(saved_identity.get(n))}, now {_short(self.identity.get(n))})"
                for n in other
            )
            raise TrainingError(
                f"{self.path} is of an interrupted run with other {differences}; "
                "set them back to go on with it, or delete the file to begin anew"
            )

    def remove(self) -> None:
        """The run is done and its adapter saved."""
        self.path.unlink(missing_ok=True)


def _digest(arrays: dict[str, Any], about: str) -> str:
    """sha256 of all that a checkpoint holds."""
    digest = sha256(about.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:8]}…"
