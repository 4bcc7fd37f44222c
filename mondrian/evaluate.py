"""evaluate: every arm on the same val photographs -> every answer, beside the advisor's own.

Greedy, through the chat template. mondrian/verdict.py makes numbers and a verdict of the report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)
from tqdm import tqdm

from mondrian import adapter, lora
from mondrian.answers import Answers
from mondrian.arms import Question, questions
from mondrian.critique import complies
from mondrian.errors import AdapterError
from mondrian.features import FeatureCache
from mondrian.files import files_hash, read_json
from mondrian.params import Evaluate
from mondrian.recipe import RECIPE, Recipe, code_hash, packages, read_recipe
from mondrian.recover import Recovered, recover
from mondrian.rows import Row
from mondrian.texts import sentences
from mondrian.verdict import ARMS
from mondrian.vlm import Answer, Vlm, generate, next_logits

_PLAIN = ("base", "few_shot")  # arms without the adapter


@dataclass(frozen=True)
class Data:
    """Rows to judge by, and those that were trained on: for examples, and to know copies."""

    val: Sequence[Row]
    train: Sequence[Row]


def evaluate(
    features: FeatureCache, folder: Path, data: Data, params: Evaluate, kept: Path | None = None
) -> dict[str, Any]:
    """Answers of every arm, ready for comparison_report.json.

    kept  a file that answers are kept in until `answers.forget`

    Raises AdapterError where the adapter does not fit the base or the prompt of the rows.
    """
    recipe, vlm = read_recipe(folder), features.vlm
    _same_prompt(recipe, data.val, folder)
    _unseen(recipe, data.val, folder)
    features.look([row.images[0] for row in data.val])
    asked = questions(features, data.val, data.train, params.examples)
    first = asked["base"][0]
    canary = next_logits(vlm, first.prompt, first.seen)
    adapter.load(vlm.model, vlm.hash, folder)
    vlm.model.eval()
    try:
        adapter.prove_applied(next_logits(vlm, first.prompt, first.seen), canary, folder)
        told = Answers(kept, _identity(vlm, folder, params))
        answers: dict[str, list[Answer]] = {}
        for arm in (arm for arm in ARMS if arm in asked):
            if arm in _PLAIN:
                with lora.detached(vlm.model):
                    answers[arm] = _answer_all(vlm, arm, data.val, asked[arm], params, told)
            else:
                answers[arm] = _answer_all(vlm, arm, data.val, asked[arm], params, told)
    finally:
        lora.detach(vlm.model)
    return _report(vlm, folder, recipe, data, asked, answers)


def _identity(vlm: Vlm, folder: Path, params: Evaluate) -> dict[str, Any]:
    """All that decides an answer besides its prompt."""
    return {
        "base": vlm.hash,
        "adapter": files_hash(folder, {adapter.CONFIG, adapter.WEIGHTS}),
        "max_new_tokens": params.max_new_tokens,
        "code": code_hash(),
        **packages(),
    }


def _same_prompt(recipe: Recipe, rows: Sequence[Row], folder: Path) -> None:
    for row in rows:
        if row.prompt_hash != recipe.prompt_sha256:
            raise AdapterError(
                f"{folder} was trained on another prompt (sha256 {recipe.prompt_sha256[:8]}…) "
                f"than row {row.id} has ({row.prompt_hash[:8]}…); train again: dvc repro"
            )


def _unseen(recipe: Recipe, rows: Sequence[Row], folder: Path) -> None:
    trained = set(recipe.train_photo_groups)
    for row in rows:
        if row.photo_group in trained:
            raise AdapterError(
                f"{folder} was trained on the photograph of row {row.id}; evaluate it on the val "
                "rows of the split it was trained with, or train again: dvc repro"
            )


def _answer_all(
    vlm: Vlm, arm: str, rows: Sequence[Row], asked: Sequence[Question], params: Evaluate,
    told: Answers,
) -> list[Answer]:  # fmt: skip
    keys = [told.key(arm, r.id, q.prompt, q.shown) for r, q in zip(rows, asked, strict=True)]
    left = [i for i, key in enumerate(keys) if told.get(key) is None]
    bar = tqdm(total=len(asked), initial=len(asked) - len(left), desc=arm, unit="critique")
    with bar:
        for batch in _alike(asked, left, params.batch_size):
            given = generate(
                vlm, [asked[i].prompt for i in batch], [asked[i].seen for i in batch],
                params.max_new_tokens,
            )  # fmt: skip
            told.add({keys[i]: answer for i, answer in zip(batch, given, strict=True)})
            bar.update(len(batch))
    return [answer for key in keys if (answer := told.get(key)) is not None]


def _alike(asked: Sequence[Question], left: Sequence[int], size: int) -> Iterator[list[int]]:
    """Batches whose photographs have one grid and whose prompts have one length."""
    groups = defaultdict(list)
    for i in left:
        groups[asked[i].seen.grid, len(asked[i].prompt)].append(i)
    for members in groups.values():
        for i in range(0, len(members), size):
            yield members[i : i + size]


def _report(
    vlm: Vlm, folder: Path, recipe: Recipe, data: Data, asked: dict[str, list[Question]],
    answers: dict[str, list[Answer]],
) -> dict[str, Any]:  # fmt: skip
    trained = sentences(_texts(row) for row in data.train)
    photographs = []
    for i, row in enumerate(data.val):
        reference = row.answer()
        entry: dict[str, Any] = {
            "id": row.id,
            "image": row.images[0],
            "photo_group": row.photo_group,
            "prompt_sha256": row.prompt_hash,
            "reference": reference.model_dump(mode="json"),
            "reference_text": row.messages[-1]["content"],
            "reference_scores": reference.scores(),
            "reference_copied": bool(sentences([_texts(row)]) & trained),
        }
        for arm, given in answers.items():
            entry[arm] = judged(given[i], trained) | {"shown": asked[arm][i].shown}
        photographs.append(entry)
    return {
        "advisor": recipe.advisor,
        "base": {"source": vlm.source, "sha256": vlm.hash},
        "adapter": {"folder": folder.as_posix(), "recipe": read_json(folder / RECIPE)},
        "packages": packages(),
        "train_score_means": recipe.train_score_means,
        "photographs": photographs,
    }


def _texts(row: Row) -> str:
    return "\n".join(_comments(row.messages[-1]["content"]))


def _comments(text: str) -> list[str]:
    """What an answer says in words of its own: its values, where it is a critique."""
    found = recover(text)
    if not isinstance(found, Recovered):
        return [text]
    critique = found.critique
    each = [part for d in critique.dimensions for part in (d.comment, d.recommendation)]
    return [critique.image_description, *each, critique.technical_notes]


def judged(answer: Answer, trained: set[str]) -> dict[str, Any]:
    """An answer with its scores, where it has them: raw compliance is judged without repair.

    trained  hashes of the sentences of train, for whether one was copied
    """
    found = recover(answer.text)
    scores, fault = (
        (found.critique.scores(), None)
        if isinstance(found, Recovered)
        else (None, f"{found.reason}: {found.detail}")
    )
    return {
        "text": answer.text,
        "compliant": complies(answer.text),
        "scores": scores,
        "fault": fault,
        "copied": bool(sentences(["\n".join(_comments(answer.text))]) & trained),
        "tokens": answer.tokens,
        "seconds": round(answer.seconds, 4),
        "ended": answer.ended,
    }
