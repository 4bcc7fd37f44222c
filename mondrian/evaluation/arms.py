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

from mondrian.critique.rows import ChatRow
from mondrian.model.language import Features
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import prompt_ids

ARMS = ("base", "few_shot", "fine_tuned", "shuffled")
CONSTRAINED_ARMS = {"base_constrained": "base", "fine_tuned_constrained": "fine_tuned"}
# Arms that are asked together: they share adapter, prompt and way of answering.
BATCHED_ARMS = (
    ("base",),
    ("few_shot",),
    ("fine_tuned", "shuffled"),
    ("base_constrained",),
    ("fine_tuned_constrained",),
)
ARMS_WITHOUT_ADAPTER = ("base", "few_shot", "base_constrained")  # without the adapter
_EXAMPLES = "Critiques that you wrote of other photographs:"


@dataclass(frozen=True)
class EvalPrompt:
    """A prompt and the photograph it is about; `photo_row_id` names the row whose photograph that
    is."""

    prompt: list[int]
    features: Features
    photo_row_id: str


def build_eval_prompts(
    features: FeatureCache, rows: Sequence[ChatRow], train: Sequence[ChatRow], examples: int
) -> dict[str, list[EvalPrompt]]:
    """The questions of each arm, in the order of the rows; shuffled and few_shot where they can be.

    examples  critiques of train in the prompt of few_shot; 0 for no such arm
    """
    others = pick_other_photographs(rows)
    features_by_path = {path: features.get(path) for path in {row.images[0] for row in rows}}

    def about(row: ChatRow, photo_row: ChatRow, more: str = "") -> EvalPrompt:
        system, user = row.messages[:2]
        messages = [{"role": "system", "content": system["content"] + more}, user]
        image_features = features_by_path[photo_row.images[0]]
        return EvalPrompt(
            prompt_ids(features.vlm, messages, image_features), image_features, photo_row.id
        )

    arm_questions = {"base": [about(row, row) for row in rows]}
    arm_questions["fine_tuned"] = arm_questions["base"]
    if others:
        arm_questions["shuffled"] = [
            about(row, rows[other]) for row, other in zip(rows, others, strict=True)
        ]
    if examples and train:
        examples_text = "\n".join(
            row.messages[-1]["content"] for row in pick_stratified_examples(train, examples)
        )
        arm_questions["few_shot"] = [
            about(row, row, f"\n{_EXAMPLES}\n{examples_text}") for row in rows
        ]
    return arm_questions | {
        constrained_arm: arm_questions[arm] for constrained_arm, arm in CONSTRAINED_ARMS.items()
    }


def pick_other_photographs(rows: Sequence[ChatRow]) -> list[int] | None:
    """For each row the place of one with another photograph, each used about once.

    None where all rows show the same.
    """
    if len({row.photo_group for row in rows}) < 2:
        return None
    count, others = len(rows), []
    step = count // 2
    for i, row in enumerate(rows):
        places = ((i + step + k) % count for k in range(count))
        others.append(next(p for p in places if rows[p].photo_group != row.photo_group))
    return others


def pick_stratified_examples(train: Sequence[ChatRow], count: int) -> list[ChatRow]:
    """So many rows of train, from low to high overall score, evenly apart."""
    ordered = sorted(train, key=lambda row: (row.reference_critique().overall_score, row.id))
    count = min(count, len(ordered))
    return [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]
