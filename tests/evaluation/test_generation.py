"""What happens where memory does not suffice, before and while answers are made."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mondrian.core.errors import EvaluationError
from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import row_messages
from mondrian.evaluation import generation as asking
from mondrian.evaluation import memory_check
from mondrian.evaluation.answer_cache import AnswerCache
from mondrian.evaluation.arms import EvalPrompt
from mondrian.evaluation.generation import generate_answers
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.hardware import bytes_per_sequence
from mondrian.model.vlm import Generation, Vlm, encode_image, prompt_ids


@pytest.fixture(scope="module")
def asked(tiny: Vlm, photos: list[Image.Image]) -> list[EvalPrompt]:
    seen = [encode_image(tiny, resize_to_fit(photo, 4096, 20_480)) for photo in photos[:3]]
    messages = row_messages("You are one.", "")[:-1]
    return [EvalPrompt(prompt_ids(tiny, messages, one), one, str(i)) for i, one in enumerate(seen)]


def test_more_rows_than_memory_holds_are_refused_with_the_number_that_fits(
    base_vlm: Vlm, asked: list[EvalPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    each = bytes_per_sequence(base_vlm, 700 + max(len(q.prompt) for q in asked))
    monkeypatch.setattr(memory_check, "available_memory", lambda: 2 * each + 1)
    with pytest.raises(EvaluationError, match="lower evaluate.batch_size to 2"):
        generate_answers(base_vlm, "base", asked, SamplingParams(700, 3), AnswerCache(None, {}))
    monkeypatch.setattr(memory_check, "available_memory", lambda: 1000)
    with pytest.raises(EvaluationError, match="close other programs"):
        generate_answers(base_vlm, "base", asked, SamplingParams(700, 3), AnswerCache(None, {}))


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        (RuntimeError("[malloc] Unable to allocate 9 bytes."), EvaluationError),
        (MemoryError(), EvaluationError),
        (RuntimeError("shapes differ"), RuntimeError),
    ],
)
def test_memory_that_runs_out_is_named_and_what_was_answered_is_kept(
    base_vlm: Vlm,
    asked: list[EvalPrompt],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fault: Exception,
    wanted: type[Exception],
) -> None:
    given = Generation("text", (1, 2), 0.1, True, 2)

    def one_then_none(*_: Any) -> Iterator[tuple[int, Generation]]:
        yield 0, given
        raise fault

    monkeypatch.setattr(asking, "stream_generate", one_then_none)
    with pytest.raises(wanted):
        generate_answers(
            base_vlm,
            "base",
            asked,
            SamplingParams(700, 3),
            AnswerCache(tmp_path / "kept.jsonl", {}),
        )
    known = AnswerCache(tmp_path / "kept.jsonl", {})
    assert known.get(known.key("base", "0", asked[0].prompt, "0")) == given
    assert known.get(known.key("base", "1", asked[1].prompt, "1")) is None


@pytest.mark.slow
def test_what_is_known_is_not_asked_again(
    base_vlm: Vlm, asked: list[EvalPrompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, kept = SamplingParams(12, 2), tmp_path / "kept.jsonl"
    whole = generate_answers(base_vlm, "base", asked, how, AnswerCache(kept, {}))
    lines = kept.read_text().splitlines()
    assert len(lines) == 3
    kept.write_text("\n".join([lines[1], lines[0][:40]]) + "\n")  # stopped after one
    again = generate_answers(base_vlm, "base", asked, how, AnswerCache(kept, {}))
    assert [a.ids for a in again] == [a.ids for a in whole]

    def never(*_: Any) -> Iterator[Any]:
        raise AssertionError("asked again")

    monkeypatch.setattr(asking, "stream_generate", never)
    assert generate_answers(base_vlm, "base", asked, how, AnswerCache(kept, {})) == again
