"""The model that critiques photos: base or adapter, batched, with constrained decoding."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mondrian.core.adapter_folder import adapter_version
from mondrian.core.errors import EvaluationError
from mondrian.core.gpu_errors import explain_gpu_errors
from mondrian.core.params import Params
from mondrian.critique.calibration import Calibration
from mondrian.critique.prompt import build_row_messages
from mondrian.evaluation.generation import check_memory
from mondrian.inference.critique_log import ArmName
from mondrian.inference.photo_files import PhotoFile
from mondrian.model import adapter, lora, vlm
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.device import DEVICE
from mondrian.model.generate import stream_generate
from mondrian.model.language import Features
from mondrian.model.memory_limits import set_memory_limits
from mondrian.model.provenance import (
    check_requirements,
    hash_settings,
    local_requirements,
    read_requirements,
)

_BATCHES_PER_CHUNK = 4  # photos whose features are in memory at the same time


@dataclass(frozen=True)
class Arm:
    """Which model critiques; `settings` is a hash of all that decides a critique as generated."""

    name: ArmName
    adapter: str  # version; empty for the base alone
    settings: str
    calibration: Calibration | None  # of its scores


@dataclass(frozen=True)
class CritiqueRequest:
    photo: PhotoFile
    image: Image.Image  # as the model sees it
    arms: tuple[Arm, ...]


class Critic:
    """A base, and perhaps an adapter, with the prompt of an advisor.

    adapter      folder; None for the base alone
    compare      the base critiques too
    calibration  of the adapter's scores

    Raises AdapterError if the adapter was trained with another base, prompt, schema or image size.
    """

    def __init__(
        self,
        params: Params,
        advisor: str,
        adapter: Path | None,
        compare: bool,
        calibration: Calibration | None = None,
    ) -> None:
        requirements = local_requirements(advisor, params)
        if adapter is not None:
            required = read_requirements(adapter, requirements)
            check_requirements(required, requirements, str(adapter))
        set_memory_limits(params.machine.cache_limit_gb)
        self.vlm = vlm.load(params.base.source)
        max_tokens = params.evaluate.max_new_tokens
        settings = {
            "base": self.vlm.hash,
            "prompt": requirements.prompt_sha256,
            "schema": requirements.schema_sha256,
            "image": requirements.image,
            "max_new_tokens": max_tokens,
        }
        versions: dict[ArmName, str] = {}
        if adapter is not None:
            versions["fine_tuned"] = adapter_version(adapter)
        if adapter is None or compare:
            versions["base"] = ""
        self.arms = tuple(
            Arm(
                *(name, version, hash_settings(settings | {"adapter": version})),
                calibration if version else None,
            )
            for name, version in versions.items()
        )
        self._adapter, self._is_attached = adapter, False
        self._messages = build_row_messages(params.persona(advisor), "")[:-1]
        self._batch_size = params.evaluate.batch_size
        size = self.vlm.model.config.text_config.vocab_size
        grammar = CritiqueGrammar(self.vlm.processor.tokenizer, size, max_tokens)
        self._sampling_params = SamplingParams(max_tokens, self._batch_size, grammar)

    def describe(self) -> str:
        """Return which models critique, in words."""
        base = f"base {self.vlm.source}"
        if not self._adapter:
            return base
        text = f"adapter {self._adapter}, {base}"
        if calibration := self.arms[0].calibration:
            text += ", scores calibrated"
            if calibration.unjudged:
                text += f" ({', '.join(calibration.unjudged)} not judged yet)"
        return text

    @property
    def chunk_size(self) -> int:
        """The number of photos for one call of `critique`."""
        return _BATCHES_PER_CHUNK * self._batch_size

    def critique(self, requests: Sequence[CritiqueRequest]) -> Iterator[tuple[PhotoFile, Arm, str]]:
        """Yield each photo, arm and answer as it ends.

        Raises AdapterError if the adapter has no effect, EvaluationError if memory does not
        suffice.
        """
        fix = f"lower evaluate.batch_size ({self._batch_size}); finished critiques are kept"
        with explain_gpu_errors(EvaluationError, fix):
            features = self._encode([request.image for request in requests])
            prompts = [vlm.tokenize_prompt(self.vlm, self._messages, f) for f in features]
            self._attach(prompts[0], features[0])
            for arm in self.arms:
                indices = [i for i, request in enumerate(requests) if arm in request.arms]
                chosen = [prompts[i] for i in indices], [features[i] for i in indices]
                for i, text in self._generate(arm, *chosen):
                    yield requests[indices[i]].photo, arm, text

    def _encode(self, images: list[Image.Image]) -> list[Features]:
        with_pre_merger = self._adapter is not None and adapter.adapts_merger(self._adapter)
        features = []
        for i in range(0, len(images), DEVICE.num_streams):
            group = images[i : i + DEVICE.num_streams]
            features += vlm.encode_images(self.vlm, group, with_pre_merger)
        return features

    def _attach(self, prompt: list[int], features: Features) -> None:
        if self._adapter is not None and not self._is_attached:
            adapter.load_and_verify(self.vlm, self._adapter, prompt, features)
            self._is_attached = True

    def _generate(
        self, arm: Arm, prompts: list[list[int]], features: list[Features]
    ) -> Iterator[tuple[int, str]]:
        if not prompts:
            return
        check_memory(self.vlm, prompts, self._sampling_params)
        with nullcontext() if arm.adapter else lora.disable_lora(self.vlm.model):
            completions = stream_generate(self.vlm, prompts, features, self._sampling_params)
            for i, completion in completions:
                yield i, completion.text
