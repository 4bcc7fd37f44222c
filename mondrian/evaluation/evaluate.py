"""evaluate: every arm on the same val photographs -> every answer, beside the advisor's own.

mondrian/evaluation/verdict.py makes numbers and a verdict of the report.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mondrian.core.errors import AdapterError
from mondrian.core.files import files_hash, read_json
from mondrian.core.images import read_photo
from mondrian.core.params import Evaluate
from mondrian.critique.rows import Row, photo_hashes
from mondrian.evaluation.answer_cache import Answers
from mondrian.evaluation.answer_record import judged, sentences_of
from mondrian.evaluation.arms import CONSTRAINED, PLAIN, TOGETHER, Question, questions
from mondrian.evaluation.consistency import again
from mondrian.evaluation.generation import ask
from mondrian.evaluation.latency import cost
from mondrian.model import adapter, lora
from mondrian.model.batch_generator import How
from mondrian.model.constrained import Form
from mondrian.model.provenance import RECIPE, Recipe, code_hash, packages, read_recipe
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import Answer, Vlm, next_logits

_MEASURED = 2  # photographs that cost is measured on


@dataclass(frozen=True)
class Data:
    """Rows to judge by, and those that were trained on: for examples, and to know copies."""

    val: Sequence[Row]
    train: Sequence[Row]


def evaluate(
    features: FeatureCache, folder: Path, data: Data, params: Evaluate, kept: Path | None = None
) -> dict[str, Any]:
    """Answers of every arm, ready for comparison_report.json.

    kept  a file that answers are kept in until `answer_cache.forget`

    Raises AdapterError where the adapter does not fit the base or the prompt of the rows,
    EvaluationError where no critique fits the token limit or memory does not suffice.
    """
    recipe, vlm = read_recipe(folder), features.vlm
    _same_prompt(recipe, data.val, folder)
    _unseen(recipe, data.val, folder)
    vocabulary = vlm.model.config.text_config.vocab_size
    form = Form(vlm.processor.tokenizer, vocabulary, params.max_new_tokens)
    features.look([row.images[0] for row in data.val])
    asked = questions(features, data.val, data.train, params.examples)
    first = asked["base"][0]
    canary = next_logits(vlm, first.prompt, first.seen)
    adapter.load(vlm.model, vlm.hash, folder)
    vlm.model.eval()
    try:
        adapter.prove_applied(next_logits(vlm, first.prompt, first.seen), canary, folder)
        told = Answers(kept, _identity(vlm, folder, params, data.val))
        answers: dict[str, list[Answer]] = {}
        for arms in TOGETHER:
            answers |= _answers(vlm, {arm: asked[arm] for arm in arms if arm in asked}, form,
                                params, told)  # fmt: skip
        report = _report(vlm, folder, recipe, data, asked, answers)
        again(features, data.val, form, params, told, report["photographs"])
        prompts = {row.images[0]: question.prompt
                   for row, question in zip(data.val, asked["base"], strict=True)}  # fmt: skip
        some = [(read_photo(Path(path)), ids) for path, ids in list(prompts.items())[:_MEASURED]]
        report["cost"] = cost(vlm, some, features.raw)
    finally:
        lora.detach(vlm.model)
    return report


def _answers(
    vlm: Vlm, asked: dict[str, list[Question]], form: Form, params: Evaluate, told: Answers
) -> dict[str, list[Answer]]:
    """Those of arms that are asked together, by arm."""
    if not asked:
        return {}
    held = form if set(asked) & set(CONSTRAINED) else None
    how = How(params.max_new_tokens, params.batch_size, held)
    with lora.detached(vlm.model) if set(asked) & set(PLAIN) else nullcontext():
        every = [question for questions in asked.values() for question in questions]
        found = ask(vlm, ", ".join(asked), every, how, told)
    token = sum(a.seconds for a in found) / max(1, sum(a.tokens for a in found))
    given = iter(replace(a, seconds=token * a.tokens) for a in found)
    return {arm: [next(given) for _ in questions] for arm, questions in asked.items()}


def _identity(vlm: Vlm, folder: Path, params: Evaluate, rows: Sequence[Row]) -> dict[str, Any]:
    """All that decides an answer besides its prompt."""
    return {
        "photographs": photo_hashes(rows),
        "llguidance": version("llguidance"),
        "base": vlm.hash,
        "adapter": files_hash(folder, {adapter.CONFIG, adapter.WEIGHTS}),
        "max_new_tokens": params.max_new_tokens,
        "consistency": params.consistency.model_dump(),
        "code": code_hash("evaluation"),
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


def _report(
    vlm: Vlm, folder: Path, recipe: Recipe, data: Data, asked: dict[str, list[Question]],
    answers: dict[str, list[Answer]],
) -> dict[str, Any]:  # fmt: skip
    trained = sentences_of(row.messages[-1]["content"] for row in data.train)
    photographs = []
    for i, row in enumerate(data.val):
        reference, text = row.answer(), row.messages[-1]["content"]
        entry: dict[str, Any] = {
            "id": row.id,
            "image": row.images[0],
            "photo_group": row.photo_group,
            "prompt_sha256": row.prompt_hash,
            "reference": reference.model_dump(mode="json"),
            "reference_text": text,
            "reference_scores": reference.scores(),
            "reference_copied": bool(sentences_of([text]) & trained),
        }
        for arm, given in answers.items():
            question = asked[arm][i]
            entry[arm] = judged(given[i], trained) | {
                "shown": question.shown,
                "prompt_sha256": sha256(json.dumps(question.prompt).encode()).hexdigest(),
            }
        photographs.append(entry)
    return {
        "advisor": recipe.advisor,
        "base": {"source": vlm.source, "sha256": vlm.hash},
        "adapter": {"folder": folder.as_posix(), "recipe": read_json(folder / RECIPE)},
        "packages": packages(),
        "train_score_means": recipe.train_score_means,
        "photographs": photographs,
    }
