"""What only many jobs show: photographs that are one, shared texts, wrong pictures, duplicates."""

from __future__ import annotations

from collections import Counter

import numpy as np

from mondrian.core.params import Image, Link
from mondrian.critique.rejection import REASON_DESCRIPTIONS, RejectionReason
from mondrian.data.link_store import LinkStore
from mondrian.data.near_duplicates import SIDE, cluster_thumbnails
from mondrian.data.quality_flags import FLAGS, Vocabulary

_MAX_DESCRIPTIONS = 2000  # from which the rarity of words is learned


def group_near_duplicates(thumbnails: dict[str, bytes], image: Image) -> dict[str, str]:
    """The picture that each content shows, named after the first content that shows it."""
    contents = list(thumbnails)
    pixels = np.frombuffer(b"".join(thumbnails.values()), np.uint8).reshape(-1, SIDE, SIDE)
    numbers = cluster_thumbnails(pixels, image.phash_distance, image.duplicate_similarity)
    first: dict[int, str] = {}
    for content, number in zip(contents, numbers, strict=True):
        first.setdefault(number, content[:16])
    return dict(zip(contents, (first[number] for number in numbers), strict=True))


def apply_dataset_filters(ledger: LinkStore, params: Link) -> Counter[str]:
    """Leave out duplicates and, by setting, what is suspicious and not reviewed.

    Returns how often each flag is borne.
    """
    shared, unlike = (
        ledger.find_shared_texts(),
        _find_wrong_pictures(ledger, params.critiques_per_photo),
    )
    flags: Counter[str] = Counter()
    verdicts = []
    for pair in ledger.pairs():
        many = {"shared_text": pair.words in shared, "wrong_picture": pair.picture in unlike}
        true = {*pair.flags, *(name for name, holds in many.items() if holds)}
        if true:
            flags.update(true)
            flag_names = [name for name in FLAGS if name in true]
            settled = pair.is_reviewed  # a person saw it beside its photograph: no flag counts more
            out = [n for n in flag_names if getattr(params, n) == "leave_out" and not settled]
            detail = (
                "; ".join(REASON_DESCRIPTIONS[RejectionReason(name)] for name in flag_names)
                if out
                else ""
            )
            verdicts.append(("".join(out[:1]), detail, " ".join(flag_names), pair.number))
    ledger.apply_verdicts(verdicts)
    return flags


def _find_wrong_pictures(ledger: LinkStore, max_texts: int) -> set[str]:
    """Pictures of which more unlike things are said than honest critiques would say."""
    much_told = ledger.find_pictures_with_many_texts(max_texts)
    if not much_told:
        return set()
    vocabulary = Vocabulary(ledger.descriptions(_MAX_DESCRIPTIONS))
    return {
        picture
        for picture in much_told
        if vocabulary.has_unrelated_descriptions(
            ledger.descriptions_of(picture, _MAX_DESCRIPTIONS), max_texts
        )
    }
