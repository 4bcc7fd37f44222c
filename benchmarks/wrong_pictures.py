"""Measure how often wrong_picture rejects true texts and finds wrong ones: python FILE [repeats]

The texts are made from 64 scenes in four wordings of each part (tests/data/described_scenes.txt).
Scenes with an odd number set the scale, those with an even number are judged.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from mondrian.data.quality.scene_likeness import SceneLikeness, SceneText, count_words
from mondrian.data.quality.wrong_pictures import cluster_scenes, find_foreign
from tests.data.described_scenes import scenes, write_scene_text

SIZES = (2, 3, 4, 6, 10)
BACKGROUNDS = (0, 2, 8, 32)  # other photos of the advisor


class Judge:
    """Rejects texts about one file, after a number of other photos."""

    def __init__(self, num_photos: int, comments: str, seed: int) -> None:
        self._rng, self._comments = Random(seed), comments
        odd = self._rng.sample(range(1, len(scenes()), 2), num_photos)
        self._background = [self._write(scene, str(scene)) for scene in odd]

    def rejected_fraction(self, described: Sequence[int]) -> float:
        texts = [self._write(scene, "file") for scene in described]
        likeness = SceneLikeness(self._background + texts, self._comments != "none")
        return len(find_foreign(cluster_scenes(likeness, texts), (), [""] * len(texts))) / len(
            texts
        )

    def _write(self, scene: int, photo: str) -> SceneText:
        text = write_scene_text(scenes()[scene], self._rng, self._comments)
        return SceneText("", photo, count_words(text))


def measure(kind: str, size: int, judges: Sequence[Judge], rng: Random) -> float:
    """Return the fraction of rejected texts: of one scene, of many, or about half of one."""
    total = 0.0
    for judge in judges:
        true_scene, *other_scenes = rng.sample(range(0, len(scenes()), 2), size + 1)
        num_true = {"true": size, "wrong": 0, "mixed": size // 2}[kind]
        total += judge.rejected_fraction([true_scene] * num_true + other_scenes[num_true:])
    return total / len(judges)


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for comments in ("of the scene", "of any scene", "none"):
        print(f"comments: {comments}")
        print("| photos | texts | " + " | ".join(map(str, SIZES)) + " |")
        for num_photos in BACKGROUNDS:
            judges = [Judge(num_photos, comments, seed) for seed in range(repeats)]
            for kind in ("true", "wrong", "mixed"):
                rng = Random(1)
                rates = [
                    f"{measure(kind, size, judges, rng):.1%}" if kind != "mixed" or size > 3 else ""
                    for size in SIZES
                ]
                print(f"| {num_photos} | {kind} | " + " | ".join(rates) + " |", flush=True)


if __name__ == "__main__":
    main()
