"""Checkpoint of a training run: one file, written atomically, named after what the run is.

It holds the adapter, the optimizer, the best adapter so far, and the progress. Row order, dropout
and learning rate follow from seed and step, so nothing else is stored. A run with another setting
has another file: it starts over, and the latest earlier checkpoint stays until it has an adapter.
"""

import json
from collections.abc import Iterable
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
from mondrian.model.provenance import describe_differences, hash_settings
from mondrian.training.progress import TrainingProgress

CHECKPOINT_PATTERN = "checkpoint*.safetensors"
_DAMAGE = (
    *(SafetensorError, OSError, ValueError, KeyError, TypeError),
    *(AttributeError, RecursionError),  # JSON of another shape, or nested too deeply
)


@dataclass(frozen=True)
class CheckpointState:
    """What a checkpoint holds; `best` is empty before the end of the first epoch."""

    progress: TrainingProgress
    adapter: Tensors
    optimizer: Tensors
    best: Tensors


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    identity: dict[str, Any]  # what the run was started with: parameters, data, base, packages

    @property
    def path(self) -> Path:
        return self.folder / f"checkpoint-{hash_settings(self.identity)[:12]}.safetensors"

    def save(self, state: CheckpointState) -> None:
        """Replace the file; after a crash the previous one is still there.

        Of the checkpoints of other runs the latest stays.
        """
        parts = {"adapter": state.adapter, "optimizer": state.optimizer, "best": state.best}
        arrays = {
            f"{part} {name}": np.array(value)
            for part, tensors in parts.items()
            for name, value in tensors.items()
        }
        about = json.dumps({"identity": self.identity, "progress": asdict(state.progress)})
        metadata = {"about": about, "sha256": _digest(arrays, about)}
        write_bytes(self.path, to_bytes(arrays, metadata))
        self._remove(self._other_paths_by_age()[:-1])

    def load(self) -> CheckpointState | None:
        """Return the state, if any, or raise TrainingError if it is damaged."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "numpy") as file:
                metadata = file.metadata()
                arrays = {name: file.get_tensor(name) for name in file.keys()}
            if _digest(arrays, metadata["about"]) != metadata["sha256"]:
                raise ValueError("checksum mismatch")
            progress = TrainingProgress(**json.loads(metadata["about"])["progress"])
        except _DAMAGE as error:
            raise TrainingError(
                f"{self.path} is damaged ({one_line(error, 120)}); delete it to start over"
            ) from None
        parts: dict[str, Tensors] = {"adapter": {}, "optimizer": {}, "best": {}}
        for key, value in arrays.items():
            part, name = key.split(" ", 1)
            parts[part][name] = mx.array(value)
        return CheckpointState(progress, **parts)

    def describe_other_run(self) -> str:
        """Return a line if this run starts over because the interrupted one differs, or ""."""
        others = self._other_paths_by_age()
        if self.path.exists() or not others:
            return ""
        latest = others[-1]
        try:
            with safe_open(latest, "numpy") as file:
                about = json.loads(file.metadata()["about"])
            differences = describe_differences(about["identity"], self.identity)
            step = about["progress"]["step"]
        except _DAMAGE:
            return f"training starts over: {latest} is damaged"
        return (
            f"training starts over: the run interrupted at step {step} had other settings: "
            f"{differences}; restore them to resume it: {latest} is kept until the new "
            "adapter is saved"
        )

    def remove(self) -> None:
        self._remove([self.path])

    def remove_others(self) -> None:
        self._remove(self._other_paths())

    def _other_paths(self) -> list[Path]:
        """Return the checkpoints of runs with other settings."""
        paths = self.folder.glob(CHECKPOINT_PATTERN)
        return [path for path in paths if path != self.path and path.is_file()]

    def _other_paths_by_age(self) -> list[Path]:
        return sorted(self._other_paths(), key=lambda path: path.stat().st_mtime_ns)

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)


def _digest(arrays: dict[str, Any], about: str) -> str:
    digest = sha256(about.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
