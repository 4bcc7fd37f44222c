"""A fifth of the photographs lies under other names, changed: none of them may cross the split."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mondrian.core.params import Params
from mondrian.critique.schema import serialize_critique
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.link import MANIFEST_NAME, LinkContext, link
from mondrian.data.manifest import Manifest
from mondrian.data.split import split_records
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique

PHOTOS, COPIES = 100, 20


def copy(picture: Image.Image, kind: int, path: Path, rng: np.random.Generator) -> None:
    """Re-encoded, resized, turned by EXIF, turned without EXIF, or lightly cropped and all that."""
    exif = Image.Exif()
    width, height = picture.size
    if kind == 1:
        picture = picture.resize((width // 2, height // 2))
    elif kind == 2:
        picture, exif[0x0112] = picture.transpose(Image.Transpose.ROTATE_90), 6
    elif kind == 3:
        picture = picture.transpose(Image.Transpose.ROTATE_270)
    elif kind == 4:
        left, top, right, low = rng.uniform(0, 0.03, 4)
        edges = (left * width, top * height, (1 - right) * width, (1 - low) * height)
        picture = picture.crop(tuple(map(round, edges))).resize((400, 320))
    picture.save(path, quality=int(rng.integers(40, 80)), exif=exif)


@pytest.mark.slow
def test_no_copy_crosses_the_split_and_no_two_photographs_are_taken_for_one(
    params: Params, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    entries = []
    for i in range(PHOTOS + COPIES):
        picture = render(draw_scene(9, i % PHOTOS), 640, 512)
        copy(picture, 0 if i < PHOTOS else i % 5, tmp_path / f"{i}.jpg", rng)
        critique = json.loads(
            serialize_critique(write_critique("ansel", draw_scene(8, i)))
        )  # texts of their own
        entries.append({"id": str(i), "photo": f"{i}.jpg", "critique": critique})
    source = tmp_path / "critiques.jsonl"
    source.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    folders = ApplicationFolders(tmp_path, tmp_path, tmp_path)
    keep = params.link.model_copy(update={"overall_off_mean": "keep"})
    link(
        source, LinkContext("ansel", folders, keep), params.image, tmp_path / "c", tmp_path / "out"
    )
    records = list(Manifest(tmp_path / "out" / MANIFEST_NAME).records())
    assert len(records) == PHOTOS + COPIES
    group = {int(r.job_id): r.photo.group for r in records}
    assert [i for i in range(PHOTOS, PHOTOS + COPIES) if group[i] != group[i - PHOTOS]] == []
    assert len(set(group.values())) == PHOTOS
    for seed in range(5):
        settings = params.prepare.model_copy(update={"seed": seed})
        found = split_records(records, settings)
        part = {int(r.job_id): p for r, p in zip(records, found.parts, strict=True)}
        assert [i for i in range(PHOTOS, PHOTOS + COPIES) if part[i] != part[i - PHOTOS]] == []
