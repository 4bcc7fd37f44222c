"""Copies of every kind are grouped and other photos are not, on rendered scenes.

Rates on photographs: benchmarks/near_duplicates.py.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from benchmarks.photo_copies import COPIES
from mondrian.core.errors import DataError
from mondrian.core.params import ImageParams
from mondrian.data.photos import copy_candidates, near_duplicates
from mondrian.data.photos.fingerprint import FINGERPRINT, make_fingerprint
from mondrian.data.photos.margins import trim_margins
from mondrian.data.photos.near_duplicates import cluster_pairs, group_near_duplicates
from mondrian.data.photos.pair_cache import CACHE_FILE, CopyPair
from mondrian.sample.scene import draw_scene, render

PARAMS = ImageParams(min_pixels=4096, max_pixels=20480, duplicate_similarity=0.6)
NUM_SCENES = 24


def make_copy(image: Image.Image, kind: str, seed: int = 0) -> Image.Image:
    return COPIES[kind](image, np.random.default_rng(seed))


def name_photo(number: int) -> str:
    return f"{number:04x}" * 16


def name_fingerprints(images: list[Image.Image]) -> dict[str, bytes]:
    return {name_photo(i): make_fingerprint(image) for i, image in enumerate(images)}


def group(images: list[Image.Image]) -> list[str]:
    groups = group_near_duplicates(name_fingerprints(images), PARAMS)
    return [groups[name_photo(i)].name for i in range(len(images))]


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [render(draw_scene(7, i), 320, 256) for i in range(NUM_SCENES)]


@pytest.fixture(scope="module")
def scene_prints(scenes: list[Image.Image]) -> dict[str, bytes]:
    return name_fingerprints(scenes)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("re-encoded, quality 35", "re-encoded or resized"),
        ("resized to a third", "re-encoded or resized"),
        ("cropped by 10 %", "cropped"),
        ("square", "cropped"),
        ("mirrored", "mirrored"),
        ("turned by 90 degrees", "rotated"),
        ("turned by 180 degrees", "rotated"),
        ("turned by 270 degrees", "rotated"),
        ("straightened by 2 degrees", "straightened, cropped"),
        ("white border of 8 %", "bordered"),
        ("black line in a white border", "bordered"),
        ("polaroid", "cropped, bordered"),
        ("screenshot, white", "bordered"),
        ("black and white", "recolored"),
        ("gamma 0.6", "recolored"),
    ],
)
def test_a_copy_is_in_the_group_of_its_photo_and_its_kind_is_named(
    scenes: list[Image.Image], scene_prints: dict[str, bytes], kind: str, expected: str
) -> None:
    copy = make_fingerprint(make_copy(scenes[3], kind))
    groups = group_near_duplicates(scene_prints | {"f" * 64: copy}, PARAMS)
    assert groups["f" * 64].name == name_photo(3)[:16]
    assert groups["f" * 64].copy_kind == expected
    assert groups[name_photo(3)].copy_kind == ""


@pytest.mark.parametrize(
    "kind",
    [
        "white border of 8 %",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in (
                "re-encoded, quality 35",
                "black line in a white border",
                "polaroid",
                "screenshot, white",
                "screenshot, black",
                "black and white",
                "caption",
                "watermark",
            )
        ),
    ],
)
def test_different_photos_altered_in_the_same_way_are_not_grouped(
    scenes: list[Image.Image], kind: str
) -> None:
    images = [make_copy(scene, kind, i) for i, scene in enumerate(scenes)]
    assert len(set(group(images))) == NUM_SCENES


def test_different_products_on_white_are_not_grouped() -> None:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(20):
        texture = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        product = Image.fromarray(texture).resize((120, 120), Image.Resampling.BICUBIC)
        image = Image.new("RGB", (300, 300), "white")
        image.paste(product, (90, 90))
        images.append(image)
    assert len(set(group(images))) == 20


def test_groups_do_not_depend_on_the_order_of_the_photos(scenes: list[Image.Image]) -> None:
    copies = [make_copy(scene, "cropped by 10 %") for scene in scenes[:8]]
    prints = name_fingerprints([*scenes, *copies])
    shuffled = list(prints.items())
    Random(1).shuffle(shuffled)
    assert group_near_duplicates(dict(shuffled), PARAMS) == group_near_duplicates(prints, PARAMS)


def record_compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the number of new photos of each comparison."""
    compared: list[int] = []
    original = copy_candidates.iter_candidates

    def recording(photos: np.ndarray, is_new: np.ndarray) -> object:
        compared.append(int(is_new.sum()))
        return original(photos, is_new)

    monkeypatch.setattr(near_duplicates, "iter_candidates", recording)
    return compared


def test_only_new_photos_are_compared_and_the_groups_are_the_same(
    scenes: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = [make_copy(scene, "mirrored") for scene in scenes[:8]]
    prints = name_fingerprints([*scenes, *copies])
    expected = group_near_duplicates(prints, PARAMS)
    compared = record_compared(monkeypatch)
    subset = dict(list(prints.items())[5:-3])
    group_near_duplicates(subset, PARAMS, tmp_path)
    assert group_near_duplicates(prints, PARAMS, tmp_path) == expected
    assert group_near_duplicates(prints, PARAMS, tmp_path) == expected
    assert compared == [len(subset), len(prints) - len(subset)]
    assert group_near_duplicates(subset, PARAMS, tmp_path) == group_near_duplicates(subset, PARAMS)
    assert group_near_duplicates(prints, PARAMS, tmp_path, "other") == expected


def test_a_code_that_becomes_too_common_is_forgotten_in_the_cache(
    scenes: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_candidates, "MAX_PHOTOS_PER_CODE", 3)
    kinds = ("mirrored", "gamma 0.6", "watermark", "black and white")
    prints = name_fingerprints([scenes[0], *(make_copy(scenes[0], kind) for kind in kinds)])
    group_near_duplicates(dict(list(prints.items())[:3]), PARAMS, tmp_path)
    expected = group_near_duplicates(prints, PARAMS)
    assert group_near_duplicates(prints, PARAMS, tmp_path) == expected


def test_a_cache_that_cannot_be_used_is_one_clear_line(
    scene_prints: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / CACHE_FILE).write_bytes(b"x" * 4096)
    with pytest.raises(DataError, match="delete this cache"):
        group_near_duplicates(scene_prints, PARAMS, tmp_path)


def link_all(names: str) -> list[CopyPair]:
    return [CopyPair(a, b, 0.9, "") for a in names for b in names if a < b]


def test_one_wrong_pair_does_not_unite_two_groups() -> None:
    pairs = [*link_all("abcde"), *link_all("vwxyz"), CopyPair("b", "x", 0.99, "")]
    groups = cluster_pairs(list("abcdevwxyz"), pairs)
    assert {groups[name] for name in "abcde"} == {"a"}
    assert len({groups[name] for name in "vwyz"}) == 1
    assert groups["v"] != "a"


def test_crops_of_a_photo_are_grouped_though_they_do_not_overlap() -> None:
    pairs = [CopyPair("a", name, 0.9, "cropped") for name in "bcdefghijklmnop"]
    assert set(cluster_pairs(list("abcdefghijklmnop"), pairs).values()) == {"a"}


@pytest.mark.parametrize(
    "change",
    [
        lambda image: make_copy(image, "white border of 8 %"),
        lambda image: make_copy(image, "black border of 5 %"),
        lambda image: make_copy(image, "black line in a white border"),
        lambda image: make_copy(make_copy(image, "white border of 8 %"), "re-encoded, quality 35"),
    ],
)
def test_margins_are_trimmed(
    scenes: list[Image.Image], change: Callable[[Image.Image], Image.Image]
) -> None:
    trimmed = trim_margins(np.asarray(change(scenes[5])))
    inner = trim_margins(np.asarray(scenes[5]))
    assert np.abs(np.subtract(trimmed.shape, inner.shape)).max() <= 4


def test_an_image_of_one_tone_has_no_features_and_is_trimmed_no_further_than_allowed() -> None:
    (photo,) = np.frombuffer(make_fingerprint(Image.new("RGB", (300, 200))), FINGERPRINT)
    assert photo["count"] == 0
    assert photo["trimmed"] == 0


def test_without_photos_there_are_no_groups() -> None:
    assert group([]) == []
