"""A fifth of the photos has changed copies under other names: no copy may cross the split."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mondrian.core.params import Params
from mondrian.critique.schema import serialize_critique
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.link import MANIFEST_FILE, link
from mondrian.data.link_context import LinkContext
from mondrian.data.manifest import Manifest
from mondrian.data.split import split_records
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique

PHOTOS, COPIES = 100, 20


def save_copy(image: Image.Image, kind: int, path: Path, rng: np.random.Generator) -> None:
    """Save an image re-encoded (0), resized, rotated by EXIF, rotated, or cropped and resized."""
    exif = Image.Exif()
    width, height = image.size
    if kind == 1:
        image = image.resize((width // 2, height // 2))
    elif kind == 2:
        image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
    elif kind == 3:
        image = image.transpose(Image.Transpose.ROTATE_270)
    elif kind == 4:
        left, top, right, low = rng.uniform(0, 0.03, 4)
        edges = (left * width, top * height, (1 - right) * width, (1 - low) * height)
        image = image.crop(tuple(map(round, edges))).resize((400, 320))
    image.save(path, quality=int(rng.integers(40, 80)), exif=exif)


@pytest.mark.slow
def test_no_copy_crosses_the_split_and_different_photos_stay_separate(
    params: Params, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    entries = []
    for i in range(PHOTOS + COPIES):
        image = render(draw_scene(9, i % PHOTOS), 640, 512)
        save_copy(image, 0 if i < PHOTOS else i % 5, tmp_path / f"{i}.jpg", rng)
        critique = json.loads(serialize_critique(write_critique("ansel", draw_scene(8, i))))
        entries.append({"id": str(i), "photo": f"{i}.jpg", "critique": critique})
    source = tmp_path / "critiques.jsonl"
    source.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    folders = ApplicationFolders(tmp_path, tmp_path, tmp_path)
    keep = {"overall_off_mean": "keep", "wrong_picture": "keep"}  # texts are of other scenes
    link_params = params.link.model_copy(update=keep)
    context = LinkContext("ansel", folders, link_params)
    link(source, context, params.image, tmp_path / "c", tmp_path / "out")
    records = list(Manifest(tmp_path / "out" / MANIFEST_FILE).records())
    assert len(records) == PHOTOS + COPIES
    groups = {int(r.job_id): r.photo.group for r in records}
    assert [i for i in range(PHOTOS, PHOTOS + COPIES) if groups[i] != groups[i - PHOTOS]] == []
    assert len(set(groups.values())) == PHOTOS
    for seed in range(5):
        settings = params.prepare.model_copy(update={"seed": seed})
        split = split_records(records, settings)
        parts = {int(r.job_id): part for r, part in zip(records, split.parts, strict=True)}
        assert [i for i in range(PHOTOS, PHOTOS + COPIES) if parts[i] != parts[i - PHOTOS]] == []
