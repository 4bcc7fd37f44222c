"""Prompts of the evaluation arms, in the order of the rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from mondrian.critique.rows import ChatRow
from mondrian.evaluation.arms import CONSTRAINED_ARMS
from mondrian.model.language import Features
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import tokenize_prompt

_EXAMPLES = "Critiques that you wrote of other photographs:"


@dataclass(frozen=True)
class EvalPrompt:
    """A prompt and the features of its photo; `photo_row_id` is the row that the photo is from."""

    token_ids: list[int]
    features: Features
    photo_row_id: str


ArmPrompts = dict[str, list[EvalPrompt]]


def build_eval_prompts(
    features: FeatureCache, rows: Sequence[ChatRow], train: Sequence[ChatRow], num_examples: int
) -> ArmPrompts:
    """Return the prompts by arm, in row order; shuffled needs two photos, few_shot examples."""
    features_by_path = {path: features.get(path) for path in {row.images[0] for row in rows}}

    def build(row: ChatRow, photo_row: ChatRow, system_suffix: str = "") -> EvalPrompt:
        system, user = row.messages[:2]
        messages = [{"role": "system", "content": system["content"] + system_suffix}, user]
        photo = features_by_path[photo_row.images[0]]
        return EvalPrompt(tokenize_prompt(features.vlm, messages, photo), photo, photo_row.id)

    prompts = {"base": [build(row, row) for row in rows]}
    prompts["fine_tuned"] = prompts["base"]
    if others := pick_other_photos(rows):
        prompts["shuffled"] = [build(row, rows[i]) for row, i in zip(rows, others, strict=True)]
    if examples := pick_stratified_examples(train, num_examples):
        suffix = "\n".join(["", _EXAMPLES, *(row.messages[-1]["content"] for row in examples)])
        prompts["few_shot"] = [build(row, row, suffix) for row in rows]
    return prompts | {name: prompts[arm] for name, arm in CONSTRAINED_ARMS.items()}


def pick_other_photos(rows: Sequence[ChatRow]) -> list[int] | None:
    """Return for each row a row with another photo, each about once; None if all show the same."""
    if len({row.photo_group for row in rows}) < 2:
        return None
    count = len(rows)
    others = []
    for i, row in enumerate(rows):
        candidates = ((i + count // 2 + k) % count for k in range(count))
        others.append(next(j for j in candidates if rows[j].photo_group != row.photo_group))
    return others


def pick_stratified_examples(train: Sequence[ChatRow], count: int) -> list[ChatRow]:
    """Return rows of train with scores, evenly spaced from low to high overall score."""
    scored = [row for row in train if row.scored]
    ordered = sorted(scored, key=lambda row: (row.reference_critique().overall_score, row.id))
    count = min(count, len(ordered))
    return [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]
