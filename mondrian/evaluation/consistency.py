"""The same photographs again, altered a little or with other dice: are they judged the same?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from mondrian.core.images import read_photo
from mondrian.core.params import Evaluate
from mondrian.critique.rows import ChatRow
from mondrian.evaluation.answer_cache import AnswerCache
from mondrian.evaluation.answer_record import build_answer_record
from mondrian.evaluation.arms import EvalPrompt
from mondrian.evaluation.generation import generate_answers
from mondrian.evaluation.perturbations import SAMPLED_VARIANT, VARIANTS
from mondrian.model import lora
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.language import Features
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import encode_image, prompt_ids


def measure_consistency(
    features: FeatureCache,
    rows: Sequence[ChatRow],
    form: CritiqueGrammar,
    params: Evaluate,
    cache: AnswerCache,
    photographs: Sequence[dict[str, Any]],
) -> None:
    """Put `measure_consistency` into the entries of the first photographs: answers by arm, each
    with its variant.

    All are held to the form, so that each has scores; the adapter is attached.
    """
    settings, vlm = params.consistency, features.vlm
    first = {row.images[0]: i for i, row in reversed(list(enumerate(rows)))}
    places = sorted(first.values())[: settings.photos]  # a photograph counts once
    photo_rows = [rows[i] for i in places]
    altered = [
        (name, _altered_photo_prompt(features, row, name))
        for name in VARIANTS
        for row in photo_rows
    ]
    sampled_questions = [
        (
            SAMPLED_VARIANT,
            _variant_prompt(features, row, features.get(row.images[0]), f"{SAMPLED_VARIANT} {i}"),
        )
        for i in range(settings.samples)
        for row in photo_rows
    ]
    likeliest = SamplingParams(params.max_new_tokens, params.batch_size, form)
    sampling_params = replace(likeliest, temperature=settings.temperature, seed=1)
    for arm in ("base", "fine_tuned"):
        with lora.disable_lora(vlm.model) if arm == "base" else nullcontext():
            answers = generate_answers(
                vlm, f"{arm} altered", [question for _, question in altered], likeliest, cache
            )
            answers += generate_answers(
                vlm,
                f"{arm} drawn",
                [question for _, question in sampled_questions],
                sampling_params,
                cache,
            )
        for k, ((name, _), answer) in enumerate(
            zip([*altered, *sampled_questions], answers, strict=True)
        ):
            entry = photographs[places[k % len(places)]].setdefault("again", {}).setdefault(arm, [])
            entry.append({"variant": name, **build_answer_record(answer, set())})


def _altered_photo_prompt(features: FeatureCache, row: ChatRow, variant: str) -> EvalPrompt:
    picture = VARIANTS[variant](read_photo(Path(row.images[0])))
    return _variant_prompt(
        features, row, encode_image(features.vlm, picture, features.raw), variant
    )


def _variant_prompt(
    features: FeatureCache, row: ChatRow, image_features: Features, variant: str
) -> EvalPrompt:
    return EvalPrompt(
        prompt_ids(features.vlm, row.messages[:2], image_features),
        image_features,
        f"{row.id}, {variant}",
    )
