"""Consistency: how much scores change under small image changes and between sampling seeds."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from mondrian.core.images import read_photo
from mondrian.critique.rows import ChatRow
from mondrian.evaluation.arms import SAMPLED
from mondrian.evaluation.generation import EvalContext, build_answer_record, generate_answers
from mondrian.evaluation.prompts import EvalPrompt
from mondrian.evaluation.score_metrics import raw_scores
from mondrian.model import lora
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.language import Features
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import Vlm, encode_image, tokenize_prompt

_CROP_MARGIN = 0.03  # of a side, removed at each end
_BRIGHTNESS = 1.06  # about a fifth of a stop
_JPEG_QUALITY = 75


def crop_edges(image: Image.Image) -> Image.Image:
    """Return the image without its edges, at the same size."""
    x, y = (round(_CROP_MARGIN * side) for side in image.size)
    box = (x, y, image.width - x, image.height - y)
    return image.resize(image.size, Image.Resampling.LANCZOS, box=box)


def brighten(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(_BRIGHTNESS)


def reencode_jpeg(image: Image.Image) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    with Image.open(file) as reencoded:
        return reencoded.convert("RGB")


PERTURBATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cropped": crop_edges,
    "brightened": brighten,
    "reencoded": reencode_jpeg,
}


def measure_consistency(
    context: EvalContext, rows: Sequence[ChatRow], photos: list[dict[str, Any]]
) -> None:
    """Add `variants` to the report entries of the first photos: by arm, an answer to each variant.

    All answers use constrained decoding, so that each has scores. The adapter must be attached.
    """
    features, params, cache = context.features, context.params, context.cache
    vlm, consistency = features.vlm, params.consistency
    first_row = {row.images[0]: i for i, row in reversed(list(enumerate(rows)))}
    indices = sorted(first_row.values())[: consistency.photos]  # each photo once
    variants = [(name, i) for name in PERTURBATIONS for i in indices]
    perturbed = [_perturbed_prompt(features, rows[i], name) for name, i in variants]
    samples = [(f"{SAMPLED} {n}", i) for n in range(consistency.samples) for i in indices]
    photo_features = {i: features.get(rows[i].images[0]) for i in indices}
    sampled = [_build_prompt(vlm, rows[i], photo_features[i], name) for name, i in samples]
    variants += [(SAMPLED, i) for _, i in samples]
    greedy = SamplingParams(params.max_new_tokens, params.batch_size, context.grammar)
    sampling = replace(greedy, temperature=consistency.temperature, seed=1)
    for arm in ("base", "fine_tuned"):
        with lora.disable_lora(vlm.model) if arm == "base" else nullcontext():
            answers = generate_answers(vlm, f"{arm} perturbed", perturbed, greedy, cache)
            answers += generate_answers(vlm, f"{arm} sampled", sampled, sampling, cache)
        for (name, i), answer in zip(variants, answers, strict=True):
            record = {"variant": name, **build_answer_record(answer, set())}
            photos[i].setdefault("variants", {}).setdefault(arm, []).append(record)


def _perturbed_prompt(features: FeatureCache, row: ChatRow, variant: str) -> EvalPrompt:
    image = PERTURBATIONS[variant](read_photo(Path(row.images[0])))
    image_features = encode_image(features.vlm, image, features.with_pre_merger)
    return _build_prompt(features.vlm, row, image_features, variant)


def _build_prompt(vlm: Vlm, row: ChatRow, features: Features, variant: str) -> EvalPrompt:
    token_ids = tokenize_prompt(vlm, row.messages[:2], features)
    return EvalPrompt(token_ids, features, f"{row.id}, {variant}")


def compute_consistency(photos: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return by arm and variant how much a score as generated changes, in points of 10.

    A perturbation is compared with the constrained answer to the unchanged photo. `sampled` is
    the standard deviation over the sampled answers to one photo.
    """
    changes: dict[str, dict[str, list[float]]] = {}
    for photo in photos:
        for arm, records in photo.get("variants", {}).items():
            arm_changes = changes.setdefault(arm, {})
            unchanged = np.array(raw_scores(photo[f"{arm}_constrained"]), float)
            sampled = []
            for record in records:
                scores = np.array(record["scores"], float)
                if record["variant"] == SAMPLED:
                    sampled.append(scores)
                else:
                    change = float(np.abs(scores - unchanged).mean())
                    arm_changes.setdefault(record["variant"], []).append(change)
            if len(sampled) > 1:
                spread = float(np.std(sampled, axis=0, ddof=1).mean())
                arm_changes.setdefault(SAMPLED, []).append(spread)
    return {
        arm: {variant: round(float(np.mean(values)), 4) for variant, values in by_variant.items()}
        for arm, by_variant in changes.items()
    }
