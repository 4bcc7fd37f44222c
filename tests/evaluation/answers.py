"""Answers of models, and reports on them."""

from typing import Any

import numpy as np

from mondrian.critique.prompt import build_row_messages
from mondrian.critique.rows import ChatRow
from mondrian.critique.schema import DIMENSIONS, Critique, serialize_critique
from mondrian.evaluation.generation import build_answer_record
from mondrian.model.vlm import Generation
from mondrian.sample.corruptions import replace_scores

COSTS = (
    "vision_seconds",
    "prefill_tokens_per_second",
    "first_token_seconds",
    "decode_tokens_per_second",
    "peak_memory_gb",
)


def answer_record(text: str, train_sentences: set[str] | None = None) -> dict[str, Any]:
    answer = Generation(text, (7,) * 100, seconds=0.5, ended=True, passes=100)
    return build_answer_record(answer, train_sentences or set())


def make_row(
    row_id: str, group: str, critique: Critique | None = None, overall: float = 5
) -> ChatRow:
    answer = ""
    if critique:
        answer = serialize_critique(critique.model_copy(update={"overall_score": overall}))
    return ChatRow(
        messages=build_row_messages("You are one.", answer),
        images=["x"],
        id=row_id,
        photo="",
        photo_group=group,
        prompt_hash="a" * 64,
    )


def critique_text(critique: Critique, scores: Any) -> str:
    """Return a critique with these scores, clipped to 0 to 10."""
    clipped = tuple(float(round(min(10, max(0, s)), 1)) for s in scores)
    return serialize_critique(replace_scores(critique, clipped, round(sum(clipped) / 7, 1)))


def make_report(
    critique: Critique,
    base: float,
    tuned: float,
    count: int = 20,
    blind: bool = False,
    copies: int = 1,
) -> dict[str, Any]:
    """Return a report of answers with normal score errors of these standard deviations.

    blind   the adapter's scores are those of another photo
    """
    rng = np.random.default_rng(0)
    reference = rng.uniform(1, 9, (count, 7)).round(1)

    def answer(i: int, deviation: float) -> dict[str, Any]:
        scores = reference[i] + rng.normal(0, deviation, 7)
        return answer_record(critique_text(critique, scores))

    photos = []
    for i in range(count):
        arms = {"base": answer(i, base), "fine_tuned": answer((i + blind) % count, tuned)}
        arms |= {f"{arm}_constrained": record for arm, record in arms.items()}
        photo = {
            "id": f"ansel/{i}",
            "image": "missing.png",
            "photo_group": str(i),
            "reference": {"dimensions": [d.model_dump() for d in critique.dimensions]},
            "reference_text": critique_text(critique, reference[i]),
            "reference_scores": reference[i].tolist(),
            "reference_copied": False,
            **arms,
        }
        photos += [photo] * copies
    recipe = {
        "train_rows": 60,
        "data_sha256": "d",
        "prompt_sha256": "p",
        "train_photo_groups": ["a", "b"],
    }
    return {
        "advisor": "ansel",
        "train_score_medians": dict.fromkeys(DIMENSIONS, 5.0),
        "base": {"source": "tiny", "sha256": "b"},
        "packages": {"mlx": "1"},
        "adapter": {"folder": "models/x", "version": "v", "recipe": recipe, "val_loss": 0.25},
        "photographs": photos,
        "cost": {arm: dict.fromkeys(COSTS, 100.0) for arm in ("base", "fine_tuned")},
    }
