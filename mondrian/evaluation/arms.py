"""What each arm is asked: the same photographs, with or without adapter, examples, the right one.

base        the base as it is
few_shot    the base, with critiques of train in its prompt: what one would do without training
fine_tuned  the base with the adapter
shuffled    the same, shown another photograph: if it critiques as well, it does not look

base_constrained and fine_tuned_constrained are asked what base and fine_tuned are, and held to the
schema while they answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mondrian.critique.rows import Row
from mondrian.model.language import Features
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import prompt_ids

ARMS = ("base", "few_shot", "fine_tuned", "shuffled")
CONSTRAINED = {"base_constrained": "base", "fine_tuned_constrained": "fine_tuned"}
# Arms that are asked together: they share adapter, prompt and way of answering.
TOGETHER = (
    ("base",), ("few_shot",), ("fine_tuned", "shuffled"), ("base_constrained",),
    ("fine_tuned_constrained",),
)  # fmt: skip
PLAIN = ("base", "few_shot", "base_constrained")  # without the adapter
_EXAMPLES = "Critiques that you wrote of other photographs:"


@dataclass(frozen=True)
class Question:
    """A prompt and the photograph it is about; `shown` names the row whose photograph that is."""

    prompt: list[int]
    seen: Features
    shown: str


def questions(
    features: FeatureCache, rows: Sequence[Row], train: Sequence[Row], examples: int
) -> dict[str, list[Question]]:
    """The questions of each arm, in the order of the rows; shuffled and few_shot where they can be.

    examples  critiques of train in the prompt of few_shot; 0 for no such arm
    """
    others = another_photograph(rows)
    seen = {path: features.get(path) for path in {row.images[0] for row in rows}}

    def about(row: Row, shown: Row, more: str = "") -> Question:
        system, user = row.messages[:2]
        messages = [{"role": "system", "content": system["content"] + more}, user]
        one = seen[shown.images[0]]
        return Question(prompt_ids(features.vlm, messages, one), one, shown.id)

    asked = {"base": [about(row, row) for row in rows]}
    asked["fine_tuned"] = asked["base"]
    if others:
        asked["shuffled"] = [
            about(row, rows[other]) for row, other in zip(rows, others, strict=True)
        ]
    if examples and train:
        told = "\n".join(row.messages[-1]["content"] for row in spread(train, examples))
        asked["few_shot"] = [about(row, row, f"\n{_EXAMPLES}\n{told}") for row in rows]
    return asked | {held: asked[arm] for held, arm in CONSTRAINED.items()}


def another_photograph(rows: Sequence[Row]) -> list[int] | None:
    """For each row the place of one with another photograph, each used about once.

    None where all rows show the same.
    """
    if len({row.photo_group for row in rows}) < 2:
        return None
    count, found = len(rows), []
    step = count // 2
    for i, row in enumerate(rows):
        places = ((i + step + k) % count for k in range(count))
        found.append(next(p for p in places if rows[p].photo_group != row.photo_group))
    return found


def spread(train: Sequence[Row], count: int) -> list[Row]:
    """So many rows of train, from low to high overall score, evenly apart."""
    ordered = sorted(train, key=lambda row: (row.answer().overall_score, row.id))
    count = min(count, len(ordered))
    return [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]
