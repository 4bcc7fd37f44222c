"""The base and the adapters that serve, each verified before it generates for a client."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from operator import attrgetter
from pathlib import Path

import mlx.core as mx
from PIL import Image

from mondrian.core.adapter_folder import CONFIG_FILE, WEIGHTS_FILE, adapter_version
from mondrian.core.errors import AdapterError, MondrianError, one_line
from mondrian.core.images import resize_to_fit
from mondrian.critique.calibration import Calibration
from mondrian.critique.prompt import build_row_messages
from mondrian.critique.schema import schema_hash
from mondrian.model import adapter
from mondrian.model.batch_generator import BatchGenerator, SamplingParams, SequenceState
from mondrian.model.generate import compute_prefix_cache
from mondrian.model.hardware import available_memory
from mondrian.model.kv_cache import PrefixCache
from mondrian.model.language import Features
from mondrian.model.lru_cache import LRUCache
from mondrian.model.provenance import AdapterRequirements, check_requirements, read_requirements
from mondrian.model.vlm import Vlm, encode_image, next_logits, tokenize_prompt
from mondrian.serving.engines.base import Adapter
from mondrian.serving.engines.ipc import BASE_ARM, GenerateRequest, LoadAdapterRequest
from mondrian.serving.worker import multi_lora

_get_nbytes = attrgetter("nbytes")
_CACHE_BYTES = 1 << 30  # of image features, and again of prompt prefixes
_MAX_PHOTOS = 32  # the other arm critiques a photo again soon, or never
_MAX_PROMPTS = 64  # one for each advisor and arm
_MERGE_HEADROOM = 2  # free memory required to merge, as a multiple of the merged weights


@dataclass(frozen=True, eq=False)
class Arm:
    """The base, or one version of one adapter."""

    name: str
    version: str
    folder: str  # of the adapter; empty for the base
    vlm: Vlm  # the same object for all arms with `shared`
    shared: bool  # its sequences share steps with those of other arms
    has_merger_lora: bool = False  # it also adapts the merger, and needs the features before it
    calibration: Calibration | None = None  # of its scores

    @property
    def group(self) -> int:
        """Equal for arms with sequences that share steps."""
        return id(self.vlm)


class AdapterRegistry:
    """Arms by name. An arm may be replaced while sequences still use the old one."""

    def __init__(
        self, vlm: Vlm, sampling_params: SamplingParams, pixel_limits: tuple[int, int]
    ) -> None:
        self.sampling_params, self.base = sampling_params, vlm
        self.multi_lora = multi_lora.MultiLoRA(vlm)
        self._shared_vlm = replace(vlm, model=self.multi_lora.model)
        base = Arm(BASE_ARM, vlm.hash[:12], "", self._shared_vlm, shared=True)
        self.arm_by_name: dict[str, Arm] = {BASE_ARM: base}
        self._multi_lora_arms: set[Arm] = set()
        self._features: LRUCache[Features] = LRUCache(_get_nbytes, _CACHE_BYTES, _MAX_PHOTOS)
        self._prefixes: LRUCache[PrefixCache] = LRUCache(_prefix_bytes, _CACHE_BYTES, _MAX_PROMPTS)
        test_image = resize_to_fit(Image.linear_gradient("L").convert("RGB"), *pixel_limits)
        self._test_features = encode_image(vlm, test_image, with_pre_merger=True)
        messages = build_row_messages("You are a critic.", "")[:-1]
        self._test_prompt = tokenize_prompt(vlm, messages, self._test_features)
        self._base_logits = next_logits(vlm, self._test_prompt, self._test_features)
        mx.eval(self._base_logits, vlm.model.parameters())

    def load_and_verify(self, request: LoadAdapterRequest) -> Adapter:
        """Load and verify an adapter, then replace the arm of its name; on a fault, keep that."""
        folder = Path(request.folder)
        try:
            requirements = AdapterRequirements(
                request.advisor, request.prompt_hash, schema_hash(), request.image_size
            )
            check_requirements(read_requirements(folder, requirements), requirements, str(folder))
            version = _read_version(folder)
            arm, merged, num_bytes = self._load_checked_arm(request, folder, version)
            if _read_version(folder) != version:
                raise AdapterError(f"{folder} was written while it was read; wait")
        except (MondrianError, OSError, RuntimeError, MemoryError) as error:
            return Adapter(request.name, request.folder, "", fault=one_line(error, 400))
        self.remove(request.name)
        self.arm_by_name[request.name] = arm
        calibrated = arm.calibration is not None
        return Adapter(
            request.name, request.folder, version, merged, num_bytes, calibrated=calibrated
        )

    def _load_checked_arm(
        self, request: LoadAdapterRequest, folder: Path, version: str
    ) -> tuple[Arm, bool, int]:
        """Return the arm, whether it is merged, and the bytes that it needs."""
        model = multi_lora.share_weights(self.base.model)
        layers = adapter.load(model, self.base.hash, folder)
        vlm = replace(self.base, model=model)
        adapts_merger = any(path.startswith("visual.") for path in layers)
        calibration = request.calibration
        if calibration and calibration.adapter_version != version:
            calibration = None  # the files are newer than their evaluation
        arm = Arm(request.name, version, request.folder, vlm, False, adapts_merger, calibration)
        self._check_logits(arm, folder)
        copied_bytes = multi_lora.merged_bytes(layers)
        if request.merge and copied_bytes and _MERGE_HEADROOM * copied_bytes < available_memory():
            multi_lora.merge_lora_layers(model)
            self._check_logits(arm, folder)
            return arm, True, copied_bytes
        shared_arm = replace(arm, vlm=self._shared_vlm, shared=True, has_merger_lora=False)
        if not self.multi_lora.add_adapter(shared_arm, model):
            mx.eval(model.parameters())
            return arm, False, multi_lora.adapter_bytes(layers)
        try:
            self._check_logits(shared_arm, folder)
        except AdapterError:
            self.multi_lora.remove_adapter(shared_arm)
            raise
        self._multi_lora_arms.add(shared_arm)
        return shared_arm, False, multi_lora.adapter_bytes(layers)

    def _check_logits(self, arm: Arm, folder: Path) -> None:
        """Raise AdapterError if an arm's logits on the test image equal the base's."""
        with self.route_tokens(arm, len(self._test_prompt)):
            logits = next_logits(arm.vlm, self._test_prompt, self._test_features)
        adapter.check_logits_differ(logits, self._base_logits, folder)

    def route_tokens(self, arm: Arm, tokens: int) -> AbstractContextManager[None]:
        """Within the context, compute all tokens with one arm."""
        return self.multi_lora.assign_tokens([(arm, tokens)] if arm.shared else [])

    def remove(self, name: str) -> None:
        """Remove an arm and its prompt prefixes; its sequences may continue until `prune`."""
        if self.arm_by_name.pop(name, None):
            self._prefixes.remove(lambda key: isinstance(key, tuple) and key[0] == name)

    def encode_image(self, request: GenerateRequest) -> Features:
        """Return the image features of a request, from the cache if possible."""
        with_pre_merger = any(arm.has_merger_lora for arm in self.arm_by_name.values())
        key = (sha256(request.pixels).digest(), request.size, with_pre_merger)
        image = partial(Image.frombytes, "RGB", request.size, request.pixels)
        return self._features.get(key, lambda: encode_image(self.base, image(), with_pre_merger))[0]

    def get_prefix(self, arm: Arm, ids: Sequence[int]) -> tuple[PrefixCache, bool]:
        """Return keys and values of a prompt's first tokens, and whether they were cached."""

        def compute() -> PrefixCache:
            with self.route_tokens(arm, len(ids)):
                return compute_prefix_cache(arm.vlm, ids)

        return self._prefixes.get((arm.name, arm.version, tuple(ids)), compute)

    def start_sequence(
        self, arm: Arm, request: GenerateRequest
    ) -> tuple[SequenceState, PrefixCache, bool]:
        """Return a new sequence, its prompt prefix, and whether the prefix was cached."""
        features = self.encode_image(request)
        prompt = tokenize_prompt(arm.vlm, request.messages, features)
        image_start = prompt.index(arm.vlm.image_id)
        prefix, warm = self.get_prefix(arm, prompt[:image_start])
        sequence = SequenceState(prompt, features, image_start, self.sampling_params, request.id)
        sequence.arm = arm
        return sequence, prefix, warm

    def create_generator(self, arm: Arm, max_sequences: int) -> BatchGenerator:
        """Return a generator for an arm's sequences, and those of other arms if it is shared."""
        if arm.shared:
            return multi_lora.MultiLoRAGenerator(arm.vlm, max_sequences, self.multi_lora)
        return BatchGenerator(arm.vlm, max_sequences)

    def prune(self, used: Collection[Arm]) -> None:
        """Free the weights of arms that are removed and not in use."""
        for arm in [arm for arm in self._multi_lora_arms if arm not in used]:
            if self.arm_by_name.get(arm.name) is not arm:
                self.multi_lora.remove_adapter(arm)
                self._multi_lora_arms.discard(arm)


def _read_version(folder: Path) -> str:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder} has no {name}; copy it again, or train: dvc repro")
    return adapter_version(folder)


def _prefix_bytes(prefix: PrefixCache) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in prefix)
