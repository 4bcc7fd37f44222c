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
    """A prompt, the features of its photo, and the id of the photo's row."""

    token_ids: list[int]
    features: Features
    row_id: str


ArmPrompts = dict[str, list[EvalPrompt]]


def build_eval_prompts(
    features: FeatureCache, rows: Sequence[ChatRow], train: Sequence[ChatRow], num_examples: int
) -> ArmPrompts:
    """Return the prompts by arm, in row order; few_shot needs examples."""
    features_by_path = {path: features.get(path) for path in {row.images[0] for row in rows}}

    def build(row: ChatRow, system_suffix: str = "") -> EvalPrompt:
        system, user = row.messages[:2]
        messages = [{"role": "system", "content": system["content"] + system_suffix}, user]
        photo = features_by_path[row.images[0]]
        return EvalPrompt(tokenize_prompt(features.vlm, messages, photo), photo, row.id)

    prompts = {"base": [build(row) for row in rows]}
    prompts["fine_tuned"] = prompts["base"]
    if examples := pick_stratified_examples(train, num_examples):
        suffix = "\n".join(["", _EXAMPLES, *(row.messages[-1]["content"] for row in examples)])
        prompts["few_shot"] = [build(row, suffix) for row in rows]
    return prompts | {name: prompts[arm] for name, arm in CONSTRAINED_ARMS.items()}


def pick_stratified_examples(train: Sequence[ChatRow], count: int) -> list[ChatRow]:
    """Return rows of train with scores, evenly spaced from low to high overall score."""
    scored = [row for row in train if row.scored]
    ordered = sorted(scored, key=lambda row: (row.reference_critique().overall_score, row.id))
    count = min(count, len(ordered))
    return [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]
