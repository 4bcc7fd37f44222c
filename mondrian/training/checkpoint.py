"""Checkpoint of a training run: one file, written atomically, refused if it is of another run.

It holds the adapter, the optimizer, the best adapter so far, and the progress. Row order, dropout
and learning rate follow from seed and step, so nothing else is stored.
"""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from mondrian.core.errors import TrainingError, one_line
from mondrian.core.files import write_bytes
from mondrian.model.lora import Tensors
from mondrian.training.progress import TrainingProgress


@dataclass(frozen=True)
class CheckpointState:
    """What a checkpoint holds; `best` is empty before the end of the first epoch."""

    progress: TrainingProgress
    adapter: Tensors
    optimizer: Tensors
    best: Tensors


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    identity: dict[str, Any]  # what the run was started with: parameters, data, base, packages

    def save(self, state: CheckpointState) -> None:
        """Replace the file; after a crash the previous one is still there."""
        parts = {"adapter": state.adapter, "optimizer": state.optimizer, "best": state.best}
        arrays = {
            f"{part} {name}": np.array(value)
            for part, tensors in parts.items()
            for name, value in tensors.items()
        }
        about = json.dumps({"identity": self.identity, "progress": asdict(state.progress)})
        metadata = {"about": about, "sha256": _digest(arrays, about)}
        write_bytes(self.path, to_bytes(arrays, metadata))

    def load(self) -> CheckpointState | None:
        """Return the state, if any, or raise TrainingError if it is damaged or of another run."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "numpy") as file:
                metadata = file.metadata()
                arrays = {name: file.get_tensor(name) for name in file.keys()}
            if _digest(arrays, metadata["about"]) != metadata["sha256"]:
                raise ValueError("checksum mismatch")
            about = json.loads(metadata["about"])
            progress, identity = TrainingProgress(**about["progress"]), about["identity"]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{self.path} is damaged ({one_line(error, 120)}); delete it to start over"
            ) from None
        self._check_identity(identity)
        parts: dict[str, Tensors] = {"adapter": {}, "optimizer": {}, "best": {}}
        for key, value in arrays.items():
            part, name = key.split(" ", 1)
            parts[part][name] = mx.array(value)
        return CheckpointState(progress, **parts)

    def _check_identity(self, saved: dict[str, Any]) -> None:
        current = self.identity
        differences = [
            f"{name} ({_shorten(saved.get(name))}, now {_shorten(current.get(name))})"
            for name in sorted(current.keys() | saved.keys())
            if current.get(name) != saved.get(name)
        ]
        if differences:
            raise TrainingError(
                f"{self.path} was written with other {', '.join(differences)}; "
                "restore them to resume it, or delete the file to start over"
            )

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _digest(arrays: dict[str, Any], about: str) -> str:
    digest = sha256(about.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:8]}…"
