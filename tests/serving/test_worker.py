"""Arms on one base: each generates as it would alone, and the base stays bitwise the same."""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mondrian.core.images import resize_to_fit
from mondrian.core.params import Params
from mondrian.critique.prompt import build_row_messages, prompt_hash
from mondrian.model import adapter
from mondrian.model.batch_generator import BatchGenerator, SamplingParams, SequenceState
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.lru_cache import LRUCache
from mondrian.model.vlm import Vlm, encode_image, next_logits, tokenize_prompt
from mondrian.serving.engines.ipc import BASE_ARM, GenerateRequest, LoadAdapterRequest
from mondrian.serving.worker.adapters import AdapterRegistry
from mondrian.serving.worker.multi_lora import adapter_bytes, merge_lora_layers, share_weights
from tests.service_process import make_adapter
from tests.tolerances import by_type, to_numpy

LIMIT = 400  # tokens
PIXELS = (4096, 20_480)


@pytest.fixture
def base_only(base_vlm: Vlm) -> AdapterRegistry:
    vocab_size = base_vlm.model.config.text_config.vocab_size
    grammar = CritiqueGrammar(base_vlm.processor.tokenizer, vocab_size, LIMIT)
    return AdapterRegistry(base_vlm, SamplingParams(LIMIT, grammar=grammar), PIXELS)


@pytest.fixture
def adapters(
    base_only: AdapterRegistry, base_vlm: Vlm, params: Params, tmp_path: Path
) -> AdapterRegistry:
    """The base with unmerged adapters of ansel and okeefe."""
    for i, name in enumerate(("ansel", "okeefe")):
        folder = make_adapter(base_vlm, tmp_path / name, name, params, seed=i + 1, size=0.02)
        loaded = base_only.load_and_verify(load_request(name, folder, params))
        assert not loaded.fault
        assert not loaded.merged
    return base_only


def load_request(
    name: str, folder: Path, params: Params, merge: bool = False
) -> LoadAdapterRequest:
    pixel_bounds = {"min_pixels": PIXELS[0], "max_pixels": PIXELS[1]}
    prompt = prompt_hash(params.persona(name))
    return LoadAdapterRequest(name, str(folder), merge, prompt, pixel_bounds, name)


def generate_request(params: Params, photo: Image.Image, arm: str) -> GenerateRequest:
    image = resize_to_fit(photo, *PIXELS)
    messages = build_row_messages(params.persona("ansel"), "")[:-1]
    return GenerateRequest(1, arm, messages, image.size, image.tobytes(), 60)


def generate(decoder: BatchGenerator, sequences: list[SequenceState], vlm: Vlm) -> list[str]:
    while decoder.active_sequences:
        decoder.step()
    return [sequence.to_generation(vlm).text for sequence in sequences]


@pytest.mark.slow
@pytest.mark.device
def test_sequences_of_three_arms_in_one_step_are_the_same_as_alone(
    adapters: AdapterRegistry, params: Params, photos: list[Image.Image]
) -> None:
    names = [BASE_ARM, "ansel", "okeefe", BASE_ARM, "ansel"]
    arms = [adapters.arm_by_name[name] for name in names]
    requests = [
        generate_request(params, photo, name) for photo, name in zip(photos[:5], names, strict=True)
    ]
    alone = []
    for arm, request in zip(arms, requests, strict=True):
        decoder = adapters.create_generator(arm, 1)
        sequence, prefix, _ = adapters.start_sequence(arm, request)
        decoder.insert(sequence, prefix)
        alone += generate(decoder, [sequence], arm.vlm)
    decoder = adapters.create_generator(adapters.arm_by_name[BASE_ARM], 5)
    sequences = []
    for arm, request in zip(arms, requests, strict=True):
        sequence, prefix, _ = adapters.start_sequence(arm, request)
        decoder.insert(sequence, prefix)
        sequences.append(sequence)
    assert generate(decoder, sequences, adapters.base) == alone
    assert len(set(alone)) == 5


@pytest.mark.device
def test_the_shared_model_computes_each_adapter_and_bitwise_the_base(
    adapters: AdapterRegistry,
    base_vlm: Vlm,
    params: Params,
    photos: list[Image.Image],
    tmp_path: Path,
) -> None:
    features = encode_image(base_vlm, resize_to_fit(photos[0], *PIXELS))
    prompt = tokenize_prompt(
        base_vlm, build_row_messages(params.persona("ansel"), "")[:-1], features
    )
    base_logits = next_logits(base_vlm, prompt, features)
    base_arm, ansel_arm = (adapters.arm_by_name[name] for name in (BASE_ARM, "ansel"))
    with adapters.route_tokens(base_arm, len(prompt)):
        assert mx.array_equal(next_logits(base_arm.vlm, prompt, features), base_logits)
    view = share_weights(base_vlm.model)
    adapter.load(view, base_vlm.hash, tmp_path / "ansel")
    expected = next_logits(replace(base_vlm, model=view), prompt, features)
    with adapters.route_tokens(ansel_arm, len(prompt)):
        logits = next_logits(ansel_arm.vlm, prompt, features)
    assert np.abs(to_numpy(logits) - to_numpy(expected)).max() < by_type(1e-5, 0.02, 0.2)
    assert float(mx.abs(logits - base_logits).max()) > 0.01
    assert mx.array_equal(next_logits(base_vlm, prompt, features), base_logits)


@pytest.mark.device
def test_merged_weights_belong_to_the_view_and_compute_the_adapter(
    base_only: AdapterRegistry,
    base_vlm: Vlm,
    params: Params,
    photos: list[Image.Image],
    tmp_path: Path,
) -> None:
    features = encode_image(base_vlm, resize_to_fit(photos[0], *PIXELS))
    prompt = tokenize_prompt(
        base_vlm, build_row_messages(params.persona("ansel"), "")[:-1], features
    )
    folder = make_adapter(base_vlm, tmp_path / "a", "ansel", params)
    base_logits = next_logits(base_vlm, prompt, features)
    view = share_weights(base_vlm.model)
    adapter.load(view, base_vlm.hash, folder)
    expected = next_logits(replace(base_vlm, model=view), prompt, features)
    merge_lora_layers(view)
    logits = next_logits(replace(base_vlm, model=view), prompt, features)
    assert np.abs(to_numpy(logits) - to_numpy(expected)).max() < by_type(2e-4, 0.02, 0.2)
    assert mx.array_equal(next_logits(base_vlm, prompt, features), base_logits)
    assert base_only.load_and_verify(load_request("ansel", folder, params, merge=True)).merged


@pytest.mark.device
def test_an_adapter_needs_hardly_more_memory_than_its_own_weights(
    base_only: AdapterRegistry, base_vlm: Vlm, params: Params, tmp_path: Path
) -> None:
    folder = make_adapter(base_vlm, tmp_path / "a", "ansel", params)
    own_bytes = adapter_bytes(adapter.load(share_weights(base_vlm.model), base_vlm.hash, folder))
    growths = []
    for _ in range(4):  # the first has one-time allocations, and another test's arrays may end late
        gc.collect()
        mx.clear_cache()  # else a larger buffer may be reused, which counts as a whole
        before = mx.get_active_memory()
        loaded = base_only.load_and_verify(load_request("ansel", folder, params))
        assert loaded.bytes == own_bytes
        gc.collect()
        growths.append(mx.get_active_memory() - before)
        base_only.remove("ansel")
        base_only.prune(())
    assert 0 < sorted(growths)[1] <= 1.1 * own_bytes


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "cannot be read"),
        (lambda folder: (folder / "recipe.json").write_text("{}"), "is damaged"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
    ],
)
def test_a_damaged_adapter_is_rejected_and_the_previous_one_serves(
    adapters: AdapterRegistry, params: Params, tmp_path: Path, damage: Any, message: str
) -> None:
    before = adapters.arm_by_name["ansel"]
    damage(tmp_path / "ansel")
    rejected = adapters.load_and_verify(load_request("ansel", tmp_path / "ansel", params))
    assert message in rejected.fault
    assert "\n" not in rejected.fault
    assert adapters.arm_by_name["ansel"] is before


def test_an_adapter_of_another_prompt_advisor_or_image_size_is_rejected(
    adapters: AdapterRegistry, params: Params, tmp_path: Path
) -> None:
    request = load_request("ansel", tmp_path / "ansel", params)
    for other, message in (
        (replace(request, prompt_hash="0" * 64), "trained on another prompt"),
        (replace(request, advisor="okeefe"), "is ansel's, not okeefe's"),
        (replace(request, image_size={"min_pixels": 1, "max_pixels": 2}), "trained with image"),
    ):
        assert message in adapters.load_and_verify(other).fault


def test_a_cached_prompt_is_used_only_by_its_adapter_and_version(
    adapters: AdapterRegistry,
    base_vlm: Vlm,
    params: Params,
    photos: list[Image.Image],
    tmp_path: Path,
) -> None:
    request = generate_request(params, photos[0], "ansel")

    def is_warm(name: str) -> bool:
        return adapters.start_sequence(adapters.arm_by_name[name], request)[2]

    names = ["ansel", "ansel", BASE_ARM, BASE_ARM]
    assert [is_warm(name) for name in names] == [False, True, False, True]
    folder = make_adapter(base_vlm, tmp_path / "v2", "ansel", params, seed=9)
    assert not adapters.load_and_verify(load_request("ansel", folder, params)).fault
    assert [is_warm("ansel"), is_warm("ansel"), is_warm(BASE_ARM)] == [False, True, True]


def test_a_cache_is_bounded_and_keeps_its_last_value() -> None:
    cache: LRUCache[bytes] = LRUCache(len, 10, 3)

    def is_cached(key: str, size: int) -> bool:
        return cache.get(key, lambda: b"x" * size)[1]

    assert [is_cached(key, 4) for key in ("a", "b", "a", "c")] == [False, False, True, False]
    assert not is_cached("b", 4)  # evicted as the oldest: 12 bytes are too many
    assert not is_cached("large", 100)
    assert is_cached("large", 100)
    cache.remove(lambda key: key == "large")
    assert [is_cached(key, 1) for key in "defg"] == [False] * 4
    assert not is_cached("d", 1)  # evicted: four values are too many
    assert is_cached("g", 1)


@pytest.mark.device
def test_a_photo_for_another_advisor_needs_no_vision_pass_and_gives_the_same_bits(
    base_only: AdapterRegistry,
    params: Params,
    photos: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[Image.Image] = []

    def encode_and_count(vlm: Vlm, image: Image.Image, with_pre_merger: bool) -> Any:
        encoded.append(image)
        return encode_image(vlm, image, with_pre_merger)

    monkeypatch.setattr("mondrian.serving.worker.adapters.encode_image", encode_and_count)
    arm = base_only.arm_by_name[BASE_ARM]
    image = resize_to_fit(photos[0], *PIXELS)
    logits: dict[str, list[mx.array]] = {}
    for is_cached in (False, True):
        for advisor in ("ansel", "okeefe"):
            if not is_cached:
                base_only._features.remove(lambda _: True)
            messages = build_row_messages(params.persona(advisor), "")[:-1]
            request = GenerateRequest(1, BASE_ARM, messages, image.size, image.tobytes(), 60)
            sequence, _, _ = base_only.start_sequence(arm, request)
            prompt = tokenize_prompt(arm.vlm, messages, sequence.features)
            with base_only.route_tokens(arm, len(prompt)):
                row = next_logits(arm.vlm, prompt, sequence.features)
            logits.setdefault(advisor, []).append(row)
    assert len(encoded) == 2  # each without the cache, none with it
    for computed, cached in logits.values():
        assert mx.array_equal(computed, cached)
    assert not mx.array_equal(logits["ansel"][0], logits["okeefe"][0])
