"""One training run on disk: inputs, lock, checkpoint, adapter folder, metrics."""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from mondrian.core.adapter_folder import SAVED_FILES
from mondrian.core.errors import AdapterError, TrainingError
from mondrian.core.files import file_hash, open_atomic_folder, write_json
from mondrian.core.gpu_errors import explain_gpu_errors
from mondrian.core.params import MachineParams, TrainParams
from mondrian.core.training_log import write_training_log
from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.preference_rows import PreferenceRow
from mondrian.critique.rows import ChatRow
from mondrian.critique.schema import is_schema_valid
from mondrian.model import adapter, lora
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.device import DEVICE, type_name
from mondrian.model.generate import generate
from mondrian.model.lora import LoraConfig, Tensors
from mondrian.model.provenance import TRAINING_CODE, code_hash, package_versions
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import Vlm
from mondrian.training.checkpoint import CHECKPOINT_PATTERN, Checkpoint
from mondrian.training.dataset import Example, build_examples
from mondrian.training.distributed import ProcessGroup
from mondrian.training.preferences import arrange_rows, describe_pairs
from mondrian.training.progress import TrainResult, open_tracker
from mondrian.training.trainer import Trainer, TrainerServices

_MEMORY_FIX = (
    "take a setting that `python stages/train.py --plan --memory_gb GB` suggests for less memory, "
    "or lower machine.cache_limit_gb"
)


@dataclass(frozen=True)
class RunPaths:
    output: Path  # adapter folder
    metrics: Path  # train.json; train_timing.json is written next to it
    cache: Path  # of vision features and checkpoints
    name: str  # of the checkpoint folder <cache>/train/<name>

    @property
    def folder(self) -> Path:
        """Return the folder of the checkpoint, and of the best weights of a diverged run."""
        return self.cache / "train" / self.name


@dataclass(frozen=True)
class TrainingData:
    """Rows, and by name the files that a resumed run must have unchanged."""

    train: list[ChatRow]
    val: list[ChatRow]
    files: dict[str, Path]
    pairs: list[PreferenceRow] = field(default_factory=list)

    @property
    def photos(self) -> list[str]:
        return [row.images[0] for row in (*self.train, *self.val)]


@dataclass(frozen=True)
class TrainingRun:
    base: Vlm
    params: TrainParams
    machine: MachineParams
    world: ProcessGroup
    paths: RunPaths

    @explain_gpu_errors(TrainingError, _MEMORY_FIX)
    def run(self, data: TrainingData, recipe: dict[str, Any]) -> TrainResult:
        """Train an adapter or resume an interrupted run; save the adapter and its metrics.

        Photos of train are set aside if they select the epoch. Raises TrainingError if there are
        too few, or if the run diverged, with its best weights saved, or is running.
        """
        rows = arrange_rows(data.train, data.val, data.pairs, self.params)
        recipe = describe_pairs(recipe, rows[0]) if data.pairs else recipe
        data = TrainingData(*rows, data.files)
        targets = [self.paths.folder / CHECKPOINT_PATTERN, self.paths.output]
        is_main = self.world.rank == 0
        with lock_run_folder(self.paths.folder, targets) if is_main else nullcontext():
            features, train, val = self._prepare(data)
            checkpoint = Checkpoint(self.paths.folder, self._identity(data, features))
            if is_main:
                write_notes(checkpoint, train, self.params)
            result = self._train(features, train, val, checkpoint)
            try:
                if is_main:
                    self._save(features, result, val[0], recipe)
            except AdapterError as error:  # a resumed run would end the same way
                checkpoint.remove()
                raise TrainingError(f"{error}; see train.learning_rate in params.yaml") from None
            self.world.barrier()  # other ranks keep their checkpoint until the adapter is saved
            if not result.halt_reason:
                checkpoint.remove_others()
            checkpoint.remove()
        if result.halt_reason:
            epoch = result.saved_epoch()
            raise TrainingError(
                f"{result.halt_reason}; the weights of epoch {epoch['epoch']} (val loss "
                f"{epoch['val_loss']:.3f}) are in {self.paths.folder / 'best'}"
            )
        return result

    def _prepare(self, data: TrainingData) -> tuple[FeatureCache, list[Example], list[Example]]:
        max_gb, with_pre_merger = self.machine.feature_cache_gb, self.params.train_projector
        features = FeatureCache(self.base, self.paths.cache / "features", max_gb, with_pre_merger)
        if self.world.size > 1:  # each rank encodes its share; all read the common folder
            features.precompute(data.photos[self.world.rank :: self.world.size])
            self.world.barrier()
        train = build_examples(data.train, self.params, features)
        val = build_examples(data.val, self.params, features)
        return features, train, val

    def _identity(self, data: TrainingData, features: FeatureCache) -> dict[str, Any]:
        """Return what a resumed run must share with the interrupted one."""
        photo_keys = "".join(features.key(photo) for photo in data.photos)
        return {
            **{f"train.{name}": value for name, value in self.params.model_dump().items()},
            **{name: file_hash(path) for name, path in data.files.items()},
            "photos": sha256(photo_keys.encode()).hexdigest(),
            "base": self.base.hash,
            "device": DEVICE.kind,
            "float type": type_name(self.base.float_type),
            "machine.num_processes": self.world.size,
            "code": code_hash(TRAINING_CODE),
            **package_versions(),
        }

    def _train(
        self,
        features: FeatureCache,
        train: list[Example],
        val: list[Example],
        checkpoint: Checkpoint,
    ) -> TrainResult:
        kind = self.machine.tracker if self.world.rank == 0 else "none"
        tracker = open_tracker(kind, self.paths.folder / kind, self.paths.name)
        samples, max_seq_length = val[: self.params.val_samples], self.params.max_seq_length
        services = TrainerServices(
            checkpoint,
            self.machine.checkpoint_steps,
            self.world,
            tracker,
            partial(evaluate_samples, features, samples, max_seq_length) if samples else None,
        )
        try:
            return Trainer(features, train, val, self.params, services).run()
        finally:
            tracker.close()
            if self.world.rank > 0:
                lora.detach(self.base.model)

    def _save(
        self, features: FeatureCache, result: TrainResult, example: Example, recipe: dict[str, Any]
    ) -> None:
        """Save the adapter and its metrics; of a diverged run the adapter only."""
        output = self.paths.folder / "best" if result.halt_reason else self.paths.output
        save_adapter(features, result, example, recipe, output)
        if not result.halt_reason:
            write_metrics(self.paths.metrics, result.metrics(), result.timing())


def write_notes(checkpoint: Checkpoint, train: Sequence[Example], params: TrainParams) -> None:
    """Say why an interrupted run is not resumed, and that a run has no pairs."""
    if message := checkpoint.describe_other_run():
        sys.stderr.write(f"{message}\n")
    if params.method == "orpo" and not any(example.rejected for example in train):
        sys.stderr.write("train.method is orpo, and there are no pairs: training as with sft\n")


def write_metrics(path: Path, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
    """Write the metrics of a run, and next to them its times."""
    write_json(path.parent / "train_timing.json", timing)
    write_json(path, metrics)


def save_adapter(
    features: FeatureCache,
    result: TrainResult,
    example: Example,
    recipe: dict[str, Any],
    folder: Path,
) -> None:
    """Write the adapter of a run if it changes the logits of the example."""
    config = lora.make_lora_config(result.params)
    contents = AdapterContents(result.weights, config, recipe, result.log)
    write_verified_adapter(features, contents, example, folder)


@dataclass(frozen=True)
class AdapterContents:
    weights: Tensors
    config: LoraConfig
    recipe: dict[str, Any]
    log: Sequence[dict[str, Any]]


def write_verified_adapter(
    features: FeatureCache, contents: AdapterContents, example: Example, folder: Path
) -> None:
    """Write an adapter to a staging folder; rename it if it changes the example's logits.

    Raises AdapterError if it does not; `folder` is unchanged then.
    """
    vlm = features.vlm
    with open_atomic_folder(folder, SAVED_FILES) as staging:
        layers = len(vlm.model.language_model.model.layers)
        adapter.save(staging, contents.weights, contents.config, contents.recipe, layers)
        write_training_log(staging, contents.log)
        prompt = example.ids[: example.start]
        try:
            adapter.load_and_verify(vlm, staging, prompt, features.get(example.photo))
        except AdapterError as error:
            raise AdapterError(str(error).replace(str(staging), str(folder))) from None


def evaluate_samples(
    features: FeatureCache, samples: Sequence[Example], max_seq_length: int
) -> dict[str, float]:
    """Return compliance of greedy completions, and the score error of those that have scores."""
    max_new_tokens = max_seq_length - max(example.start for example in samples)
    prompts = [example.ids[: example.start] for example in samples]
    photo_features = [features.get(example.photo) for example in samples]
    completions = generate(features.vlm, prompts, photo_features, SamplingParams(max_new_tokens, 1))
    errors = []
    for example, completion in zip(samples, completions, strict=True):
        parsed = parse_critique(completion.text)
        if isinstance(parsed, ParsedCritique) and example.scores:
            errors.append(np.abs(np.subtract(parsed.critique.scores(), example.scores)).mean())
    compliance = np.mean([is_schema_valid(completion.text) for completion in completions])
    metrics = {"val_compliance": float(compliance)}
    return metrics | ({"val_score_mae": float(np.mean(errors))} if errors else {})


@contextmanager
def lock_run_folder(folder: Path, targets: Sequence[Path]) -> Iterator[None]:
    """Lock `folder` or raise TrainingError; the lock ends with the process.

    targets  files and folders written atomically, or patterns of their names: staging files of a
             killed run are removed
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout:
        raise TrainingError(
            f"another run is training in {folder}; wait for it, or stop it and run again"
        ) from None
    with lock:
        for target in targets:
            _remove_staging_files(target.resolve())
        yield


def _remove_staging_files(target: Path) -> None:
    """Remove incomplete copies of `target`; keep the old folder if the new one is missing."""
    for path in target.parent.glob(f".{target.name}.*"):
        if path.name.endswith(".old") and not target.exists():
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
