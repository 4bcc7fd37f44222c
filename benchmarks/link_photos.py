"""Compare link's photo scan with plain decoding.

    python benchmarks/link_photos.py [10000] [500] [1600x1280]

10,000 photos (500 scenes under 20 names each, all files with different bytes) are decoded by one
process per core, which is the upper bound. Then link scans them: hash, decode, fingerprint, cache.
Two more scans follow, with 1 % new photos and with none; near-duplicates are grouped after each. At
100,000 photos give the scenes a smaller size: link_photos.py 100000 5000 320x256. The rates of
near-duplicates by kind are in near_duplicates.py.
"""

import os
import resource
import shutil
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from mondrian.core.params import load_params
from mondrian.data.photos.near_duplicates import group_near_duplicates
from mondrian.data.photos.photo_scan import scan_photos
from mondrian.sample.scene import draw_scene, render

ROOT = Path(__file__).parents[1]
DEFAULT_SIZE = "1600x1280"  # 2 megapixels
Size = tuple[int, int]


def write_photo(seed: int, paths: list[Path], size: Size) -> None:
    """Write one rendered scene with sensor noise under several names, no two files alike."""
    noise = np.random.default_rng(seed).normal(0, 6, (size[1], size[0], 1))
    image = render(draw_scene(1, seed), size[0] // 2, size[1] // 2).resize(size)
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


def measure_seconds(paths: list[Path], cache: Path) -> tuple[float, float, int]:
    """Return the seconds of the scan and of grouping near-duplicates, and the number of groups."""
    params = load_params(ROOT / "params.yaml").image
    started = time.perf_counter()
    infos = [info for _, info in scan_photos(paths, cache)]
    scanned = time.perf_counter()
    fingerprints = {info.sha256: info.fingerprint for info in infos if not info.reason}
    groups = group_near_duplicates(fingerprints, params, cache)
    ended = time.perf_counter()
    names = {group.name for group in groups.values()}
    return scanned - started, ended - scanned, len(names)


def main() -> None:
    num_photos, num_scenes = (
        int(sys.argv[i]) if len(sys.argv) > i else n for i, n in ((1, 10_000), (2, 500))
    )
    width, height = (sys.argv[3] if len(sys.argv) > 3 else DEFAULT_SIZE).split("x")
    size = int(width), int(height)
    with tempfile.TemporaryDirectory() as tmp_dir:
        paths = [Path(tmp_dir) / f"{i}.jpg" for i in range(num_photos + num_photos // 100)]
        with get_context("spawn").Pool() as pool:
            tasks = [(i, paths[i::num_scenes], size) for i in range(num_scenes)]
            pool.starmap(write_photo, tasks)
        first, cache = paths[:num_photos], Path(tmp_dir) / "cache"
        print(f"{num_photos:,} photos of {width}x{height} on {os.cpu_count()} cores")
        decoding = decoding_rate(first)
        print(f"decoding alone        {decoding:7.0f} photos/s")
        scan, grouping, groups = measure_seconds(first, cache)
        rate, total = num_photos / scan, scan + grouping
        print(f"first scan            {rate:7.0f} photos/s, {rate / decoding:.0%} of decoding")
        print(
            f"grouping              {grouping:7.2f} s, {groups:,} groups of {num_scenes:,} scenes"
        )
        for text, scanned_paths in (("1 % new", paths), ("none new", paths)):
            scan, grouping, _ = measure_seconds(scanned_paths, cache)
            share = (scan + grouping) / total
            print(
                f"scan, {text:9}{scan:7.2f} s, grouping {grouping:.2f} s: {share:.1%} of the first"
            )
    peaks = [
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(f"peak memory of this process and of the largest other one, as reported: {peaks}")


if __name__ == "__main__":
    main()
