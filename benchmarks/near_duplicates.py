"""Rates of near-duplicates by kind: python benchmarks/near_duplicates.py [FOLDER] [100000]

FOLDER has photos of your own, no two of one scene; 60 rendered scenes are always added. A copy of
every kind is made of each. The table says how many are in the group of their photo, and how many of
the photos, all altered in this way, are in one group with another one. With a number, that many
fingerprints are grouped as well, and then 1 % more: those of the photos, with the bits of their
codes changed, each with four copies.
"""

import hashlib
import sys
import tempfile
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image

from benchmarks.photo_copies import COPIES
from mondrian.core.params import load_params
from mondrian.data.photos.fingerprint import FINGERPRINT, make_fingerprint
from mondrian.data.photos.near_duplicates import group_near_duplicates
from mondrian.sample.scene import draw_scene, render

ROOT = Path(__file__).parents[1]
NUM_SCENES = 60
ORIGINAL = "original"
FEW_KINDS = (ORIGINAL, "re-encoded, quality 35", "cropped by 10 %", "mirrored", "color grade")
Prints = dict[str, dict[str, bytes]]  # by photo and kind


def make_prints(source: str) -> dict[str, bytes]:
    """Return the fingerprints of a photo, or of the scene of this number, and of its copies."""
    if source.isdecimal():
        image = render(draw_scene(7, int(source)), 480, 384)
    else:
        image = Image.open(source).convert("RGB")
        image.thumbnail((960, 960))
    prints = {ORIGINAL: make_fingerprint(_reduce(image))}
    for i, (kind, make_copy) in enumerate(COPIES.items()):
        rng = np.random.default_rng([*source.encode(), i])
        prints[kind] = make_fingerprint(_reduce(make_copy(image, rng)))
    return prints


def _reduce(image: Image.Image) -> Image.Image:
    """Return an image of the size of a preview (core.images.read_preview)."""
    factor = 256 / min(image.size)
    if factor >= 1:
        return image
    return image.resize([max(256, round(factor * side)) for side in image.size], reducing_gap=3.0)


def print_table(prints: Prints) -> None:
    params = load_params(ROOT / "params.yaml").image
    print(f"{len(prints)} photos{'kind':>34}  copies found   photos merged")
    for kind in [ORIGINAL, *COPIES]:
        named = {_name(f"{photo} {kind}"): kinds[kind] for photo, kinds in prints.items()}
        originals = {_name(photo): kinds[ORIGINAL] for photo, kinds in prints.items()}
        alone = group_near_duplicates(named, params)
        merged = len(prints) - len({group.name for group in alone.values()})
        groups = group_near_duplicates(originals | named, params)
        matched = sum(
            groups[_name(photo)].name == groups[_name(f"{photo} {kind}")].name for photo in prints
        )
        print(f"{kind:>48}  {matched / len(prints):11.1%}  {merged:7}")


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def multiply(prints: Prints, count: int) -> dict[str, bytes]:
    """Return `count` fingerprints: photos with other codes than any in `prints`, and their copies.

    A fifth of the bits of a code change, in the same way in a photo and its copies: the codes are
    as frequent as those of photos.
    """
    result: dict[str, bytes] = {}
    for number in range(-(-count // (len(prints) * len(FEW_KINDS)))):
        rng = np.random.default_rng(number)
        masks = ((rng.random((4096, 28)) < 0.2) @ (1 << np.arange(28))).astype(np.uint32)
        for photo, kinds in prints.items():
            for kind in FEW_KINDS:
                fingerprint = np.frombuffer(kinds[kind], FINGERPRINT).copy()
                codes = fingerprint["codes"]
                fingerprint["codes"] = codes ^ masks[codes.astype(np.uint64) * 2654435761 % 4096]
                result[_name(f"{number} {photo} {kind}")] = fingerprint.tobytes()
    return dict(sorted(result.items())[:count])


def measure_grouping(prints: Prints, count: int) -> None:
    params = load_params(ROOT / "params.yaml").image
    fingerprints = multiply(prints, count + count // 100)
    names = list(fingerprints)
    first = {name: fingerprints[name] for name in names[count // 100 :]}
    with tempfile.TemporaryDirectory() as cache:
        for text, subset in (("first run", first), ("1 % new", fingerprints), ("none new", first)):
            started, cpu = time.perf_counter(), time.process_time()
            groups = group_near_duplicates(subset, params, Path(cache))
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            sizes = Counter(group.name for group in groups.values())
            print(
                f"{len(subset):,} fingerprints, {text}: {seconds:.1f} s ({cpu:.1f} s of CPU), "
                f"{len(sizes):,} groups, the largest of {max(sizes.values())}"
            )


def main() -> None:
    folder = [argument for argument in sys.argv[1:] if not argument.isdecimal()]
    counts = [int(argument) for argument in sys.argv[1:] if argument.isdecimal()]
    photos = sorted(str(path) for path in Path(folder[0]).iterdir()) if folder else []
    sources = photos + [str(i) for i in range(NUM_SCENES)]
    with get_context("spawn").Pool() as pool:
        prints = dict(zip(sources, pool.map(make_prints, sources, chunksize=4), strict=True))
    print_table(prints)
    for count in counts:
        measure_grouping(prints, count)


if __name__ == "__main__":
    main()
