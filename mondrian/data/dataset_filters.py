"""What only many jobs show: photographs that are one, shared texts, wrong pictures, duplicates."""

from __future__ import annotations

from collections import Counter

import numpy as np

from mondrian.core.params import Image, Link
from mondrian.critique.rejection import MEANING, Reason
from mondrian.data.link_store import Ledger
from mondrian.data.near_duplicates import SIDE, same_pictures
from mondrian.data.quality_flags import FLAGS, Vocabulary

_DESCRIPTIONS = 2000  # from which the rarity of words is learned


def pictures(thumbnails: dict[str, bytes], image: Image) -> dict[str, str]:
    """The picture that each content shows, named after the first content that shows it."""
    contents = list(thumbnails)
    pixels = np.frombuffer(b"".join(thumbnails.values()), np.uint8).reshape(-1, SIDE, SIDE)
    numbers = same_pictures(pixels, image.phash_distance, image.likeness)
    first: dict[int, str] = {}
    for content, number in zip(contents, numbers, strict=True):
        first.setdefault(number, content[:16])
    return dict(zip(contents, (first[number] for number in numbers), strict=True))


def judge(ledger: Ledger, params: Link) -> Counter[str]:
    """Leave out duplicates and, by setting, what is suspicious and not reviewed.

    Returns how often each flag is borne.
    """
    shared, unlike = ledger.shared_words(), _wrong_pictures(ledger, params.critiques_per_photo)
    flags: Counter[str] = Counter()
    verdicts = []
    for pair in ledger.pairs():
        many = {"shared_text": pair.words in shared, "wrong_picture": pair.picture in unlike}
        true = {*pair.flags, *(name for name, holds in many.items() if holds)}
        if true:
            flags.update(true)
            told = [name for name in FLAGS if name in true]
            settled = pair.reviewed  # a person saw it beside its photograph: no flag counts more
            out = [n for n in told if getattr(params, n) == "leave_out" and not settled]
            detail = "; ".join(MEANING[Reason(name)] for name in told) if out else ""
            verdicts.append(("".join(out[:1]), detail, " ".join(told), pair.number))
    ledger.judge(verdicts)
    return flags


def _wrong_pictures(ledger: Ledger, most: int) -> set[str]:
    """Pictures of which more unlike things are said than honest critiques would say."""
    much_told = ledger.much_told(most)
    if not much_told:
        return set()
    vocabulary = Vocabulary(ledger.descriptions(_DESCRIPTIONS))
    return {
        picture
        for picture in much_told
        if vocabulary.unlike(ledger.descriptions_of(picture, _DESCRIPTIONS), most)
    }
