"""link on photos as cameras and programs write them: reasons and notes on the records."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from mondrian.core.color import UNREADABLE_PROFILE
from mondrian.critique.schema import serialize_critique
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.conftest import run_stage
from tests.core.odd_photos import odd_photos, raw_files

RAW = dict((name, content) for name, content, _ in raw_files())
ODD = {name: content for name, content, _ in odd_photos()}


def test_each_kind_of_photo_has_its_record(
    make_db: Callable[..., Path], photos: list[Image.Image], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    photos[0].save(source / "good.jpg")
    photos[1].save(source / "profile.jpg", icc_profile=b"broken")
    (source / "raw.dng").write_bytes(RAW["a DNG"])
    (source / "scans.jpg").write_bytes(ODD["a JPEG of 2,000 scans"])
    (source / "float.tif").write_bytes(ODD["a TIFF of floats, order <"])
    names = ("good.jpg", "profile.jpg", "raw.dng", "scans.jpg", "float.tif")
    texts = [serialize_critique(write_critique("ansel", draw_scene(5, i))) for i in range(5)]
    database = make_db(
        *(
            {"id": name, "filename": name, "analysis_markdown": text}
            for name, text in zip(names, texts, strict=True)
        )
    )
    paths = ("--output_dir", tmp_path / "out", "--cache_dir", tmp_path / "cache")
    run = run_stage("link", "--db_path", database, "--advisor", "ansel", *paths)
    assert run.returncode == 0, run.stderr
    manifest = json.loads((tmp_path / "out/training_data_manifest.json").read_text())
    notes = {record["job_id"]: record["notes"] for record in manifest["records"]}
    assert notes == {"good.jpg": [], "profile.jpg": [UNREADABLE_PROFILE]}
    reasons = {record["job_id"]: record["reason"] for record in manifest["rejected"]}
    assert reasons == {
        "raw.dng": "image_raw",
        "scans.jpg": "image_unreadable",
        "float.tif": "image_unreadable",
    }
    details = {record["job_id"]: record["detail"] for record in manifest["rejected"]}
    assert "2,000 scans" in details["scans.jpg"]
    assert "floating-point" in details["float.tif"]
