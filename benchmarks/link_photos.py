"""Compare link's photo scan with plain decoding: python benchmarks/link_photos.py [10000] [500]

10,000 photos (500 scenes under 20 names each, all files with different bytes) are decoded by one
process per core, which is the upper bound. Then link scans them: hash, decode, thumbnail, cache.
Two more scans follow, with 1 % new photos and with none. Finally it counts the near-duplicates that
link finds among 2,000 images, and the different scenes that link merges by mistake.
"""

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
from mondrian.data.near_duplicates import THUMBNAIL_SIDE, cluster_thumbnails, make_thumbnail
from mondrian.data.photo_scan import scan_photos
from mondrian.sample.scene import draw_scene, render

ROOT = Path(__file__).parents[1]
SIZE = (1600, 1280)  # 2 megapixels


def write_photo(seed: int, paths: list[Path]) -> None:
    """Write one rendered scene with sensor noise under several names, no two files alike."""
    noise = np.random.default_rng(seed).normal(0, 6, (SIZE[1], SIZE[0], 1))
    image = render(draw_scene(1, seed), 800, 640).resize(SIZE)
    image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    image.save(paths[0], quality=90)
    for n, path in enumerate(paths[1:]):
        shutil.copyfile(paths[0], path)
        with path.open("ab") as file:  # after the end of the image: decoders ignore it
            file.write(n.to_bytes(4, "big"))


def decode(path: Path) -> None:
    with Image.open(path) as file:
        file.load()


def decoding_rate(paths: list[Path]) -> float:
    """Return how many photos per second all cores decode, without the start of the processes."""
    with get_context("spawn").Pool(os.cpu_count()) as pool:
        pool.map(decode, paths[:8], chunksize=1)
        started = time.perf_counter()
        for _ in pool.imap_unordered(decode, paths, chunksize=16):
            pass
        return len(paths) / (time.perf_counter() - started)


def scan_seconds(paths: list[Path], cache: Path) -> float:
    started = time.perf_counter()
    for _ in scan_photos(paths, cache):
        pass
    return time.perf_counter() - started


def measure_near_duplicates() -> None:
    """Cluster 1,000 scenes and a copy of each that is smaller and cropped by up to 6 % per side."""
    image = load_params(ROOT / "params.yaml").image
    rng = np.random.default_rng(0)
    scenes = [render(draw_scene(2, i), 480, 384) for i in range(1000)]
    copies = []
    for scene in scenes:
        left, right, top, bottom = (*rng.dirichlet([1, 1]) * 0.06, *rng.dirichlet([1, 1]) * 0.06)
        edges = (left * 480, top * 384, (1 - right) * 480, (1 - bottom) * 384)
        copies.append(scene.crop(tuple(map(round, edges))).resize((300, 240)))
    pixels = np.frombuffer(b"".join(map(make_thumbnail, scenes + copies)), np.uint8)
    started = time.perf_counter()
    clusters = cluster_thumbnails(
        pixels.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE),
        image.phash_distance,
        image.duplicate_similarity,
    )
    seconds = time.perf_counter() - started
    num_matched = sum(a == b for a, b in zip(clusters, clusters[1000:], strict=False))
    num_merged = 1000 - len(set(clusters[:1000]))
    print(
        f"2,000 images clustered in {seconds:.1f} s: {num_matched} of 1,000 cropped copies found, "
        f"{num_merged} of 1,000 different scenes merged"
    )


def main() -> None:
    num_photos = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    num_scenes = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    with tempfile.TemporaryDirectory() as tmp_dir:
        paths = [Path(tmp_dir) / f"{i}.jpg" for i in range(num_photos + num_photos // 100)]
        with get_context("spawn").Pool() as pool:
            pool.starmap(write_photo, [(i, paths[i::num_scenes]) for i in range(num_scenes)])
        first, cache = paths[:num_photos], Path(tmp_dir) / "cache"
        decoding = decoding_rate(first)
        seconds = scan_seconds(first, cache)
        print(f"{num_photos:,} photos of {SIZE[0]}x{SIZE[1]} on {os.cpu_count()} cores")
        print(f"decoding alone        {decoding:7.0f} photos/s")
        rate = num_photos / seconds
        print(f"first scan            {rate:7.0f} photos/s, {rate / decoding:.0%} of decoding")
        rescan = scan_seconds(paths, cache)
        print(f"second scan, 1 % new  {rescan:7.2f} s, {rescan / seconds:.1%} of {seconds:.1f} s")
        print(f"third scan, none new  {scan_seconds(paths, cache):7.2f} s")
    measure_near_duplicates()


if __name__ == "__main__":
    main()
