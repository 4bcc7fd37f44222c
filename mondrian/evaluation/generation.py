"""Questions answered: batch by batch, with a bar, and kept as they come."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from mondrian.core.errors import EvaluationError
from mondrian.evaluation.answer_cache import Answers
from mondrian.evaluation.arms import Question
from mondrian.evaluation.memory_check import check_room
from mondrian.model.batch_generator import How
from mondrian.model.generate import stream
from mondrian.model.vlm import Answer, Vlm

_NO_ROOM = ("alloc", "out of memory", "insufficient memory")  # what MLX says on its devices


def ask(vlm: Vlm, title: str, asked: Sequence[Question], how: How, told: Answers) -> list[Answer]:
    """The answer of each question; those that `told` knows are not asked again.

    title  of the questions: equal questions under another title are others

    Raises EvaluationError where memory does not suffice.
    """
    keys = [told.key(title, str(i), q.prompt, q.shown) for i, q in enumerate(asked)]
    left = [i for i, key in enumerate(keys) if told.get(key) is None]
    bar = tqdm(
        total=len(asked), initial=len(asked) - len(left), desc=title, unit="critique", leave=False
    )
    prompts, seen = [asked[i].prompt for i in left], [asked[i].seen for i in left]
    if left:
        check_room(vlm, prompts, how)
    try:
        with bar:
            for place, answer in stream(vlm, prompts, seen, how, left) if left else ():
                told.add({keys[left[place]]: answer})
                bar.update()
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not any(w in str(error).lower() for w in _NO_ROOM):
            raise
        raise EvaluationError(
            f"{title}: out of memory with {how.rows} critiques at a time; lower "
            "evaluate.batch_size and run again, what is answered is kept"
        ) from None
    return [found for key in keys if (found := told.get(key)) is not None]
