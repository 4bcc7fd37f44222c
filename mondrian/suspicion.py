"""Records that parse and still spoil training: what one job shows, and what only many show.

Each suspicion is a key of `link` in params.yaml, which says whether such a record is kept.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from mondrian.critique import Critique
from mondrian.jobs import Job


def of_one(job: Job, critique: Critique) -> tuple[str, ...]:
    """What one job shows by itself; names are keys of params.yaml: link."""
    found = []
    told = [*critique.scores(), critique.overall_score]
    if any(told == _example_scores(prompt) for prompt in (job.prompt, job.llm_prompt, job.sent)):
        found.append("template_scores")
    if "lora" in job.mode.lower() or job.adapter:
        found.append("made_by_adapter")
    return tuple(found)


def _example_scores(prompt: str) -> list[float]:
    """The scores of the example in a prompt, the overall one last."""
    numbers = r'"{}"\s*:\s*(\d+(?:\.\d+)?)'
    scores = re.findall(numbers.format("score"), prompt)
    overall = re.findall(numbers.format("overall_score"), prompt)
    return [float(n) for n in (*scores[:7], *overall[:1])]


def of_many(
    pictures: Sequence[int], texts: Sequence[str], critiques_per_photo: int
) -> list[tuple[str, ...]]:
    """What records show beside each other: the picture (its group) and the text of each."""
    shown, told = defaultdict(set), defaultdict(set)
    for picture, text in zip(pictures, texts, strict=True):
        shown[text].add(picture)
        told[picture].add(text)
    out = []
    for picture, text in zip(pictures, texts, strict=True):
        true = {
            "shared_text": len(shown[text]) > 1,
            "wrong_picture": len(told[picture]) > critiques_per_photo,
        }
        out.append(tuple(name for name, holds in true.items() if holds))
    return out
