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

from mondrian.core.adapter_folder import CONFIG, RECIPE, WEIGHTS
from mondrian.core.errors import AdapterError
from mondrian.core.files import files_hash, read_json
from mondrian.core.images import read_photo
from mondrian.core.params import Evaluate
from mondrian.critique.rows import ChatRow, photo_hashes
from mondrian.evaluation.answer_cache import AnswerCache
from mondrian.evaluation.answer_record import build_answer_record, hash_answer_sentences
from mondrian.evaluation.arms import (
    ARMS_WITHOUT_ADAPTER,
    BATCHED_ARMS,
    CONSTRAINED_ARMS,
    EvalPrompt,
    build_eval_prompts,
)
from mondrian.evaluation.consistency import measure_consistency
from mondrian.evaluation.generation import generate_answers
from mondrian.evaluation.latency import measure_cost
from mondrian.model import adapter, lora
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.provenance import (
    EVALUATION_CODE,
    Recipe,
    code_hash,
    package_versions,
    read_recipe,
)
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import Generation, Vlm, next_logits

_LATENCY_PHOTOS = 2  # photographs that cost is measured on


@dataclass(frozen=True)
class EvalDataset:
    """Rows to judge by, and those that were trained on: for examples, and to know copies."""

    val: Sequence[ChatRow]
    train: Sequence[ChatRow]


def evaluate(
    features: FeatureCache,
    folder: Path,
    data: EvalDataset,
    params: Evaluate,
    cache_path: Path | None = None,
) -> dict[str, Any]:
    """Answers of every arm, ready for comparison_report.json.

    cache_path  a file that answers are kept in until `answer_cache.forget`

    Raises AdapterError where the adapter does not fit the base or the prompt of the rows,
    EvaluationError where no critique fits the token limit or memory does not suffice.
    """
    recipe, vlm = read_recipe(folder), features.vlm
    _same_prompt(recipe, data.val, folder)
    _check_no_trained_photos(recipe, data.val, folder)
    vocabulary = vlm.model.config.text_config.vocab_size
    form = CritiqueGrammar(vlm.processor.tokenizer, vocabulary, params.max_new_tokens)
    features.precompute([row.images[0] for row in data.val])
    arm_questions = build_eval_prompts(features, data.val, data.train, params.few_shot_examples)
    first = arm_questions["base"][0]
    canary = next_logits(vlm, first.prompt, first.features)
    adapter.load(vlm.model, vlm.hash, folder)
    vlm.model.eval()
    try:
        adapter.check_adapter_changes_logits(
            next_logits(vlm, first.prompt, first.features), canary, folder
        )
        cache = AnswerCache(cache_path, _identity(vlm, folder, params, data.val))
        answers: dict[str, list[Generation]] = {}
        for arms in BATCHED_ARMS:
            answers |= _answers(
                vlm,
                {arm: arm_questions[arm] for arm in arms if arm in arm_questions},
                form,
                params,
                cache,
            )
        report = _report(vlm, folder, recipe, data, arm_questions, answers)
        measure_consistency(features, data.val, form, params, cache, report["photographs"])
        prompts = {
            row.images[0]: question.prompt
            for row, question in zip(data.val, arm_questions["base"], strict=True)
        }
        image_prompts = [
            (read_photo(Path(path)), ids) for path, ids in list(prompts.items())[:_LATENCY_PHOTOS]
        ]
        report["cost"] = measure_cost(vlm, image_prompts, features.raw)
    finally:
        lora.detach(vlm.model)
    return report


def _answers(
    vlm: Vlm,
    arm_questions: dict[str, list[EvalPrompt]],
    form: CritiqueGrammar,
    params: Evaluate,
    cache: AnswerCache,
) -> dict[str, list[Generation]]:
    """Those of arms that are asked together, by arm."""
    if not arm_questions:
        return {}
    constraint = form if set(arm_questions) & set(CONSTRAINED_ARMS) else None
    sampling_params = SamplingParams(params.max_new_tokens, params.batch_size, constraint)
    with (
        lora.disable_lora(vlm.model)
        if set(arm_questions) & set(ARMS_WITHOUT_ADAPTER)
        else nullcontext()
    ):
        all_questions = [question for questions in arm_questions.values() for question in questions]
        answers = generate_answers(
            vlm, ", ".join(arm_questions), all_questions, sampling_params, cache
        )
    token = sum(a.seconds for a in answers) / max(1, sum(a.num_tokens for a in answers))
    timed_answers = iter(replace(a, seconds=token * a.num_tokens) for a in answers)
    return {
        arm: [next(timed_answers) for _ in questions] for arm, questions in arm_questions.items()
    }


def _identity(vlm: Vlm, folder: Path, params: Evaluate, rows: Sequence[ChatRow]) -> dict[str, Any]:
    """All that decides an answer besides its prompt."""
    return {
        "photographs": photo_hashes(rows),
        "llguidance": version("llguidance"),
        "base": vlm.hash,
        "adapter": files_hash(folder, {CONFIG, WEIGHTS}),
        "max_new_tokens": params.max_new_tokens,
        "consistency": params.consistency.model_dump(),
        "code": code_hash(EVALUATION_CODE),
        **package_versions(),
    }


def _same_prompt(recipe: Recipe, rows: Sequence[ChatRow], folder: Path) -> None:
    for row in rows:
        if row.prompt_hash != recipe.prompt_sha256:
            raise AdapterError(
                f"{folder} was trained on another prompt (sha256 {recipe.prompt_sha256[:8]}…) "
                f"than row {row.id} has ({row.prompt_hash[:8]}…); train again: dvc repro"
            )


def _check_no_trained_photos(recipe: Recipe, rows: Sequence[ChatRow], folder: Path) -> None:
    trained = set(recipe.train_photo_groups)
    for row in rows:
        if row.photo_group in trained:
            raise AdapterError(
                f"{folder} was trained on the photograph of row {row.id}; evaluate it on the val "
                "rows of the split it was trained with, or train again: dvc repro"
            )


def _report(
    vlm: Vlm,
    folder: Path,
    recipe: Recipe,
    data: EvalDataset,
    arm_questions: dict[str, list[EvalPrompt]],
    answers: dict[str, list[Generation]],
) -> dict[str, Any]:
    trained = hash_answer_sentences(row.messages[-1]["content"] for row in data.train)
    photographs = []
    for i, row in enumerate(data.val):
        reference, text = row.reference_critique(), row.messages[-1]["content"]
        entry: dict[str, Any] = {
            "id": row.id,
            "image": row.images[0],
            "photo_group": row.photo_group,
            "prompt_sha256": row.prompt_hash,
            "reference": reference.model_dump(mode="json"),
            "reference_text": text,
            "reference_scores": reference.scores(),
            "reference_copied": bool(hash_answer_sentences([text]) & trained),
        }
        for arm, arm_answers in answers.items():
            question = arm_questions[arm][i]
            entry[arm] = build_answer_record(arm_answers[i], trained) | {
                "shown": question.photo_row_id,
                "prompt_sha256": sha256(json.dumps(question.prompt).encode()).hexdigest(),
            }
        photographs.append(entry)
    return {
        "advisor": recipe.advisor,
        "base": {"source": vlm.source, "sha256": vlm.hash},
        "adapter": {"folder": folder.as_posix(), "recipe": read_json(folder / RECIPE)},
        "packages": package_versions(),
        "train_score_means": recipe.train_score_means,
        "photographs": photographs,
    }
