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
    ("stored", "name", "how"),
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
def test_a_photograph_is_found_and_it_is_told_how(
    folder: Path, stored: str, name: str, how: str
) -> None:
    assert PhotoIndex(folder, thumbnails=False).find(stored) == (folder / name, how)


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
def test_what_is_not_there_is_missing(folder: Path, stored: str) -> None:
    with pytest.raises(PhotoError) as fault:
        PhotoIndex(folder, thumbnails=True).find(stored)
    assert fault.value.reason == "image_missing"


def test_a_link_that_leads_out_is_never_followed(folder: Path) -> None:
    (folder / "out.jpg").symlink_to("../secret.jpg")
    (folder / "inside.jpg").symlink_to("a.jpg")
    (folder / "gone").symlink_to("..")
    album = PhotoIndex(folder, thumbnails=False)
    for stored in ("out.jpg", "gone/secret.jpg"):
        with pytest.raises(PhotoError) as fault:
            album.find(stored)
        assert fault.value.reason == "image_outside_source"
    assert album.find("inside.jpg") == (folder / "inside.jpg", "as_stored")


@pytest.mark.parametrize(
    ("stored", "name", "how"),
    [
        ("b.jpg", "b_thumb.jpg", "thumbnail"),
        (f"{UPLOAD}d.jpg", "thumbnails/d.jpg", "thumbnail"),
        ("b_thumb.jpg", "b_thumb.jpg", "as_stored"),
        ("thumbnails/d.jpg", "thumbnails/d.jpg", "as_stored"),
    ],
)
def test_a_thumbnail_serves_only_where_it_is_asked_for(
    folder: Path, stored: str, name: str, how: str
) -> None:
    assert PhotoIndex(folder, thumbnails=True).find(stored) == (folder / name, how)
    with pytest.raises(PhotoError, match="only a thumbnail, which link.thumbnails: use takes"):
        PhotoIndex(folder, thumbnails=False).find(stored)


def test_two_names_that_differ_in_case_are_not_confused(folder: Path) -> None:
    (folder / "A.jpg").write_bytes(b"x")
    if len({p.name for p in folder.iterdir()} & {"a.jpg", "A.jpg"}) == 2:  # not so on a Mac
        with pytest.raises(PhotoError):
            PhotoIndex(folder, thumbnails=False).find("A.JPG")
