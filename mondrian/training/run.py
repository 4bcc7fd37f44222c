"""One training session: what `train` needs from the disk, and what it leaves there.

The checkpoint of adapter NAME lies in <cache>/train/NAME until its adapter is saved; features of
photographs lie in <cache>/features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from mondrian.core.errors import AdapterError, TrainingError
from mondrian.core.files import file_hash, write_json, write_text
from mondrian.core.params import Machine, Train
from mondrian.critique.rows import ChatRow
from mondrian.model import lora
from mondrian.model.provenance import TRAINING_CODE, code_hash, package_versions
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import Vlm
from mondrian.training.checkpoint import Checkpoint
from mondrian.training.dataset import Example, build_examples
from mondrian.training.distributed import ProcessGroup
from mondrian.training.progress import TrainResult
from mondrian.training.run_lock import lock_run_folder
from mondrian.training.save_adapter import save_adapter
from mondrian.training.trackers import open_tracker
from mondrian.training.trainer import TrainerServices, train
from mondrian.training.val_generation import evaluate_samples


@dataclass(frozen=True)
class TrainingRun:
    """A base, the settings, and where things lie; name is that of the adapter's folder."""

    base: Vlm
    params: Train
    machine: Machine
    world: ProcessGroup
    cache_dir: Path
    name: str

    @property
    def folder(self) -> Path:
        """Where the checkpoint lies, and the best weights of a run that could not go on."""
        return self.cache_dir / "train" / self.name

    def run(
        self,
        rows: list[ChatRow],
        val: list[ChatRow],
        data: dict[str, Path],
        recipe: dict[str, Any],
        output: Path,
        metrics: Path,
    ) -> TrainResult:
        """Train an adapter, or go on with it; save it into `output` and its numbers at `metrics`.

        data  files that the checkpoint remembers: one whose bytes differ is refused

        Raises TrainingError where the run could not go on, its best weights saved beside the
        checkpoint, or where another run trains the same adapter.
        """
        checkpoint_path = self.folder / "checkpoint.safetensors"
        if self.world.rank > 0:
            return self._run(rows, val, data, recipe, output, metrics, checkpoint_path)
        with lock_run_folder(self.folder, [checkpoint_path, output]):
            return self._run(rows, val, data, recipe, output, metrics, checkpoint_path)

    def _run(
        self,
        rows: list[ChatRow],
        val: list[ChatRow],
        data: dict[str, Path],
        recipe: dict[str, Any],
        output: Path,
        metrics: Path,
        checkpoint_path: Path,
    ) -> TrainResult:
        limit = self.machine.feature_cache_gb
        cache = FeatureCache(
            self.base, self.cache_dir / "features", limit, self.params.train_projector
        )
        photos = [row.images[0] for row in (*rows, *val)]
        self._encode_photos_across_ranks(cache, photos)
        learn = build_examples(self.base, rows, self.params, cache)
        val_examples = build_examples(self.base, val, self.params, cache)
        photos_hash = sha256("".join(cache.key(photo) for photo in photos).encode()).hexdigest()
        checkpoint = Checkpoint(
            checkpoint_path, self._identity(data) | {"photographs": photos_hash}
        )
        result = self._train(cache, learn, val_examples, checkpoint)
        try:
            if self.world.rank == 0:
                self._save(cache, result, val_examples[0], recipe, output, metrics)
        except AdapterError as error:  # going on with it would end the same way
            checkpoint.remove()
            raise TrainingError(f"{error}; see train.learning_rate in params.yaml") from None
        self.world.sum_numbers(
            0.0
        )  # the others' copies of the checkpoint outlive the adapter's saving
        checkpoint.remove()
        if result.halt_reason:
            best = result.select_epoch(self.params)
            raise TrainingError(
                f"{result.halt_reason}; the weights of epoch {best['epoch']} (val loss "
                f"{best['val_loss']:.3f}) are in {self.folder / 'best'}"
            )
        return result

    def _save(
        self,
        cache: FeatureCache,
        result: TrainResult,
        canary: Example,
        recipe: dict[str, Any],
        output: Path,
        metrics: Path,
    ) -> None:
        """The adapter, and unless it is one of a halted run its numbers."""
        if result.halt_reason:
            save_adapter(cache, result, self.params, canary, recipe, self.folder / "best")
            return
        save_adapter(cache, result, self.params, canary, recipe, output)
        for part in ("train_loss", "val_loss"):
            write_text(metrics.parent / f"{part}.csv", result.loss_csv(part))
        write_json(metrics, result.metrics(self.params))

    def _encode_photos_across_ranks(self, cache: FeatureCache, paths: list[str]) -> None:
        """Each rank runs the tower on its share; the others find it in the folder they share."""
        if self.world.size > 1:
            cache.precompute(paths[self.world.rank :: self.world.size])
            self.world.sum_numbers(0.0)  # wait for each other

    def _train(
        self, cache: FeatureCache, learn: list[Example], val: list[Example], checkpoint: Checkpoint
    ) -> TrainResult:
        kind = self.machine.tracker if self.world.rank == 0 else "none"
        tracker = open_tracker(kind, self.folder / kind, self.name)
        count = self.params.val_samples
        look = (
            partial(evaluate_samples, cache, val, count, self.params.max_seq_length)
            if count
            else None
        )
        save_every = self.machine.checkpoint_steps
        try:
            return train(
                cache,
                learn,
                val,
                self.params,
                TrainerServices(checkpoint, save_every, self.world, tracker, look),
            )
        finally:
            tracker.close()
            if self.world.rank > 0:
                lora.detach(self.base.model)

    def _identity(self, data: dict[str, Path]) -> dict[str, Any]:
        """What a run has to share with one that it goes on with."""
        return {
            **{f"train.{name}": value for name, value in self.params.model_dump().items()},
            **{name: file_hash(path) for name, path in data.items()},
            "base": self.base.hash,
            "machine.num_processes": self.world.size,
            "code": code_hash(TRAINING_CODE),
            **package_versions(),
        }
