"""Recognize critiques of another photo: critiques of one file that describe different scenes.

An upload may be overwritten later, by an advisor's portrait for example. Only byte-identical files
are compared, never near-duplicates. A file with only one text cannot be judged. The rates of
false alarms and of hits are measured by benchmarks/wrong_pictures.py.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from operator import attrgetter
from typing import NamedTuple, Self

from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from mondrian.core.parallel import map_in_processes, split_into_batches
from mondrian.data.link_store import LinkStore
from mondrian.data.quality.scene_likeness import (
    SceneLikeness,
    SceneText,
    count_words,
    find_repeated_comments,
    read_comments,
    scene_text,
)

_MIN_LIKENESS = 0.75  # mean, in standard deviations, from which texts describe one scene
_MIN_MAJORITY, _MIN_MAJORITY_SHARE = 4, 0.8  # texts about one scene that outvote the others
_MAX_BACKGROUND = 1000  # texts of the advisor, and of the others, from which likeness is learned
_MAX_TEXTS = 100  # of one file that are compared with each other
_MIN_WORDS = 3  # without grammar; "A photo." contradicts nothing
_BATCH_SIZE, _MAX_SERIAL = 200, 4  # files; batches that are judged without starting processes


class FileText(NamedTuple):
    """A text about a file, by the linked advisor or by another one."""

    sha256: str
    advisor: str  # empty for the linked one
    words: str  # quality_flags.words_hash
    is_reviewed: bool  # a person has seen it together with the photo
    critique: str  # JSON


@dataclass(frozen=True)
class _Judge:
    """What was learned from the texts of all photos."""

    likeness: SceneLikeness
    repeated_comments: set[str]

    @classmethod
    def from_background(cls, rows: Iterable[tuple[str, str, str]]) -> Self:
        """rows  advisor, photo and critique (JSON)"""
        texts = [(advisor, photo, json.loads(critique)) for advisor, photo, critique in rows]
        critiques = [critique for _, _, critique in texts]
        repeated = find_repeated_comments(critiques)
        has_comments = any(set(read_comments(critique)) - repeated for critique in critiques)
        background = [
            SceneText(advisor, photo, count_words(scene_text(critique, repeated)))
            for advisor, photo, critique in texts
        ]
        return cls(SceneLikeness(background, has_comments), repeated)

    def cluster(self, texts: Sequence[FileText]) -> list[int]:
        """Return the number of the scene of each text; the largest one if it says too little."""
        critiques = [json.loads(text.critique) for text in texts]
        repeated = find_repeated_comments(critiques) | self.repeated_comments
        words = [count_words(scene_text(critique, repeated)) for critique in critiques]
        scene_texts = [SceneText(t.advisor, t.sha256, w) for t, w in zip(texts, words, strict=True)]
        judged = [i for i, text in enumerate(scene_texts) if len(text.words) >= _MIN_WORDS]
        if len(judged) < 2:
            return [1] * len(texts)
        scenes = cluster_scenes(self.likeness, [scene_texts[i] for i in judged])
        [(largest, _)] = Counter(scenes).most_common(1)
        by_text = dict(zip(judged, scenes, strict=True))
        return [by_text.get(i, largest) for i in range(len(texts))]


WrongPictures = dict[tuple[str, str], str]  # sha256 and words -> explanation


def find_wrong_pictures(store: LinkStore, excluded_words: Collection[str]) -> WrongPictures:
    """Return the texts that may be about another photo than the one in their file.

    excluded_words  texts stored for different photos: no evidence about any of them
    """
    files = _read_files(store, excluded_words)
    first = list(islice(files, 1))
    if not first:
        return {}
    judge = _Judge.from_background(store.background_texts(_MAX_BACKGROUND))
    wrong: WrongPictures = {}
    batches = split_into_batches(chain(first, files), _BATCH_SIZE)
    for batch_result in map_in_processes(_judge_files, judge, batches, _MAX_SERIAL):
        wrong |= batch_result
    return wrong


def _read_files(store: LinkStore, excluded_words: Collection[str]) -> Iterator[list[FileText]]:
    """Yield the texts of each file with several, in batches of at most _MAX_TEXTS."""
    rows = (FileText(*row) for row in store.texts_of_repeated_files())
    usable = (text for text in rows if text.words not in excluded_words)
    for _, texts in groupby(usable, attrgetter("sha256")):
        yield from read_batches(texts)


def read_batches(texts: Iterable[FileText]) -> Iterator[list[FileText]]:
    """Yield the texts of one file in batches; a short last one is filled with earlier texts."""
    previous: list[FileText] = []
    for rest in split_into_batches(texts, _MAX_TEXTS):
        batch = previous[len(rest) :] + rest
        if len(batch) > 1:
            yield batch
        previous = batch


def _judge_files(judge: _Judge, files: Sequence[Sequence[FileText]]) -> WrongPictures:
    wrong: WrongPictures = {}
    for texts in files:
        scenes = judge.cluster(texts)
        reviewed = [i for i, text in enumerate(texts) if text.is_reviewed]
        detail = f"{len(texts)} texts about this file describe {len(set(scenes))} different scenes"
        advisors = [text.advisor for text in texts]
        foreign = find_foreign(scenes, reviewed, advisors)
        wrong |= {(texts[i].sha256, texts[i].words): detail for i in foreign}
    return wrong


def cluster_scenes(likeness: SceneLikeness, texts: Sequence[SceneText]) -> list[int]:
    """Return the number of the scene that each text describes, by average linkage."""
    similarities = likeness.compare(texts)
    if similarities.min() >= _MIN_LIKENESS:  # the usual case, without the cost of linkage
        return [1] * len(texts)
    top = similarities.max()
    distances = squareform(top - similarities, checks=False)
    scenes = fcluster(linkage(distances, "average"), top - _MIN_LIKENESS, "distance")
    return [int(scene) for scene in scenes]


def find_foreign(
    scenes: Sequence[int], reviewed: Collection[int], advisors: Sequence[str]
) -> set[int]:
    """Return the texts of one file that may be about another photo.

    A reviewed text shows what the photo is; otherwise a large majority does, but texts by one
    advisor do not outvote another one: all of an advisor's uploads may have been overwritten by the
    same photo. Without either, the true texts are unknown, and all are returned.
    """
    sizes = Counter(scenes)
    if len(sizes) == 1:
        return set()
    scene, size = sizes.most_common(1)[0]
    true_scenes = {scenes[i] for i in reviewed}
    if not true_scenes and size >= max(_MIN_MAJORITY, _MIN_MAJORITY_SHARE * len(scenes)):
        voters = {a for a, other in zip(advisors, scenes, strict=True) if other == scene}
        if len(voters) > 1 or voters == set(advisors):
            true_scenes = {scene}
    return {i for i, other in enumerate(scenes) if other not in true_scenes}
