"""Compare `mondrian critique` with the generation of evaluate: python benchmarks/critique.py

Both critique the same rendered photos of 1200 x 960 with ansel's adapter (`dvc repro`),
32 at a time, with constrained decoding, in turn. One is all that the command does until the last
critique is on disk: decoding in processes with limits, previews, the log. The other decodes all
photos, encodes them, and generates, as evaluate does with the images of `prepare`. Loading the
model is not counted. Writes benchmarks/results/critique.json.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)

from benchmarks.measurement import ROOT, write_results
from mondrian.core.images import read_photo, resize_to_fit
from mondrian.core.params import Params, load_params
from mondrian.inference.critic import Critic, CritiqueRequest
from mondrian.inference.critique_log import CritiqueLog
from mondrian.inference.photo_critiques import PhotoCritiques
from mondrian.inference.photo_files import PhotoListing
from mondrian.inference.photo_reader import PreviewFolder
from mondrian.sample.scene import draw_scene, render

ADVISOR, SEED = "ansel", 77  # of the scenes
BATCH_SIZE = 32


def render_photos(folder: Path, count: int) -> None:
    for i in range(count):
        photo = render(draw_scene(SEED, i), 1200, 960)
        photo.save(folder / f"{i:03}.jpg", quality=92)


def run_command(critic: Critic, listing: PhotoListing, params: Params, folder: Path) -> int:
    """Critique as the command does; return the number of critiques."""
    critiques = PhotoCritiques(critic, ADVISOR, listing)
    log, previews = CritiqueLog(folder / "critiques.jsonl"), PreviewFolder(folder / "previews")
    critiques.run(log, previews, params.image)
    return critiques.num_new


def run_generation(critic: Critic, listing: PhotoListing, params: Params, _: Path) -> int:
    """Decode all photos, then encode and generate; return the number of critiques."""
    size = params.image.min_pixels, params.image.max_pixels
    requests = [
        CritiqueRequest(photo, resize_to_fit(read_photo(photo.path), *size), critic.arms)
        for photo in listing.photos
    ]
    return len(list(critic.critique(requests)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    params = load_params(ROOT / "params.yaml")
    evaluate = params.evaluate.model_copy(update={"batch_size": BATCH_SIZE})
    params = params.model_copy(update={"evaluate": evaluate})
    critic = Critic(params, ADVISOR, ROOT / f"models/mondrian-tiny-lora-{ADVISOR}", compare=False)
    systems: dict[str, Callable[[Critic, PhotoListing, Params, Path], int]] = {
        "mondrian critique": run_command,
        "generation of evaluate": run_generation,
    }
    speeds: dict[str, list[float]] = {name: [] for name in systems}
    with tempfile.TemporaryDirectory() as tmp_dir:
        photos = Path(tmp_dir) / "photos"
        photos.mkdir()
        render_photos(photos, args.photos)
        for i in range(args.rounds):
            for name, run in systems.items():
                folder = Path(tmp_dir) / f"{name} {i}"
                folder.mkdir()
                started = perf_counter()
                count = run(critic, PhotoListing([photos], folder), params, folder)
                speeds[name].append(round(count / (perf_counter() - started), 3))
                print(f"{name}: {speeds[name][-1]:.2f} photos/s", flush=True)
    command, generation = (median(values) for values in speeds.values())
    results = {"photos": args.photos, "photos_per_second": speeds, "ratio": command / generation}
    write_results("critique.json", results)
    print(f"mondrian critique has {command / generation:.2f} of evaluate's speed (at least 0.9)")


if __name__ == "__main__":
    main()
