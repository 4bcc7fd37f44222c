"""Evaluate all arms on the same val photos and return every answer next to the advisor's critique.

mondrian/evaluation/verdict.py computes metrics and the verdict from this report.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from mondrian.core.adapter_folder import (
    CONFIG_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
    adapter_version,
)
from mondrian.core.errors import AdapterError, EvaluationError
from mondrian.core.files import files_hash, read_json
from mondrian.core.gpu_errors import explain_gpu_errors
from mondrian.core.images import read_photo
from mondrian.core.params import EvaluateParams
from mondrian.core.training_log import (
    find_saved_epoch,
    list_loss_points,
    read_training_log,
)
from mondrian.critique.rows import ChatRow, image_hashes
from mondrian.evaluation import generation
from mondrian.evaluation.arms import ARMS, CONSTRAINED_ARMS
from mondrian.evaluation.consistency import measure_consistency
from mondrian.evaluation.cost import measure_cost
from mondrian.evaluation.generation import AnswerCache, EvalContext
from mondrian.evaluation.prompts import ArmPrompts, EvalPrompt, build_eval_prompts
from mondrian.model import adapter, lora, provenance
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.device import DEVICE, type_name
from mondrian.model.provenance import Recipe, package_versions, read_recipe
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import Generation, Vlm

_COST_PHOTOS = 2  # photos on which cost is measured


@dataclass(frozen=True)
class EvalData:
    """Rows to evaluate on, and the training rows for few-shot examples and copy detection."""

    val: Sequence[ChatRow]
    train: Sequence[ChatRow]


@explain_gpu_errors(EvaluationError, "lower evaluate.batch_size in params.yaml and run again")
def evaluate(
    features: FeatureCache,
    folder: Path,
    data: EvalData,
    params: EvaluateParams,
    cache_path: Path,
) -> dict[str, Any]:
    """Return the answers of all arms as the content of comparison_report.json.

    cache_path  file of finished answers, for resuming

    Raises AdapterError if the adapter does not fit the base or the rows, EvaluationError if no
    critique fits the token limit or memory does not suffice.
    """
    recipe, vlm = read_recipe(folder), features.vlm
    check_rows_match_adapter(recipe, data.val, folder)
    adapter_entry = _describe_adapter(folder)  # before the work: its log may be damaged
    vocabulary_size = vlm.model.config.text_config.vocab_size
    grammar = CritiqueGrammar(vlm.processor.tokenizer, vocabulary_size, params.max_new_tokens)
    features.precompute([row.images[0] for row in data.val])
    prompts = build_eval_prompts(features, data.val, data.train, params.few_shot_examples)
    with _attached_adapter(vlm, folder, prompts["base"][0]):
        cache = AnswerCache(cache_path, _identity(vlm, folder, params, data.val))
        if message := cache.describe_other_run():
            sys.stderr.write(f"{message}\n")
        context = EvalContext(features, grammar, params, cache)
        photos = _answer_photos(context, data, prompts)
        cost = _measure_cost(features, data.val, prompts["base"])
    return {
        "advisor": recipe.advisor,
        "base": {"source": vlm.source, "sha256": vlm.hash},
        "adapter": adapter_entry,
        "packages": package_versions(),
        "train_score_medians": recipe.train_score_medians,
        "photographs": photos,
        "cost": cost,
    }


def _measure_cost(
    features: FeatureCache, rows: Sequence[ChatRow], prompts: Sequence[EvalPrompt]
) -> dict[str, Any]:
    paths = [row.images[0] for row in rows]
    prompt_by_path = dict(zip(paths, prompts, strict=True))
    timed = islice(prompt_by_path.items(), _COST_PHOTOS)
    image_prompts = [(read_photo(Path(path)), prompt.token_ids) for path, prompt in timed]
    return measure_cost(features.vlm, image_prompts, features.with_pre_merger)


def _describe_adapter(folder: Path) -> dict[str, Any]:
    recipe = read_json(folder / RECIPE_FILE)
    log = read_training_log(folder)
    save_weights = recipe.get("train", {}).get("save_weights", "best")
    return {
        "folder": folder.as_posix(),
        "version": adapter_version(folder),
        "recipe": recipe,
        "val_loss": find_saved_epoch(log, save_weights)["val_loss"] if log else None,
        "loss_points": list_loss_points(log),
    }


@contextmanager
def _attached_adapter(vlm: Vlm, folder: Path, prompt: EvalPrompt) -> Iterator[None]:
    """Attach an adapter that must change the logits of a prompt; detach it on exit."""
    try:
        adapter.load_and_verify(vlm, folder, prompt.token_ids, prompt.features)
        yield
    finally:
        lora.detach(vlm.model)


def check_rows_match_adapter(recipe: Recipe, rows: Sequence[ChatRow], folder: Path) -> None:
    """Raise AdapterError if rows differ in prompt from the adapter or show a training photo."""
    train_groups = set(recipe.train_photo_groups)
    for row in rows:
        if row.prompt_hash != recipe.prompt_sha256:
            raise AdapterError(
                f"{folder} was trained on another prompt (sha256 {recipe.prompt_sha256[:8]}…) "
                f"than row {row.id} has ({row.prompt_hash[:8]}…); train again: dvc repro"
            )
        if row.photo_group in train_groups:
            raise AdapterError(
                f"{folder} was trained on the photo of row {row.id}; evaluate it on the val rows "
                "of the split it was trained with, or train again: dvc repro"
            )


def _identity(
    vlm: Vlm, folder: Path, params: EvaluateParams, rows: Sequence[ChatRow]
) -> dict[str, Any]:
    consistency = params.consistency.model_dump().items()
    return {
        "val photos": sha256(json.dumps(image_hashes(rows)).encode()).hexdigest(),
        "llguidance": version("llguidance"),
        "base": vlm.hash,
        "device": DEVICE.kind,
        "float type": type_name(vlm.float_type),
        "adapter": files_hash(folder, {CONFIG_FILE, WEIGHTS_FILE}),
        "evaluate.max_new_tokens": params.max_new_tokens,
        **{f"evaluate.consistency.{name}": value for name, value in consistency},
        "code": provenance.code_hash(provenance.EVALUATION_CODE),
        **package_versions(),
    }


def _answer_photos(
    context: EvalContext, data: EvalData, prompts: ArmPrompts
) -> list[dict[str, Any]]:
    """Return for each val row the reference critique, the answer of each arm, and variants."""
    answers: dict[str, list[Generation]] = {}
    for arm in ARMS:
        if arm in prompts:
            answers[arm] = generation.generate_arm(context, arm, prompts[arm])
    for arm, raw_arm in CONSTRAINED_ARMS.items():
        answers[arm] = generation.generate_constrained(context, arm, prompts[arm], answers[raw_arm])
    train_sentences = generation.hash_answer_sentences(
        row.messages[-1]["content"] for row in data.train
    )
    entries = []
    for i, row in enumerate(data.val):
        reference, text = row.reference_critique(), row.messages[-1]["content"]
        entry: dict[str, Any] = {
            "id": row.id,
            "image": row.images[0],
            "photo_group": row.photo_group,
            "prompt_sha256": row.prompt_hash,
            "reference": reference.model_dump(mode="json"),
            "reference_text": text,
            "reference_scores": reference.scores() if row.scored else None,  # None: text only
            "reference_copied": bool(generation.hash_answer_sentences([text]) & train_sentences),
        }
        for arm, arm_answers in answers.items():
            token_ids = json.dumps(prompts[arm][i].token_ids)
            entry[arm] = generation.build_answer_record(arm_answers[i], train_sentences)
            entry[arm]["prompt_sha256"] = sha256(token_ids.encode()).hexdigest()
        entries.append(entry)
    measure_consistency(context, data.val, entries)
    return entries
