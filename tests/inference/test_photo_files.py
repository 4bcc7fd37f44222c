"""Every file of a folder is accounted for by name."""

import os
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from mondrian.core.errors import DataError
from mondrian.inference.photo_critiques import CritiquedPhoto, describe_skipped
from mondrian.inference.photo_files import PhotoFile, PhotoListing
from mondrian.inference.photo_reader import MAX_PREVIEW_BYTES, encode_preview
from mondrian.inference.sidecars import count_stems, sidecar_path, write_sidecars
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique
from tests.inference.critique_records import make_record

PHOTO = render(draw_scene(5, 1), 96, 80)


def test_every_file_is_a_photo_or_has_a_reason(tmp_path: Path) -> None:
    folder, output = tmp_path / "photos", tmp_path / "photos/out"
    for name in ("a", "a/.hidden", "out", "z"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    PHOTO.save(folder / "b.jpg")
    PHOTO.save(folder / "a/B.JPG")
    PHOTO.save(folder / "z/no-suffix", "PNG")
    os.link(folder / "b.jpg", folder / "copy.jpg")
    (folder / "link.jpg").symlink_to("b.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "folder-link").symlink_to("a")
    (folder / "notes.txt").write_text("words")
    (folder / "empty.jpg").touch()
    (folder / "b.xmp").write_text("<x/>")
    (folder / ".DS_Store").touch()
    (folder / ".critiques.jsonl.unfinished").write_text("{}")
    (folder / "raw.CR2").write_bytes(b"II*\0\x10\0\0\0CR\2\0" + bytes(60))
    (folder / "out/old.csv").touch()
    os.mkfifo(folder / "pipe.jpg")
    (folder / os.fsdecode(b"caf\xe9.jpg")).touch()

    listing = PhotoListing([folder, folder / "b.jpg"], output)

    names = [str(photo.path.relative_to(folder)) for photo in listing.photos]
    assert names == ["a/B.JPG", "b.jpg", "copy.jpg", "link.jpg", "z/no-suffix"]
    assert len({photo.sha256 for photo in listing.photos}) == 2
    assert {str(Path(f.name).relative_to(folder)): f.reason for f in listing.skipped} == {
        "a/.hidden": "system_file",
        "folder-link": "linked_folder",
        ".DS_Store": "system_file",
        ".critiques.jsonl.unfinished": "system_file",
        "b.xmp": "sidecar",
        "caf?.jpg": "name_not_utf8",
        "empty.jpg": "image_unreadable",
        "gone.jpg": "not_a_photo",
        "notes.txt": "not_a_photo",
        "pipe.jpg": "not_a_photo",
        "raw.CR2": "image_raw",
    }
    assert all(file.detail for file in listing.skipped)


def test_a_missing_photo_is_one_error(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "photo.jpg")
    with pytest.raises(DataError, match=r"there is .*photo\.jpg"):
        PhotoListing([tmp_path / "foto.jpg"], tmp_path / "out")


def test_a_preview_is_small_even_of_noise() -> None:
    noise = Image.effect_noise((1600, 1200), 90).convert("RGB")
    assert len(encode_preview(noise)) <= MAX_PREVIEW_BYTES
    with Image.open(BytesIO(encode_preview(render(draw_scene(5, 1))))) as image:
        assert max(image.size) <= 800


@pytest.mark.parametrize(
    ("others", "name"),
    [
        ((), "photo.xmp"),
        (("photo.xmp", "notes.txt", "photo.txt"), "photo.xmp"),
        (("photo.tif",), "photo.jpg.xmp"),
        (("PHOTO.NEF", "photo.xmp"), "photo.jpg.xmp"),
        (("photo.jpg.xmp",), "photo.jpg.xmp"),
    ],
)
def test_a_sidecar_belongs_to_one_photo(tmp_path: Path, others: tuple[str, ...], name: str) -> None:
    for other in ("photo.jpg", *others):
        (tmp_path / other).touch()
    assert sidecar_path(tmp_path / "photo.jpg", count_stems(tmp_path)) == tmp_path / name


def test_the_sidecars_of_a_folder_are_named_from_one_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [tmp_path / f"{i}.jpg" for i in range(20)]
    for photo in photos:
        photo.touch()
    (tmp_path / "7.NEF").touch()
    stems = count_stems(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", None)  # the folder is listed once, not for each photo
        patch.setattr(os, "listdir", None)
        paths = [sidecar_path(photo, stems) for photo in photos]
    assert paths[7:9] == [tmp_path / "7.jpg.xmp", tmp_path / "8.xmp"]


def test_a_sidecar_that_cannot_be_written_does_not_stop_the_others(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.xmp")  # reading it would wait for ever
    (tmp_path / "loop.xmp").symlink_to("loop.xmp")
    (tmp_path / "gone.xmp").symlink_to("nowhere.xmp")
    (tmp_path / "folder.xmp").mkdir()
    long_name = 250 * "n"
    critique = write_critique("ansel", draw_scene(5, 1))
    photos = []
    for name in ("pipe", "loop", "gone", "folder", long_name, "photo"):
        path = tmp_path / f"{name}.jpg"
        path.touch()
        record = make_record(critique, path.name, 5.0)
        photos.append(CritiquedPhoto(PhotoFile(path, "0" * 64), (record,)))
    report = write_sidecars(photos)
    assert (report.written, len(report.failed)) == (1, 5)
    assert all("no regular file" in text for text in report.failed[:4])
    assert "too long" in report.failed[4]
    assert (tmp_path / "photo.xmp").is_file()


def test_a_message_counts_sidecars_and_names_other_skipped_files(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i}.xmp").touch()
    (tmp_path / "z.jpg").write_text("no photo")
    listing = PhotoListing([tmp_path], tmp_path / "out")
    count, first, more = describe_skipped(listing.skipped)
    assert "sidecar 20" in count
    assert "z.jpg: image_unreadable" in first
    assert more == "  and 20 more, in critiques.csv"
