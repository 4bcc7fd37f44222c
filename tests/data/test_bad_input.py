"""All kinds of bad input in one database: each job has its reason and a clear detail."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from mondrian.critique.schema import serialize_critique
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.conftest import assert_one_error, run_stage
from tests.core.odd_photos import png_header

MakeDb = Callable[..., Path]


def write_bad_photos(source: Path, photos: list[Image.Image]) -> dict[str, str]:
    """Write files that cannot be used, and return the reason of each."""
    photos[0].save(source / "cut.jpg")
    (source / "cut.jpg").write_bytes((source / "cut.jpg").read_bytes()[:-3000])
    (source / "bomb.png").write_bytes(png_header(30_000, 30_000))
    (source / "phone.heic").write_bytes(b"\x00\x00\x00\x18ftypheic" + b"\x00" * 500)
    Image.new("RGB", (300, 300), "red").save(source / "red.png")
    photos[1].save(source / "new\nline.jpg")
    return {
        "cut.jpg": "image_unreadable",
        "bomb.png": "image_too_large",
        "phone.heic": "image_unreadable",
        "red.png": "image_blank",
        "a\nmissing.jpg": "image_missing",
        "new\nline.jpg": "",
    }


def test_each_bad_job_has_its_reason_and_the_good_ones_are_linked(
    make_db: MakeDb, photos: list[Image.Image], tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    expected = write_bad_photos(tmp_path / "source", photos)
    photos[2].save(tmp_path / "source" / "good.jpg")
    texts = [serialize_critique(write_critique("ansel", draw_scene(5, i))) for i in range(20)]
    rows = [
        {"id": name, "filename": name, "analysis_markdown": texts[i]}
        for i, name in enumerate(expected)
    ]
    path = make_db(*rows, {"id": "good", "filename": "good.jpg", "analysis_markdown": texts[15]})
    insert = "INSERT INTO jobs (id, filename, advisor, status, analysis_markdown) VALUES "
    with closing(sqlite3.connect(path)) as connection:
        invalid = texts[16].encode().replace(b"the", b"\xff\xfe", 1)
        blob = "('bytes', 'good.jpg', 'ansel', 'done', CAST(? AS TEXT))"
        connection.execute(insert + blob, [invalid])
        long = "('long', 'good.jpg', 'ansel', 'done', hex(zeroblob(100000000)))"  # 200 MB
        connection.execute(insert + long)
        connection.commit()
    before = path.stat()
    run = run_stage(
        "link",
        "--db_path",
        path,
        "--advisor",
        "ansel",
        "--output_dir",
        tmp_path / "out",
        "--cache_dir",
        tmp_path / "cache",
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    manifest = json.loads((tmp_path / "out/training_data_manifest.json").read_text())
    reasons = {r["job_id"]: r["reason"] for r in manifest["rejected"]}
    expected |= {"bytes": "not_utf8", "long": "too_long"}
    assert reasons == {name: reason for name, reason in expected.items() if reason}
    assert {r["job_id"] for r in manifest["records"]} == {"good", "new\nline.jpg"}
    details = {r["job_id"]: r["detail"] for r in manifest["rejected"]}
    assert details["long"] == "analysis_markdown has 200,000,000 characters; at most 1,000,000"
    assert "30000x30000" in details["bomb.png"]
    assert "HEIF" in details["phone.heic"]
    assert "truncated" in details["cut.jpg"]
    for reason in reasons.values():
        assert f"{reason} {list(reasons.values()).count(reason)}" in run.stdout
    assert sorted(p.name for p in path.parent.iterdir() if p.is_file()) == [path.name]
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)


def test_if_no_pair_is_left_the_error_names_each_setting_and_its_cost(
    make_db: MakeDb, photos: list[Image.Image], tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    for i, photo in enumerate(photos):
        photo.save(tmp_path / "source" / f"{i}.jpg")
    text = serialize_critique(write_critique("ansel", draw_scene(5, 1)))
    rows = [{"filename": f"{i}.jpg", "analysis_markdown": text} for i in range(4)]
    other = serialize_critique(write_critique("ansel", draw_scene(5, 2)))
    path = make_db(*rows, {"filename": "5.jpg", "analysis_markdown": other, "mode": "lora"})
    args = ("--db_path", path, "--advisor", "ansel", "--output_dir", tmp_path / "out")
    assert_one_error(
        run_stage("link", *args, "--cache_dir", tmp_path / "cache"),
        "none of 5 finished jobs of 'ansel' gives a pair (shared_text 4, made_by_adapter 1)",
        "link.shared_text: keep in params.yaml gives up to 4: teaches a text about other photos",
        "link.made_by_adapter: keep in params.yaml gives up to 1: the adapter learns from an adapt",
    )


@pytest.mark.parametrize("name", ["critiques.jsonl", "critiques.csv"])
def test_a_folder_with_a_list_is_linked(
    photos: list[Image.Image], tmp_path: Path, name: str
) -> None:
    for i, photo in enumerate(photos[:3]):
        photo.save(tmp_path / f"{i}.jpg")
    texts = [serialize_critique(write_critique("ansel", draw_scene(5, i))) for i in range(3)]
    if name.endswith(".jsonl"):
        lines = [json.dumps({"photo": f"{i}.jpg", "text": t}) for i, t in enumerate(texts)]
    else:
        quoted = [text.replace('"', '""') for text in texts]
        lines = ["photo,critique", *(f'{i}.jpg,"{text}"' for i, text in enumerate(quoted))]
    (tmp_path / name).write_text("\n".join([*lines, "cut off"]) + "\n")
    run = run_stage(
        "link",
        "--db_path",
        tmp_path,
        "--advisor",
        "ansel",
        "--output_dir",
        tmp_path / "out",
        "--cache_dir",
        tmp_path / "cache",
    )
    assert run.returncode == 0, run.stderr
    assert "4 finished jobs → 3 pairs from 3 photos; 1 rejected" in run.stdout
