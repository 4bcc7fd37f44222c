"""Measure whether two critiques describe the same scene, compared with critiques of other photos.

The likeness of two texts is the cosine of their words, weighted by rarity. Its scale depends on the
writers: two texts by one advisor share habits that have nothing to do with the photo. It is
therefore measured against pairs by the same two advisors about different photos.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations, combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from mondrian.core.fields import FloatArray

_STEM = 5  # letters: rock and rocky have the same stem, and so have mountain and mountains
_WORD = re.compile(r"\w{3,}")
_STOP_WORDS = frozenset(
    "the and with this that from for are was were has have had its his her their our your you "
    "they them she him who which what where when while there here into onto over under above "
    "below behind before after between through across against along near next beside around but "
    "not nor yet too very more most less least much many some any all both each every other "
    "another one two three would could should can may might will does did been being than then "
    "also just only even still such these those how why because although though without within "
    "upon out off toward towards".split()
)
_COMMON_WORDS = (  # of critiques of any photo
    "photograph photo image picture shot frame framing framed scene view captures captured shows "
    "showing depicts features presents appears composition composed compositional subject "
    "subjects light lighting lit illuminated illumination exposure exposed highlights shadow "
    "shadows bright dark contrast tonal tone tones range dynamic focus focused focal sharp "
    "sharpness soft softness detail details detailed texture textures clarity blur blurred depth "
    "field perspective distance foreground background middle ground space spatial layers color "
    "colors colour palette hue hues saturation saturated warm cool harmony harmonious balance "
    "balanced visual weight element elements line lines leading lead eye viewer viewers draws "
    "drawn attention guide emotion emotional impact mood atmosphere feeling feel sense story "
    "evokes conveys creates create adds add enhance enhances strong strength weak effective "
    "effectively well good great excellent beautiful beautifully natural quality overall slightly "
    "little bit rather quite could consider try use using used crop cropping angle camera lens "
    "aperture shutter thirds rule center centered left right side top bottom edge edges corner "
    "area areas small large wide low high help helps improve strengthen bring brings give gives "
    "make makes allow interest interesting simple dramatic subtle gentle clear clean quiet calm "
    "powerful dominant main key part shape shapes form forms pattern negative positive "
    "distracting distracts competes separate separation different slight careful moment time day "
    "look looking seen set work works point place placed position stands sits black white".split()
)
_COMMON_FRACTION, _RARE_FRACTION = 0.3, 0.01  # of photos with such a word, before counting
_PRIOR_PHOTOS = 10  # photos that this expectation counts for
_PRIOR_PAIRS = 5  # pairs that the expectation from other writers counts for
_MAX_LIKENESS = 4.0  # more proves no more; one rare word must not outweigh all other pairs


class SceneText(NamedTuple):
    """The words of one critique; texts about different photos describe different scenes."""

    advisor: str
    photo: str
    words: Mapping[str, int]


def find_repeated_comments(critiques: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return comments found in several critiques (as JSON): they say nothing about a photo."""
    counts = Counter(comment for critique in critiques for comment in set(read_comments(critique)))
    return {comment for comment, count in counts.items() if count > 1}


def scene_text(critique: Mapping[str, Any], repeated: Collection[str]) -> str:
    """Return description and comments of a critique (as JSON); the description counts twice."""
    comments = (comment for comment in read_comments(critique) if comment not in repeated)
    return " ".join([critique["image_description"]] * 2 + list(comments))


def read_comments(critique: Mapping[str, Any]) -> list[str]:
    return [dimension.get("comment") or "" for dimension in critique["dimensions"]]


def count_words(text: str) -> Counter[str]:
    """Return the stems of a text, without words of grammar."""
    stems: Counter[str] = Counter()
    for word, count in Counter(_WORD.findall(text.lower())).items():
        if word not in _STOP_WORDS:
            stems[word[:_STEM]] += count
    return stems


class _Moments(NamedTuple):
    mean: float
    deviation: float

    def update(self, values: FloatArray) -> "_Moments":
        """Return the moments with more values; these moments count for _PRIOR_PAIRS values."""
        count = _PRIOR_PAIRS + len(values)
        mean = (_PRIOR_PAIRS * self.mean + values.sum()) / count
        square = self.deviation**2 + self.mean**2
        square = (_PRIOR_PAIRS * square + (values**2).sum()) / count
        return _Moments(float(mean), math.sqrt(max(1e-6, square - mean**2)))


Vector = Mapping[str, float]


# Cosines of texts about different photos, with and without comments, before any is measured.
_UNRELATED = {True: _Moments(0.15, 0.06), False: _Moments(0.015, 0.04)}


class SceneLikeness:
    """Likeness of texts, in standard deviations above the mean of texts about other photos."""

    def __init__(self, background: Sequence[SceneText], has_comments: bool = True) -> None:
        """Learn the rarity of words, and the likeness of texts about different photos.

        background    texts about many photos
        has_comments  the texts are more than descriptions
        """
        self._prior = _UNRELATED[has_comments]
        self._weights, self._default_weight = _learn_weights(background)
        self._unrelated = self._measure_unrelated(background)

    def compare(self, texts: Sequence[SceneText]) -> FloatArray:
        """Return the likeness of each pair of texts, (texts, texts)."""
        vectors = [self._vector(text) for text in texts]
        result = np.full((len(texts), len(texts)), _MAX_LIKENESS)
        for (i, a), (j, b) in combinations(enumerate(texts), 2):
            cosine = sum(value * vectors[j].get(word, 0.0) for word, value in vectors[i].items())
            unrelated = self._unrelated.get(
                frozenset((a.advisor, b.advisor)), self._unrelated[a.advisor == b.advisor]
            )
            likeness = (cosine - unrelated.mean) / unrelated.deviation
            result[i, j] = result[j, i] = min(likeness, _MAX_LIKENESS)
        return result

    def _vector(self, text: SceneText) -> Vector:
        """Return the weighted words, of length 1: a dot product is a cosine."""
        vector = {
            word: self._weights.get(word, self._default_weight) * math.sqrt(count)
            for word, count in text.words.items()
        }
        length = math.sqrt(sum(value * value for value in vector.values())) or 1.0
        return {word: value / length for word, value in vector.items()}

    def _measure_unrelated(self, texts: Sequence[SceneText]) -> dict[object, _Moments]:
        """Return the moments of pairs about different photos: by advisors, and if they are one."""
        cosines = _compute_cosines([self._vector(text) for text in texts])
        photos = np.unique([text.photo for text in texts], return_inverse=True)[1]
        names, advisors = np.unique([text.advisor for text in texts], return_inverse=True)
        is_pair = np.triu(photos[:, None] != photos[None], 1)
        is_same = advisors[:, None] == advisors[None]
        pooled = self._prior.update(cosines[is_pair])
        unrelated: dict[object, _Moments] = {
            same: pooled.update(cosines[is_pair & (is_same == same)]) for same in (True, False)
        }
        for a, b in combinations_with_replacement(range(len(names)), 2):
            block = np.ix_(advisors == a, advisors == b)
            values = cosines[block][(is_pair | is_pair.T)[block]]
            key = frozenset((str(names[a]), str(names[b])))
            unrelated[key] = unrelated[a == b].update(values)
        return unrelated


def _compute_cosines(vectors: Sequence[Vector]) -> FloatArray:
    columns: dict[str, int] = {}
    row_ends, cols = [0], list[int]()
    values: list[float] = []
    for vector in vectors:
        cols += [columns.setdefault(word, len(columns)) for word in vector]
        values += vector.values()
        row_ends.append(len(cols))
    matrix = csr_array((values, cols, row_ends), shape=(len(vectors), max(1, len(columns))))
    return np.asarray((matrix @ matrix.T).toarray(), float)


def _learn_weights(texts: Sequence[SceneText]) -> tuple[dict[str, float], float]:
    """Return the weight of each word, and of any other word: the log of its rarity among photos."""
    counts: Counter[str] = Counter()
    texts_per_photo = Counter(text.photo for text in texts)
    for text in texts:
        for word in text.words:
            counts[word] += 1 / texts_per_photo[text.photo]  # type: ignore[assignment]
    expected = dict.fromkeys((word[:_STEM] for word in _COMMON_WORDS), _COMMON_FRACTION)
    total = len(texts_per_photo) + _PRIOR_PHOTOS
    return {
        word: -math.log((counts[word] + _PRIOR_PHOTOS * expected.get(word, _RARE_FRACTION)) / total)
        for word in sorted(counts.keys() | expected)
    }, -math.log(_PRIOR_PHOTOS * _RARE_FRACTION / total)
