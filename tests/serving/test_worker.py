"""Arms on one base: each row answers as its arm alone would, the base bitwise untouched."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mondrian.core.images import resize_to_fit
from mondrian.core.params import Params
from mondrian.critique.prompt import prompt_hash, row_messages
from mondrian.model import adapter
from mondrian.model.batch_generator import BatchGenerator, SamplingParams, SequenceState
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.lru_cache import LRUCache
from mondrian.model.vlm import Vlm, encode_image, next_logits, prompt_ids
from mondrian.serving.engines.ipc import BASE_ARM, GenerateRequest, LoadAdapterRequest
from mondrian.serving.worker.adapters import AdapterRegistry
from mondrian.serving.worker.model_views import adapter_bytes, merge, share_weights
from tests.service_process import make_adapter

LIMIT = 400
SIZE = (4096, 20_480)


@pytest.fixture
def arms(plain: Vlm, params: Params, tmp_path: Path) -> AdapterRegistry:
    """The base with adapters of ansel and okeefe, unmerged."""
    form = CritiqueGrammar(
        plain.processor.tokenizer, plain.model.config.text_config.vocab_size, LIMIT
    )
    found = AdapterRegistry(plain, SamplingParams(LIMIT, grammar=form), SIZE)
    for i, name in enumerate(("ansel", "okeefe")):
        folder = make_adapter(plain, tmp_path / name, name, params, seed=i + 1, size=0.02)
        told = found.load_and_verify(asked(name, folder, params))
        assert not told.fault
        assert not told.merged
    return found


def asked(name: str, folder: Path, params: Params, merge: bool = False) -> LoadAdapterRequest:
    size = {"min_pixels": SIZE[0], "max_pixels": SIZE[1]}
    return LoadAdapterRequest(
        name, str(folder), merge, prompt_hash(params.persona(name)), size, name
    )


def question(params: Params, photo: Image.Image, arm: str) -> GenerateRequest:
    picture = resize_to_fit(photo, *SIZE)
    messages = row_messages(params.persona("ansel"), "")[:-1]
    return GenerateRequest(1, arm, messages, picture.size, picture.tobytes(), 60)


def answers(decoder: BatchGenerator, rows: list[SequenceState], vlm: Vlm) -> list[str]:
    while decoder.active_sequences:
        decoder.step()
    return [row.to_generation(vlm).text for row in rows]


def test_rows_of_three_arms_in_one_step_answer_as_each_would_alone(
    arms: AdapterRegistry, params: Params, photos: list[Image.Image]
) -> None:
    names = [BASE_ARM, "ansel", "okeefe", BASE_ARM, "ansel"]
    asks = [question(params, photo, n) for photo, n in zip(photos[:5], names, strict=True)]
    alone = []
    for ask, name in zip(asks, names, strict=True):
        arm = arms.arm_by_name[name]
        decoder = arms.decoder(arm, 1)
        row, prefix, _ = arms.start_sequence(arm, ask)
        decoder.insert(row, prefix)
        alone += answers(decoder, [row], arm.vlm)
    decoder = arms.decoder(arms.arm_by_name[BASE_ARM], 5)
    rows = []
    for ask, name in zip(asks, names, strict=True):
        row, prefix, _ = arms.start_sequence(arms.arm_by_name[name], ask)
        decoder.insert(row, prefix)
        rows.append(row)
    assert answers(decoder, rows, arms.base) == alone
    assert len(set(alone)) == 5


def test_the_common_model_is_each_adapter_s_own_and_bitwise_the_base_s(
    arms: AdapterRegistry, plain: Vlm, params: Params, photos: list[Image.Image], tmp_path: Path
) -> None:
    picture = resize_to_fit(photos[0], *SIZE)
    seen = encode_image(plain, picture)
    prompt = prompt_ids(plain, row_messages(params.persona("ansel"), "")[:-1], seen)
    base = next_logits(plain, prompt, seen)
    with arms.route_tokens(arms.arm_by_name[BASE_ARM], len(prompt)):
        assert mx.array_equal(next_logits(arms.arm_by_name[BASE_ARM].vlm, prompt, seen), base)
    own = share_weights(plain.model)
    adapter.load(own, plain.hash, tmp_path / "ansel")
    wanted = next_logits(replace(plain, model=own), prompt, seen)
    with arms.route_tokens(arms.arm_by_name["ansel"], len(prompt)):
        got = next_logits(arms.arm_by_name["ansel"].vlm, prompt, seen)
    np.testing.assert_allclose(np.array(got), np.array(wanted), atol=1e-5)
    assert float(mx.abs(got - base).max()) > 0.01
    assert mx.array_equal(next_logits(plain, prompt, seen), base)


def test_merged_weights_are_the_view_s_own_and_answer_as_the_adapter(
    plain: Vlm, params: Params, photos: list[Image.Image], tmp_path: Path
) -> None:
    seen = encode_image(plain, resize_to_fit(photos[0], *SIZE))
    prompt = prompt_ids(plain, row_messages(params.persona("ansel"), "")[:-1], seen)
    folder = make_adapter(plain, tmp_path / "a", "ansel", params)
    base = next_logits(plain, prompt, seen)
    own = share_weights(plain.model)
    adapter.load(own, plain.hash, folder)
    wanted = next_logits(replace(plain, model=own), prompt, seen)
    merge(own)
    got = next_logits(replace(plain, model=own), prompt, seen)
    np.testing.assert_allclose(np.array(got), np.array(wanted), atol=2e-4)
    assert mx.array_equal(next_logits(plain, prompt, seen), base)
    form = CritiqueGrammar(
        plain.processor.tokenizer, plain.model.config.text_config.vocab_size, LIMIT
    )
    told = AdapterRegistry(plain, SamplingParams(LIMIT, grammar=form), SIZE).load_and_verify(
        asked("ansel", folder, params, True)
    )
    assert told.merged


def test_a_second_arm_takes_its_own_bytes_and_hardly_more(
    plain: Vlm, params: Params, tmp_path: Path
) -> None:
    form = CritiqueGrammar(
        plain.processor.tokenizer, plain.model.config.text_config.vocab_size, LIMIT
    )
    arms = AdapterRegistry(plain, SamplingParams(LIMIT, grammar=form), SIZE)
    folder = make_adapter(plain, tmp_path / "a", "ansel", params)
    own = adapter_bytes(adapter.load(share_weights(plain.model), plain.hash, folder))
    arms.load_and_verify(asked("ansel", folder, params))  # whatever a first time leaves behind
    arms.remove("ansel")
    arms.prune(())
    mx.clear_cache()
    before = mx.get_active_memory()
    told = arms.load_and_verify(asked("ansel", folder, params))
    assert told.bytes == own
    assert mx.get_active_memory() - before <= 1.1 * own


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f, p: (f / "adapter_model.safetensors").write_bytes(b"x"), "cannot be read"),
        (lambda f, p: (f / "recipe.json").write_text("{}"), "is damaged"),
        (lambda f, p: (f / "adapter_config.json").unlink(), "has no adapter_config.json"),
    ],
)
def test_a_damaged_adapter_is_refused_and_the_one_before_it_serves(
    arms: AdapterRegistry, params: Params, tmp_path: Path, spoil: Any, told: str
) -> None:
    before = arms.arm_by_name["ansel"]
    spoil(tmp_path / "ansel", params)
    said = arms.load_and_verify(asked("ansel", tmp_path / "ansel", params))
    assert told in said.fault
    assert "\n" not in said.fault
    assert arms.arm_by_name["ansel"] is before


def test_an_adapter_of_another_prompt_advisor_or_picture_size_is_refused(
    arms: AdapterRegistry, plain: Vlm, params: Params, tmp_path: Path
) -> None:
    good = asked("ansel", tmp_path / "ansel", params)
    for wrong, told in (
        (replace(good, prompt_hash="0" * 64), "trained on another prompt"),
        (replace(good, advisor="okeefe"), "is ansel's, not okeefe's"),
        (replace(good, pixel_bounds={"min_pixels": 1, "max_pixels": 2}), "trained with image"),
    ):
        assert told in arms.load_and_verify(wrong).fault


def test_a_prompt_that_is_known_is_salted_by_adapter_and_version(
    arms: AdapterRegistry, plain: Vlm, params: Params, photos: list[Image.Image], tmp_path: Path
) -> None:
    ask = question(params, photos[0], "ansel")

    def warm(name: str) -> bool:
        return arms.start_sequence(arms.arm_by_name[name], ask)[2]

    assert [warm("ansel"), warm("ansel"), warm(BASE_ARM), warm(BASE_ARM)] == [
        False,
        True,
        False,
        True,
    ]
    folder = make_adapter(plain, tmp_path / "v2", "ansel", params, seed=9)
    assert not arms.load_and_verify(asked("ansel", folder, params)).fault
    assert [warm("ansel"), warm("ansel"), warm(BASE_ARM)] == [False, True, True]


def test_what_was_computed_lately_is_bounded_and_the_last_is_kept() -> None:
    recent: LRUCache[bytes] = LRUCache(len, 10, 3)

    def known(key: str, size: int) -> bool:
        return recent.get(key, lambda: b"x" * size)[1]

    assert [known(key, 4) for key in ("a", "b", "a", "c")] == [False, False, True, False]
    assert not known("b", 4)  # the oldest went: 12 bytes are too many
    assert not known("large", 100)
    assert known("large", 100)
    recent.forget(lambda key: key == "large")
    assert [known(key, 1) for key in "defg"] == [False] * 4
    assert not known("d", 1)  # four values are too many
    assert known("g", 1)
