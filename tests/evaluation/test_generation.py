"""What happens where memory does not suffice, before and while answers are made."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mondrian.core.errors import EvaluationError
from mondrian.core.images import fit
from mondrian.critique.prompt import row_messages
from mondrian.evaluation import generation as asking
from mondrian.evaluation import memory_check
from mondrian.evaluation.answer_cache import Answers
from mondrian.evaluation.arms import Question
from mondrian.evaluation.generation import ask
from mondrian.model.batch_generator import How
from mondrian.model.hardware import bytes_a_row
from mondrian.model.vlm import Answer, Vlm, encode, prompt_ids


@pytest.fixture(scope="module")
def asked(tiny: Vlm, photos: list[Image.Image]) -> list[Question]:
    seen = [encode(tiny, fit(photo, 4096, 20_480)) for photo in photos[:3]]
    messages = row_messages("You are one.", "")[:-1]
    return [Question(prompt_ids(tiny, messages, one), one, str(i)) for i, one in enumerate(seen)]


def test_more_rows_than_memory_holds_are_refused_with_the_number_that_fits(
    plain: Vlm, asked: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    each = bytes_a_row(plain, 700 + max(len(q.prompt) for q in asked))
    monkeypatch.setattr(memory_check, "memory_free", lambda: 2 * each + 1)
    with pytest.raises(EvaluationError, match="lower evaluate.batch_size to 2"):
        ask(plain, "base", asked, How(700, 3), Answers(None, {}))
    monkeypatch.setattr(memory_check, "memory_free", lambda: 1000)
    with pytest.raises(EvaluationError, match="close other programs"):
        ask(plain, "base", asked, How(700, 3), Answers(None, {}))


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        (RuntimeError("[malloc] Unable to allocate 9 bytes."), EvaluationError),
        (MemoryError(), EvaluationError),
        (RuntimeError("shapes differ"), RuntimeError),
    ],
)
def test_memory_that_runs_out_is_named_and_what_was_answered_is_kept(
    plain: Vlm, asked: list[Question], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    fault: Exception, wanted: type[Exception],
) -> None:  # fmt: skip
    given = Answer("text", (1, 2), 0.1, True, 2)

    def one_then_none(*_: Any) -> Iterator[tuple[int, Answer]]:
        yield 0, given
        raise fault

    monkeypatch.setattr(asking, "stream", one_then_none)
    with pytest.raises(wanted):
        ask(plain, "base", asked, How(700, 3), Answers(tmp_path / "kept.jsonl", {}))
    known = Answers(tmp_path / "kept.jsonl", {})
    assert known.get(known.key("base", "0", asked[0].prompt, "0")) == given
    assert known.get(known.key("base", "1", asked[1].prompt, "1")) is None


@pytest.mark.slow
def test_what_is_known_is_not_asked_again(
    plain: Vlm, asked: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, kept = How(12, 2), tmp_path / "kept.jsonl"
    whole = ask(plain, "base", asked, how, Answers(kept, {}))
    lines = kept.read_text().splitlines()
    assert len(lines) == 3
    kept.write_text("\n".join([lines[1], lines[0][:40]]) + "\n")  # stopped after one
    again = ask(plain, "base", asked, how, Answers(kept, {}))
    assert [a.ids for a in again] == [a.ids for a in whole]

    def never(*_: Any) -> Iterator[Any]:
        raise AssertionError("asked again")

    monkeypatch.setattr(asking, "stream", never)
    assert ask(plain, "base", asked, how, Answers(kept, {})) == again
