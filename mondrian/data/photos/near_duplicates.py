"""Groups of photos that show the same image, as copies under several names.

Equal feature codes propose pairs, an alignment by features and a comparison of outlines decide. The
groups depend on the photos alone: not on their order, nor on what was compared in earlier runs.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from mondrian.core.params import ImageParams
from mondrian.data.photos.copy_alignment import align, compare, score_pairs
from mondrian.data.photos.copy_candidates import CommonCodeError, iter_candidates
from mondrian.data.photos.copy_kinds import UNALTERED, name_kinds
from mondrian.data.photos.fingerprint import FINGERPRINT, Array
from mondrian.data.photos.pair_cache import CopyPair, load_pairs, save_pairs

_MIN_STORED = 0.4  # similarity of pairs that are stored: image.duplicate_similarity is not below it
_BATCH_SIZE = 512  # pairs compared together: bounds memory
# Two groups are united if this part of their pairs are copies: one wrong pair does not suffice.
_MIN_LINKED = 0.1


@dataclass(frozen=True)
class PhotoGroup:
    """The group of a photo, named after its first one, and how the photo differs from that one."""

    name: str
    copy_kind: str = ""


def group_near_duplicates(
    fingerprints: Mapping[str, bytes],
    image_params: ImageParams,
    cache_dir: Path | None = None,
    scope: str = "",
) -> dict[str, PhotoGroup]:
    """Return the group of each photo (sha256).

    With a cache folder, only photos that the last run of this scope did not have are compared.
    """
    first_by_fingerprint: dict[bytes, str] = {}
    first_of = {
        sha: first_by_fingerprint.setdefault(fingerprints[sha], sha) for sha in sorted(fingerprints)
    }
    distinct = {sha: fingerprints[sha] for sha in first_by_fingerprint.values()}
    pairs = _find_pairs(distinct, cache_dir, scope)
    copies = [pair for pair in pairs if pair.similarity >= image_params.duplicate_similarity]
    clusters = cluster_pairs(list(distinct), copies)
    kinds = {(pair.first, pair.second): pair.second_kind for pair in copies}
    result = {}
    for sha, first in first_of.items():
        leader = clusters[first]
        kind = UNALTERED if first == leader else kinds.get((leader, first), "altered")
        result[sha] = PhotoGroup(leader[:16], "" if sha == leader else kind)
    return result


def _find_pairs(
    fingerprints: dict[str, bytes], cache_dir: Path | None, scope: str
) -> list[CopyPair]:
    known_pairs, compared = load_pairs(cache_dir, scope) if cache_dir else ([], frozenset())
    pairs = [pair for pair in known_pairs if {pair.first, pair.second} <= fingerprints.keys()]
    names = list(fingerprints)
    is_new = np.array([name not in compared for name in names], bool)
    if is_new.any():
        photos = np.frombuffer(b"".join(fingerprints.values()), FINGERPRINT)
        try:
            pairs += list(_compare_photos(names, photos, is_new))
        except CommonCodeError:
            pairs = list(_compare_photos(names, photos, np.ones_like(is_new)))
    if cache_dir and compared != fingerprints.keys():
        save_pairs(cache_dir, scope, pairs, names)
    return pairs


def _compare_photos(names: Sequence[str], photos: Array, is_new: Array) -> Iterator[CopyPair]:
    """Yield pairs that may be copies, with at least one new photo."""
    for candidates in iter_candidates(photos, is_new):
        for start in range(0, len(candidates.first), _BATCH_SIZE):
            pairs = candidates.select(slice(start, start + _BATCH_SIZE))
            alignments = align(photos, pairs)
            comparisons = compare(photos, pairs, alignments)
            scores = score_pairs(alignments, comparisons)
            kinds = name_kinds(photos, pairs, alignments, comparisons)
            for row in np.flatnonzero(scores >= _MIN_STORED):
                first, second = names[pairs.first[row]], names[pairs.second[row]]
                yield CopyPair(first, second, round(float(scores[row]), 3), kinds[row])


def cluster_pairs(photos: Sequence[str], copies: Sequence[CopyPair]) -> dict[str, str]:
    """Return the first photo of each photo's group.

    Pairs with many common copies come first. Two groups of several photos are united only if enough
    of their pairs are copies, so that one wrong pair does not unite them.
    """
    cluster_of = {photo: photo for photo in photos}
    members = {photo: [photo] for photo in photos}
    links: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in copies:
        links[pair.first][pair.second] += 1
        links[pair.second][pair.first] += 1
    common = dict(zip(copies, _count_common_copies(photos, copies), strict=True))
    for pair in sorted(copies, key=lambda pair: (-common[pair], -pair.similarity, pair)):
        cluster, other = sorted((cluster_of[pair.first], cluster_of[pair.second]))
        sizes = len(members[cluster]), len(members[other])
        if cluster == other or not _are_linked(*sizes, links[cluster][other]):
            continue
        for photo in members[other]:
            cluster_of[photo] = cluster
        members[cluster] += members.pop(other)
        for neighbor, count in links.pop(other).items():
            links[neighbor].pop(other, None)
            if neighbor != cluster:
                links[cluster][neighbor] += count
                links[neighbor][cluster] += count
    return cluster_of


def _count_common_copies(photos: Sequence[str], copies: Sequence[CopyPair]) -> list[int]:
    """Return for each pair how many photos are copies of both; a burst has many of them."""
    numbers = {photo: number for number, photo in enumerate(photos)}
    first, second = (
        np.array([numbers[name] for name in names], int)
        for names in ([pair.first for pair in copies], [pair.second for pair in copies])
    )
    ends = np.concatenate((first, second)), np.concatenate((second, first))
    is_copy = csr_array((np.ones(len(ends[0]), np.int32), ends), (len(photos), len(photos)))
    return np.asarray((is_copy @ is_copy)[first, second]).ravel().tolist() if copies else []


def _are_linked(size: int, other_size: int, count: int) -> bool:
    return min(size, other_size) == 1 or count >= ceil(_MIN_LINKED * size * other_size)
