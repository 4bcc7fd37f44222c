"""Looking at photographs beside decoding them: python benchmarks/link_photos.py [10000] [500]

10,000 photographs (500 different ones, each under 20 names, with bytes of their own) are decoded
by a process on each core, which is the bound, and then looked at by link's own code: hashed,
decoded, reduced to a thumbnail, entered in the cache. Then once more, with 1 % of them new. At last
the copies among 2,000 photographs are counted: those found, and those wrongly merged.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from mondrian.core.params import load_params
from mondrian.data.near_duplicates import SIDE, cluster_thumbnails, make_thumbnail
from mondrian.data.photo_scan import scan_photos
from mondrian.sample.scene import draw_scene, render

ROOT = Path(__file__).parents[1]
SIZE = (1600, 1280)  # 2 megapixels


def write(job: tuple[int, list[Path]]) -> None:
    """One rendered photograph with the noise of a sensor under many names, no two files alike."""
    i, paths = job
    grain = np.random.default_rng(i).normal(0, 6, (SIZE[1], SIZE[0], 1))
    picture = render(draw_scene(1, i), 800, 640).resize(SIZE)
    picture = Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))
    picture.save(paths[0], quality=90)
    for n, path in enumerate(paths[1:]):
        shutil.copyfile(paths[0], path)
        with path.open("ab") as file:  # behind the end of the picture, where no decoder looks
            file.write(n.to_bytes(4, "big"))


def decode(path: Path) -> None:
    with Image.open(path) as file:
        file.load()


def decoded(paths: list[Path]) -> float:
    """Photographs a second that all cores decode, processes already started."""
    with get_context("spawn").Pool(os.cpu_count()) as pool:
        pool.map(decode, paths[:8], chunksize=1)
        started = time.perf_counter()
        for _ in pool.imap_unordered(decode, paths, chunksize=16):
            pass
        return len(paths) / (time.perf_counter() - started)


def looked(paths: list[Path], cache: Path) -> float:
    started = time.perf_counter()
    for _ in scan_photos(paths, cache):
        pass
    return time.perf_counter() - started


def copies() -> None:
    """Rates of 1,000 scenes and a copy of each: cropped by up to 6 % of each side, and smaller."""
    image = load_params(ROOT / "params.yaml").image
    rng = np.random.default_rng(0)
    scenes = [render(draw_scene(2, i), 480, 384) for i in range(1000)]
    changed = []
    for scene in scenes:
        left, right, top, low = (*rng.dirichlet([1, 1]) * 0.06, *rng.dirichlet([1, 1]) * 0.06)
        edges = (left * 480, top * 384, (1 - right) * 480, (1 - low) * 384)
        changed.append(scene.crop(tuple(map(round, edges))).resize((300, 240)))
    pixels = np.frombuffer(b"".join(map(make_thumbnail, scenes + changed)), np.uint8)
    started = time.perf_counter()
    found = cluster_thumbnails(
        pixels.reshape(-1, SIDE, SIDE), image.phash_distance, image.duplicate_similarity
    )
    seconds = time.perf_counter() - started
    together = sum(a == b for a, b in zip(found, found[1000:], strict=False))
    apart = len(set(found[:1000]))
    print(
        f"2,000 pictures grouped in {seconds:.1f} s: {together} of 1,000 cropped copies found, "
        f"{1000 - apart} of 1,000 different scenes merged"
    )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    different = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / f"{i}.jpg" for i in range(count + count // 100)]
        jobs = [(i, paths[i::different]) for i in range(different)]
        with get_context("spawn").Pool() as pool:
            pool.map(write, jobs)
        first, cache = paths[:count], Path(name) / "cache"
        bound = decoded(first)
        seconds = looked(first, cache)
        print(f"{count:,} photographs of {SIZE[0]}x{SIZE[1]} on {os.cpu_count()} cores")
        print(f"decoding alone  {bound:7.0f} photographs/s")
        speed = count / seconds
        print(f"looking         {speed:7.0f} photographs/s, {speed / bound:.0%} of decoding")
        again = looked(paths, cache)
        print(f"again, 1 % new  {again:7.2f} s, {again / seconds:.1%} of {seconds:.1f} s")
        print(f"again, none new {looked(paths, cache):7.2f} s")
    copies()


if __name__ == "__main__":
    main()
