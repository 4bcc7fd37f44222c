"""Questions answered: batch by batch, with a bar, and kept as they come."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from mondrian.core.errors import EvaluationError
from mondrian.evaluation.answer_cache import AnswerCache
from mondrian.evaluation.arms import EvalPrompt
from mondrian.evaluation.memory_check import check_generation_memory
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.generate import stream_generate
from mondrian.model.vlm import Generation, Vlm

_NO_ROOM = ("alloc", "out of memory", "insufficient memory")  # what MLX says on its devices


def generate_answers(
    vlm: Vlm,
    title: str,
    questions: Sequence[EvalPrompt],
    sampling_params: SamplingParams,
    cache: AnswerCache,
) -> list[Generation]:
    """The answer of each question; those that `cache` knows are not asked again.

    title  of the questions: equal questions under another title are others

    Raises EvaluationError where memory does not suffice.
    """
    keys = [cache.key(title, str(i), q.prompt, q.photo_row_id) for i, q in enumerate(questions)]
    left = [i for i, key in enumerate(keys) if cache.get(key) is None]
    bar = tqdm(
        total=len(questions),
        initial=len(questions) - len(left),
        desc=title,
        unit="critique",
        leave=False,
    )
    prompts, features = [questions[i].prompt for i in left], [questions[i].features for i in left]
    if left:
        check_generation_memory(vlm, prompts, sampling_params)
    try:
        with bar:
            for place, answer in (
                stream_generate(vlm, prompts, features, sampling_params, left) if left else ()
            ):
                cache.add({keys[left[place]]: answer})
                bar.update()
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not any(w in str(error).lower() for w in _NO_ROOM):
            raise
        raise EvaluationError(
            f"{title}: out of memory with {sampling_params.max_sequences} critiques at a time; "
            f"lower "
            "evaluate.batch_size and run again, what is answered is kept"
        ) from None
    return [cached_answer for key in keys if (cached_answer := cache.get(key)) is not None]
