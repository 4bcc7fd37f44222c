"""Generation of answers: the cache, and errors if memory does not suffice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mondrian.core.errors import EvaluationError
from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import build_row_messages
from mondrian.evaluation import generation
from mondrian.evaluation.generation import AnswerCache, generate_answers
from mondrian.evaluation.prompts import EvalPrompt
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.hardware import bytes_per_sequence
from mondrian.model.vlm import Generation, Vlm, encode_image, tokenize_prompt


@pytest.fixture(scope="module")
def prompts(tiny: Vlm, photos: list[Image.Image]) -> list[EvalPrompt]:
    features = [encode_image(tiny, resize_to_fit(photo, 4096, 20_480)) for photo in photos[:3]]
    messages = build_row_messages("You are one.", "")[:-1]
    return [
        EvalPrompt(tokenize_prompt(tiny, messages, f), f, str(i)) for i, f in enumerate(features)
    ]


def test_too_many_sequences_are_refused_with_the_number_that_fits(
    base_vlm: Vlm, prompts: list[EvalPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence_bytes = bytes_per_sequence(base_vlm, 700 + max(len(p.token_ids) for p in prompts))
    monkeypatch.setattr(generation, "available_memory", lambda: 2 * sequence_bytes + 1)
    with pytest.raises(EvaluationError, match="lower evaluate.batch_size to 2"):
        generate_answers(base_vlm, "base", prompts, SamplingParams(700, 3), AnswerCache(None, {}))
    monkeypatch.setattr(generation, "available_memory", lambda: 1000)
    with pytest.raises(EvaluationError, match="close other programs"):
        generate_answers(base_vlm, "base", prompts, SamplingParams(700, 3), AnswerCache(None, {}))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (RuntimeError("[malloc] Unable to allocate 9 bytes."), EvaluationError),
        (MemoryError(), EvaluationError),
        (RuntimeError("shapes differ"), RuntimeError),
    ],
)
def test_out_of_memory_is_named_and_finished_answers_stay_cached(
    base_vlm: Vlm,
    prompts: list[EvalPrompt],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fault: Exception,
    expected: type[Exception],
) -> None:
    answer = Generation("text", (1, 2), 0.1, True, 2)

    def fail_after_one(*_: Any) -> Iterator[tuple[int, Generation]]:
        yield 0, answer
        raise fault

    monkeypatch.setattr(generation, "stream_generate", fail_after_one)
    cache = AnswerCache(tmp_path / "answers.jsonl", {})
    with pytest.raises(expected):
        generate_answers(base_vlm, "base", prompts, SamplingParams(700, 3), cache)
    reread = AnswerCache(tmp_path / "answers.jsonl", {})
    assert reread.answers.get(reread.key("base", 0, prompts[0].token_ids, "0")) == answer
    assert reread.answers.get(reread.key("base", 1, prompts[1].token_ids, "1")) is None


@pytest.mark.device
@pytest.mark.slow
def test_cached_answers_are_not_generated_again(
    base_vlm: Vlm, prompts: list[EvalPrompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling_params, path = SamplingParams(12, 2), tmp_path / "answers.jsonl"

    def generate() -> list[Generation]:
        return generate_answers(base_vlm, "base", prompts, sampling_params, AnswerCache(path, {}))

    answers = generate()
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    path.write_text("\n".join([*lines[:2], lines[2][:40]]) + "\n")  # interrupted after one
    resumed = generate()
    assert [answer.ids for answer in resumed] == [answer.ids for answer in answers]

    def fail(*_: Any) -> Iterator[Any]:
        raise AssertionError("generated again")

    monkeypatch.setattr(generation, "stream_generate", fail)
    assert generate() == resumed
