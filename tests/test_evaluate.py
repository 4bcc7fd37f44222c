from pathlib import Path
from typing import Any

import pytest

from mondrian.critique import DIMENSIONS, Critique, canonical, complies
from mondrian.errors import AdapterError
from mondrian.evaluate import _alike, _judged, _same_prompt, _unseen, metrics, summary
from mondrian.forward import Features
from mondrian.prompt import row_messages
from mondrian.recipe import BaseId, Recipe
from mondrian.rows import Row
from mondrian.sample.mess import with_scores
from mondrian.vlm import Answer


def judged(text: str) -> dict[str, Any]:
    return _judged(Answer(text, tokens=100, seconds=0.5, ended=True))


def report(critique: Critique, base: list[str], tuned: list[str], wanted: list[float]) -> Any:
    photographs = [
        {"reference_scores": [w] * 7, "base": judged(b), "fine_tuned": judged(t)}
        for b, t, w in zip(base, tuned, wanted, strict=True)
    ]
    means = dict.fromkeys(DIMENSIONS, 5.0)
    return {"advisor": "ansel", "train_score_means": means, "photographs": photographs}


def scored(critique: Critique, score: float) -> str:
    return canonical(with_scores(critique, (score,) * 7, score))


def test_errors_and_bias_are_held_against_the_reference(critique: Critique) -> None:
    base = [scored(critique, 6), scored(critique, 6)]
    tuned = [scored(critique, 3), scored(critique, 8)]
    found = metrics(report(critique, base, tuned, [2, 8]))
    assert found["base"]["score_mae"] == 3
    assert found["base"]["score_bias"] == 1
    assert found["fine_tuned"]["score_mae"] == 0.5
    assert found["constant"]["score_mae"] == 3
    assert found["constant"]["score_mae_by_dimension"]["Lighting"] == 3
    assert found["base"]["tokens_per_second"] == 200


def test_a_malformed_answer_counts_against_compliance_and_holds_no_score(
    critique: Critique,
) -> None:
    tuned = ["Okay, let me look.", scored(critique, 4)]
    found = metrics(report(critique, ["", ""], tuned, [4, 4]))
    assert found["fine_tuned"]["format_compliance"] == 0.5
    assert found["fine_tuned"]["scored"] == 1
    assert found["fine_tuned"]["score_mae"] == 0
    assert found["base"]["score_mae"] is None
    assert " - " in summary("ansel", found)


def test_raw_compliance_is_judged_without_repair(critique: Critique) -> None:
    text = canonical(critique)
    assert complies(text)
    assert not complies(f"```json\n{text}\n```")
    fenced = judged(f"```json\n{text}\n```")
    assert not fenced["compliant"]
    assert fenced["scores"] == critique.scores()
    assert judged(text[:300])["fault"].startswith("truncated")


def test_answers_are_generated_together_only_where_they_are_alike() -> None:
    def seen(rows: int) -> Features:
        return Features(None, (), (rows, 5))  # type: ignore[arg-type]

    photos = [seen(4), seen(5), seen(4), seen(4)]
    batches = list(_alike([[1] * 9] * 4, photos, 2))
    assert batches == [[0, 2], [3], [1]]


def test_rows_of_another_prompt_and_of_training_are_refused() -> None:
    row = Row(
        messages=row_messages("You are one.", "{}"), images=["x"], id="ansel/1", photo="",
        photo_group="group", prompt_hash="a" * 64,
    )  # fmt: skip
    with pytest.raises(AdapterError, match="trained on another prompt"):
        _same_prompt(made("b" * 64, []), [row], Path("adapter"))
    _same_prompt(made("a" * 64, []), [row], Path("adapter"))
    with pytest.raises(AdapterError, match="was trained on the photograph of row ansel/1"):
        _unseen(made("a" * 64, ["group"]), [row], Path("adapter"))
    _unseen(made("a" * 64, ["other"]), [row], Path("adapter"))


def made(prompt: str, groups: list[str]) -> Recipe:
    return Recipe(
        advisor="ansel", base=BaseId(source="x", sha256="y"), prompt_sha256=prompt,
        train_photo_groups=groups, train_score_means=dict.fromkeys(DIMENSIONS, 5.0),
    )  # fmt: skip
