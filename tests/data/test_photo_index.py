from pathlib import Path

import pytest

from mondrian.core.errors import PhotoError
from mondrian.data.photo_index import PhotoIndex

UPLOAD = "0b9b6e0e-5f2e-4bd4-8f39-6a1d3f0c9a11_"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "2024").mkdir(parents=True)
    (source / "thumbnails").mkdir()
    for name in (
        "a.jpg",
        "Gärten.JPG",
        "b_thumb.jpg",
        "2024/c.jpg",
        "thumbnails/d.jpg",
        "new\nline.jpg",
        f"{UPLOAD}e.jpg",
    ):
        (source / name).write_bytes(b"x")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    return source


@pytest.mark.parametrize(
    ("stored", "name", "match_kind"),
    [
        ("a.jpg", "a.jpg", "as_stored"),
        ("/Users/me/a.jpg", "a.jpg", "as_stored"),
        ("C:\\photos\\a.jpg", "a.jpg", "as_stored"),
        ("../../a.jpg", "a.jpg", "as_stored"),
        (f"uploads/{UPLOAD}a.jpg", "a.jpg", "without_upload_prefix"),
        (f"uploads/{UPLOAD}e.jpg", f"{UPLOAD}e.jpg", "as_stored"),
        ("2024/c.jpg", "2024/c.jpg", "as_stored"),
        ("A.JPG", "a.jpg", "other_spelling"),
        ("Ga\u0308rten.jpg", "Gärten.JPG", "other_spelling"),
        ("new\nline.jpg", "new\nline.jpg", "as_stored"),
    ],
)
def test_a_photo_is_matched_and_the_kind_of_match_is_returned(
    folder: Path, stored: str, name: str, match_kind: str
) -> None:
    assert PhotoIndex(folder, use_thumbnails=False).find(stored) == (folder / name, match_kind)


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "..",
        ".",
        "/",
        "missing.jpg",
        "../secret.jpg",
        "2024/../../secret.jpg",
        "a" * 5000,
        "\x00",
        "2024",
        "2024/",
        "2024/" + "c" * 5000,
        "2024/\x00",
        "c.jpg",
    ],
)
def test_a_name_without_a_photo_is_missing(folder: Path, stored: str) -> None:
    with pytest.raises(PhotoError) as error:
        PhotoIndex(folder, use_thumbnails=True).find(stored)
    assert error.value.reason == "image_missing"


def test_a_link_out_of_the_folder_is_never_followed(folder: Path) -> None:
    (folder / "out.jpg").symlink_to("../secret.jpg")
    (folder / "inside.jpg").symlink_to("a.jpg")
    (folder / "gone").symlink_to("..")
    index = PhotoIndex(folder, use_thumbnails=False)
    for stored in ("out.jpg", "gone/secret.jpg"):
        with pytest.raises(PhotoError) as error:
            index.find(stored)
        assert error.value.reason == "image_outside_source"
    assert index.find("inside.jpg") == (folder / "inside.jpg", "as_stored")


@pytest.mark.parametrize(
    ("stored", "name", "match_kind"),
    [
        ("b.jpg", "b_thumb.jpg", "thumbnail"),
        (f"{UPLOAD}d.jpg", "thumbnails/d.jpg", "thumbnail"),
        ("b_thumb.jpg", "b_thumb.jpg", "as_stored"),
        ("thumbnails/d.jpg", "thumbnails/d.jpg", "as_stored"),
    ],
)
def test_a_thumbnail_is_used_only_if_the_setting_is_use(
    folder: Path, stored: str, name: str, match_kind: str
) -> None:
    assert PhotoIndex(folder, use_thumbnails=True).find(stored) == (folder / name, match_kind)
    with pytest.raises(PhotoError, match="only a thumbnail, which link.thumbnails: use accepts"):
        PhotoIndex(folder, use_thumbnails=False).find(stored)


def test_two_names_that_differ_in_case_are_not_confused(folder: Path) -> None:
    (folder / "A.jpg").write_bytes(b"x")
    if len({p.name for p in folder.iterdir()} & {"a.jpg", "A.jpg"}) == 2:  # not so on a Mac
        with pytest.raises(PhotoError):
            PhotoIndex(folder, use_thumbnails=False).find("A.JPG")
