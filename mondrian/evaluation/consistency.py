"""The same photographs again, altered a little or with other dice: are they judged the same?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from mondrian.core.images import read_photo
from mondrian.core.params import Evaluate
from mondrian.critique.rows import Row
from mondrian.evaluation.answer_cache import Answers
from mondrian.evaluation.answer_record import judged
from mondrian.evaluation.arms import Question
from mondrian.evaluation.generation import ask
from mondrian.evaluation.perturbations import DRAWN, VARIANTS
from mondrian.model import lora
from mondrian.model.batch_generator import How
from mondrian.model.constrained import Form
from mondrian.model.language import Features
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import encode, prompt_ids


def again(
    features: FeatureCache, rows: Sequence[Row], form: Form, params: Evaluate, told: Answers,
    photographs: Sequence[dict[str, Any]],
) -> None:  # fmt: skip
    """Put `again` into the entries of the first photographs: answers by arm, each with its variant.

    All are held to the form, so that each has scores; the adapter is attached.
    """
    wanted, vlm = params.consistency, features.vlm
    first = {row.images[0]: i for i, row in reversed(list(enumerate(rows)))}
    places = sorted(first.values())[: wanted.photographs]  # a photograph counts once
    some = [rows[i] for i in places]
    altered = [(name, _altered(features, row, name)) for name in VARIANTS for row in some]
    drawn = [
        (DRAWN, _question(features, row, features.get(row.images[0]), f"{DRAWN} {i}"))
        for i in range(wanted.draws)
        for row in some
    ]
    likeliest = How(params.max_new_tokens, params.batch_size, form)
    dice = replace(likeliest, temperature=wanted.temperature, seed=1)
    for arm in ("base", "fine_tuned"):
        with lora.detached(vlm.model) if arm == "base" else nullcontext():
            given = ask(vlm, f"{arm} altered", [asked for _, asked in altered], likeliest, told)
            given += ask(vlm, f"{arm} drawn", [asked for _, asked in drawn], dice, told)
        for k, ((name, _), answer) in enumerate(zip([*altered, *drawn], given, strict=True)):
            entry = photographs[places[k % len(places)]].setdefault("again", {}).setdefault(arm, [])
            entry.append({"variant": name, **judged(answer, set())})


def _altered(features: FeatureCache, row: Row, variant: str) -> Question:
    picture = VARIANTS[variant](read_photo(Path(row.images[0])))
    return _question(features, row, encode(features.vlm, picture, features.raw), variant)


def _question(features: FeatureCache, row: Row, seen: Features, variant: str) -> Question:
    return Question(prompt_ids(features.vlm, row.messages[:2], seen), seen, f"{row.id}, {variant}")
