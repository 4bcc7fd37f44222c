"""Self-test on mondrian-tiny: train two steps, resume a killed run, generate a critique.

The first process trains until it kills itself in the second step; the second process resumes from
the checkpoint of the first step and compares.
"""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import mlx.core as mx
import numpy as np

from mondrian.core.images import resize_to_fit
from mondrian.core.params import TrainParams, load_params
from mondrian.critique.rows import ChatRow
from mondrian.critique.schema import is_schema_valid
from mondrian.doctor.check import REPORT_ADVICE, Check
from mondrian.model import lora, vlm
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.device import DEVICE
from mondrian.model.generate import generate
from mondrian.model.lora import Tensors
from mondrian.model.memory_limits import set_memory_limits
from mondrian.model.vision_cache import FeatureCache
from mondrian.sample.chat_row import build_chat_row
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique
from mondrian.training.checkpoint import Checkpoint
from mondrian.training.dataset import Example, build_examples
from mondrian.training.progress import Tracker, TrainResult
from mondrian.training.trainer import Trainer, TrainerServices

_SEED = 21  # of the rendered scenes
_ROWS = 5  # the last one is for validation
_PERSONA = "You are a teacher of photography."
_PIXELS = (4096, 20_480)
_MAX_NEW_TOKENS = 700
_GPU_TOLERANCE = 1e-2  # relative to the update; sums on a GPU have no fixed order
_SETTINGS: dict[str, Any] = dict(  # a short run; these values replace those of params.yaml
    **dict(lora_r=16, lora_alpha=32, num_layers=0, dora=False, train_projector=False),
    **dict(epochs=1, batch_size=2, gradient_accumulation_steps=1, learning_rate=2.0e-3),
    **dict(warmup_ratio=0.0, max_seq_length=2048, save_weights="last", compile=False),
    **dict(early_stopping_patience=0, val_samples=0, gradient_checkpointing=False),
)


@dataclass(frozen=True)
class SelfTest:
    """The base in one type, and rows of rendered photos in `folder`."""

    features: FeatureCache
    examples: list[Example]
    params: TrainParams
    folder: Path

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.folder, {"type": str(self.features.vlm.float_type)})

    def train(
        self,
        checkpoint: Checkpoint | None = None,
        log: Callable[[dict[str, Any]], None] = lambda entry: None,
    ) -> TrainResult:
        """Train two steps; a checkpoint is saved after each of them."""
        lora.detach(self.features.vlm.model)
        services = TrainerServices(checkpoint, save_every=1, tracker=Tracker(log))
        train, val = self.examples[:-1], self.examples[-1:]
        return Trainer(self.features, train, val, self.params, services).run()


def prepare(project: Path, folder: Path) -> SelfTest:
    """Load mondrian-tiny, render photos and encode them."""
    params = load_params(project / "params.yaml")
    set_memory_limits(params.machine.cache_limit_gb)
    train_params = params.train.model_copy(update=_SETTINGS)
    features = FeatureCache(vlm.load(str(project / "models/base/mondrian-tiny")), None, 0)
    rows = [_make_row(folder, i) for i in range(_ROWS)]
    return SelfTest(features, build_examples(rows, train_params, features), train_params, folder)


def _make_row(folder: Path, index: int) -> ChatRow:
    scene, path = draw_scene(_SEED, index), folder / f"{index}.png"
    resize_to_fit(render(scene), *_PIXELS).save(path)
    return build_chat_row(write_critique("ansel", scene), path, _PERSONA)


def train_until_killed(test: SelfTest) -> None:
    """Train; kill this process in the second step, before its checkpoint."""

    def kill_in_second_step(entry: dict[str, Any]) -> None:
        if entry["step"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    test.train(test.checkpoint(), kill_in_second_step)


def run_checks(test: SelfTest) -> Iterator[Check]:
    """Yield the checks of the second process."""
    started = perf_counter()
    result = test.train()
    yield check_steps(result, perf_counter() - started)
    repeated = compare(test.train().weights, result.weights)
    yield check_equality("repeat", repeated, np.inf if DEVICE.is_gpu else 0.0)
    yield check_resumed(test, result, repeated)  # its adapter stays attached
    yield check_adapter(test)
    yield check_critique(test)


def check_steps(result: TrainResult, seconds: float) -> Check:
    losses = " → ".join(f"{entry['loss']:.4f}" for entry in result.log if "loss" in entry)
    memory = f"peak {result.peak_gb:.2f} GB"
    return Check("two steps", f"loss {losses}, {seconds:.1f} s, {memory}")


@dataclass(frozen=True)
class Difference:
    """Between the weights of two runs: largest absolute, and that of lora_B relative to it."""

    absolute: float
    relative: float


def compare(weights: Tensors, reference: Tensors) -> Difference:
    """Return how much two adapters differ; lora_B starts at zero, so it is the whole update."""
    differences = {name: np.array(weights[name] - value) for name, value in reference.items()}
    updates = [name for name in reference if "lora_B" in name]
    length = sum(float(np.square(np.array(reference[name])).sum()) for name in updates)
    distance = sum(float(np.square(differences[name]).sum()) for name in updates)
    absolute = max(float(np.abs(value).max()) for value in differences.values())
    return Difference(absolute, (distance / length) ** 0.5)


def check_resumed(test: SelfTest, reference: TrainResult, repeated: Difference) -> Check:
    """Resume the killed run; on a GPU it may differ as two equal runs do, but not much more."""
    name, checkpoint = "kill, resume", test.checkpoint()
    state = checkpoint.load()
    if state is None or state.progress.step != 1:
        return Check(name, "no checkpoint of the first step", "failed", REPORT_ADVICE)
    resumed = test.train(checkpoint)
    tolerance = max(_GPU_TOLERANCE, 10 * repeated.relative) if DEVICE.is_gpu else 0.0
    return check_equality(name, compare(resumed.weights, reference.weights), tolerance)


def check_equality(name: str, difference: Difference, tolerance: float) -> Check:
    """Check that two runs gave the same bytes, or an update within a relative tolerance."""
    if difference.absolute == 0:
        return Check(name, "the same bytes")
    sizes = f"{difference.absolute:.0e}, relative to the update {difference.relative:.0e}"
    if difference.relative <= tolerance:
        return Check(name, f"equal to {sizes}")
    return Check(name, f"differs by {sizes}", "failed", REPORT_ADVICE)


def check_adapter(test: SelfTest) -> Check:
    """Check that the attached adapter changes the logits of a prompt."""
    base, example = test.features.vlm, test.examples[-1]
    inputs = (base, example.ids[: example.start], test.features.get(example.photo))
    base.model.eval()
    adapted = vlm.next_logits(*inputs).astype(mx.float32)
    with lora.disable_lora(base.model):
        difference = vlm.next_logits(*inputs).astype(mx.float32) - adapted
        change = float(mx.abs(difference).max())
    if np.isfinite(change) and change > 0:
        return Check("adapter", f"changes logits by up to {change:.3f}")
    return Check("adapter", f"changes logits by {change}", "failed", REPORT_ADVICE)


def check_critique(test: SelfTest) -> Check:
    """Check that a constrained critique by the adapter is schema-valid."""
    base, example = test.features.vlm, test.examples[-1]
    vocabulary_size = base.model.config.text_config.vocab_size
    grammar = CritiqueGrammar(base.processor.tokenizer, vocabulary_size, _MAX_NEW_TOKENS)
    sampling_params = SamplingParams(_MAX_NEW_TOKENS, 1, grammar)
    prompt, photo = example.ids[: example.start], test.features.get(example.photo)
    completion = generate(base, [prompt], [photo], sampling_params)[0]
    rate = completion.num_tokens / completion.seconds
    result = f"{completion.num_tokens} tokens, {rate:.0f} tokens/s"
    if is_schema_valid(completion.text):
        return Check("critique", f"schema-valid, {result}")
    problem = f"not schema-valid: {completion.text[:40]!r}"
    return Check("critique", problem, "failed", REPORT_ADVICE)
