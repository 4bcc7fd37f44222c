"""The base and every adapter that serves, each a view of it, proved before it answers anybody."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import mlx.core as mx
from PIL import Image

from mondrian.core.adapter_folder import CONFIG, WEIGHTS, adapter_version
from mondrian.core.errors import AdapterError, MondrianError, one_line
from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import row_messages
from mondrian.critique.schema import schema_hash
from mondrian.model import adapter
from mondrian.model.batch_generator import BatchGenerator, SamplingParams, SequenceState
from mondrian.model.generate import compute_prefix_cache
from mondrian.model.hardware import available_memory
from mondrian.model.kv_cache import PrefixCache
from mondrian.model.language import Features
from mondrian.model.lru_cache import LRUCache
from mondrian.model.provenance import AdapterRequirements, check_requirements, read_requirements
from mondrian.model.vlm import Vlm, encode_image, next_logits, prompt_ids
from mondrian.serving.engines.ipc import (
    BASE_ARM,
    AdapterLoadResult,
    GenerateRequest,
    LoadAdapterRequest,
)
from mondrian.serving.worker.model_views import adapter_bytes, merge, merged_bytes, share_weights
from mondrian.serving.worker.multi_lora import MultiLoRA, MultiLoRADecoder

CACHE_BYTES = 1 << 30  # bytes of features, and of prompts, that are kept at hand
MAX_CACHED_PHOTOS = 32  # that are kept: one is asked about again soon, by the other arm, or never
MAX_CACHED_PROMPTS = 64  # an advisor's, for each arm
MERGE_HEADROOM = 2  # times what merging takes that has to be left


@dataclass(frozen=True, eq=False)
class Arm:
    """Who answers: the base, or one version of one adapter.

    folder  of the adapter; empty for the base
    vlm     that all arms which take steps together have in common
    shared  whether it is one of those
    has_merger_lora     whether it is on the merger too, and wants what enters it
    """

    name: str
    version: str
    folder: str
    vlm: Vlm
    shared: bool
    has_merger_lora: bool = False

    @property
    def group(self) -> int:
        """The same for arms that take steps together."""
        return id(self.vlm)


class AdapterRegistry:
    """Arms by name; each may be replaced while rows of the one before it go on."""

    def __init__(self, vlm: Vlm, sampling_params: SamplingParams, image: tuple[int, int]) -> None:
        self.sampling_params, self.base, self.together = sampling_params, vlm, MultiLoRA(vlm)
        self._common = replace(vlm, model=self.together.model)
        self.arm_by_name: dict[str, Arm] = {
            BASE_ARM: Arm(BASE_ARM, vlm.hash[:12], "", self._common, shared=True)
        }
        self._joined: set[Arm] = set()
        self._features: LRUCache[Features] = LRUCache(
            _features_size, CACHE_BYTES, MAX_CACHED_PHOTOS
        )
        self._prompts: LRUCache[PrefixCache] = LRUCache(
            _prefix_size, CACHE_BYTES, MAX_CACHED_PROMPTS
        )
        picture = resize_to_fit(Image.linear_gradient("L").convert("RGB"), *image)
        self._canary = encode_image(vlm, picture, raw=True)
        messages = row_messages("You are a critic.", "")[:-1]
        self._prompt = prompt_ids(vlm, messages, self._canary)
        self._base_says = next_logits(vlm, self._prompt, self._canary)
        mx.eval(self._base_says, vlm.model.parameters())

    def load_and_verify(self, request: LoadAdapterRequest) -> AdapterLoadResult:
        """Load, prove and put in place; the arm of that name before it stays where this fails."""
        folder = Path(request.folder)
        try:
            here = AdapterRequirements(
                request.advisor, request.prompt_hash, schema_hash(), request.pixel_bounds
            )
            check_requirements(read_requirements(folder, here), here, str(folder))
            version = _version(folder)
            arm, merged, taken = self._load_checked_arm(request, folder, version)
            if _version(folder) != version:
                raise AdapterError(f"{folder} was being written while it was read; wait")
        except (MondrianError, OSError, RuntimeError, MemoryError) as error:
            message = one_line(error, 400)
            return AdapterLoadResult(request.name, request.folder, "", fault=message)
        self.remove(request.name)
        self.arm_by_name[request.name] = arm
        return AdapterLoadResult(request.name, request.folder, version, merged=merged, bytes=taken)

    def _load_checked_arm(
        self, request: LoadAdapterRequest, folder: Path, version: str
    ) -> tuple[Arm, bool, int]:
        """The arm, whether it is merged, and bytes that it takes."""
        model = share_weights(self.base.model)
        layers = adapter.load(model, self.base.hash, folder)
        own = replace(self.base, model=model)
        raw = any(path.startswith("visual.") for path in layers)
        alone = Arm(request.name, version, request.folder, own, shared=False, has_merger_lora=raw)
        adapter.check_adapter_changes_logits(
            self._smoke_test_logits(alone), self._base_says, folder
        )
        whole = merged_bytes(layers)
        if request.merge and whole and MERGE_HEADROOM * whole < available_memory():
            merge(model)
            adapter.check_adapter_changes_logits(
                self._smoke_test_logits(alone), self._base_says, folder
            )
            return alone, True, whole
        arm = Arm(request.name, version, request.folder, self._common, shared=True)
        if not self.together.add_adapter(arm, model):
            mx.eval(model.parameters())
            return alone, False, adapter_bytes(layers)
        try:
            adapter.check_adapter_changes_logits(
                self._smoke_test_logits(arm), self._base_says, folder
            )
        except AdapterError:
            self.together.remove_adapter(arm)
            raise
        self._joined.add(arm)
        return arm, False, adapter_bytes(layers)

    def _smoke_test_logits(self, arm: Arm) -> mx.array:
        """What an arm answers to the canary."""
        with self.route_tokens(arm, len(self._prompt)):
            return next_logits(arm.vlm, self._prompt, self._canary)

    @contextmanager
    def route_tokens(self, arm: Arm, tokens: int) -> Iterator[None]:
        """All tokens of what is computed in the context are one arm's."""
        with self.together.assign_tokens([(arm, tokens)] if arm.shared else []):
            yield

    def remove(self, name: str) -> None:
        """Forget an adapter and the prompts that it knew; rows of it may go on until `prune`."""
        if self.arm_by_name.pop(name, None):
            self._prompts.forget(lambda key: isinstance(key, tuple) and key[0] == name)

    def encode_image(self, ask: GenerateRequest) -> Features:
        """What the vision tower says of a photograph, made once."""
        raw = any(arm.has_merger_lora for arm in self.arm_by_name.values())
        key = (sha256(ask.pixels).digest(), ask.size, raw)

        def make() -> Features:
            return encode_image(self.base, Image.frombytes("RGB", ask.size, ask.pixels), raw)

        return self._features.get(key, make)[0]

    def prefix(self, arm: Arm, prompt: Sequence[int], image: int) -> tuple[PrefixCache, bool]:
        """Keys and values of a prompt up to its photograph, by this adapter in this version."""
        ids = tuple(prompt[:image])
        key = (arm.name, arm.version, ids)

        def make() -> PrefixCache:
            with self.route_tokens(arm, len(ids)):
                return compute_prefix_cache(arm.vlm, ids)

        return self._prompts.get(key, make)

    def start_sequence(
        self, arm: Arm, ask: GenerateRequest
    ) -> tuple[SequenceState, PrefixCache, bool]:
        """A row for a question, what is known of its prompt, and whether that was known before."""
        features = self.encode_image(ask)
        prompt = prompt_ids(arm.vlm, ask.messages, features)
        image = prompt.index(arm.vlm.image_id)
        prefix, warm = self.prefix(arm, prompt, image)
        row = SequenceState(prompt, features, image, self.sampling_params, ask.id)
        row.arm = arm
        return row, prefix, warm

    def decoder(self, arm: Arm, max_rows: int) -> BatchGenerator:
        """What an arm's rows take steps in, with those of other arms where it is shared."""
        if arm.shared:
            return MultiLoRADecoder(arm.vlm, max_rows, self.together)
        return BatchGenerator(arm.vlm, max_rows)

    def prune(self, used: Collection[Arm]) -> None:
        """Let the weights of arms go that serve no more and have no row left."""
        for arm in [arm for arm in self._joined if arm not in used]:
            if self.arm_by_name.get(arm.name) is not arm:
                self.together.remove_adapter(arm)
                self._joined.discard(arm)


def _version(folder: Path) -> str:
    missing = [n for n in (CONFIG, WEIGHTS) if not (folder / n).is_file()]
    if missing:
        raise AdapterError(f"{folder} has no {missing[0]}; copy it again, or train: dvc repro")
    return adapter_version(folder)


def _features_size(features: Features) -> int:
    raw = 0 if features.pre_merger is None else features.pre_merger.nbytes
    return int(features.merged.nbytes + raw + sum(level.nbytes for level in features.deep))


def _prefix_size(prefix: PrefixCache) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in prefix)
