import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from mondrian.core.errors import DataError, PhotoError
from mondrian.data import photo_scan
from mondrian.data.photo_scan import CACHE_FILE_NAME, PhotoInfo, scan_photos


@pytest.fixture
def files(tmp_path: Path, photos: list[Image.Image]) -> list[Path]:
    paths = [tmp_path / f"{i}.jpg" for i in range(len(photos))]
    for path, photo in zip(paths, photos, strict=True):
        photo.save(path)
    (tmp_path / "broken.jpg").write_bytes(b"no photograph")
    return [*paths, tmp_path / "broken.jpg"]


def count_looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the photographs that are really decoded."""
    seen: list[str] = []
    real = photo_scan.read_photo_info

    def counted(path: Path, sha256: str) -> PhotoInfo:
        seen.append(path.name)
        return real(path, sha256)

    monkeypatch.setattr(photo_scan, "read_photo_info", counted)
    return seen


def test_a_photograph_is_looked_at_once_and_a_new_one_alone(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: list[Image.Image]
) -> None:
    seen = count_looks(monkeypatch)
    cache = tmp_path / "cache"
    first = dict(scan_photos(files, cache))
    assert sorted(seen) == sorted(path.name for path in files)
    assert first[files[-1]].reason == "image_unreadable"
    assert (first[files[0]].width, first[files[0]].height) == photos[0].size
    seen.clear()
    assert dict(scan_photos(files, cache)) == first
    files[0].rename(tmp_path / "renamed.jpg")  # known by its content
    files[1].write_bytes(files[2].read_bytes())  # another content that is known
    photos[0].resize((300, 240)).save(files[3])  # a new one
    again = dict(scan_photos([tmp_path / "renamed.jpg", *files[1:]], cache))
    assert [name for name in seen if name != "broken.jpg"] == ["3.jpg"]  # it may be mended
    assert again[tmp_path / "renamed.jpg"] == first[files[0]]
    assert again[files[1]] == first[files[2]]
    assert again[files[3]].width == 300


def test_many_are_looked_at_in_processes_with_the_same_result(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = dict(scan_photos(files, tmp_path / "one"))
    monkeypatch.setattr(photo_scan, "_ALONE", 0)
    assert dict(scan_photos(files, tmp_path / "two")) == alone


def test_a_photograph_that_is_gone_has_its_reason(tmp_path: Path) -> None:
    ((path, found),) = scan_photos([tmp_path / "gone.jpg"], tmp_path / "cache")
    assert path.name == "gone.jpg"
    assert found.reason == "image_unreadable"


def test_a_cache_that_cannot_be_used_is_one_clear_line(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / CACHE_FILE_NAME).write_bytes(b"x" * 4096)
    with pytest.raises(DataError, match="delete this cache"):
        list(scan_photos(files, tmp_path))


def test_a_cache_of_another_version_is_made_anew(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(scan_photos(files, tmp_path))
    monkeypatch.setattr(photo_scan, "CACHE_VERSION", photo_scan.CACHE_VERSION + 1)
    seen = count_looks(monkeypatch)
    list(scan_photos(files, tmp_path))
    assert len(seen) == len(files)


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE looks SET thumbnail = x'00'",
        "UPDATE looks SET thumbnail = NULL",
        "UPDATE looks SET reason = 'bogus', thumbnail = x''",
        "ALTER TABLE looks ADD COLUMN more",
        "DELETE FROM looks",
    ],
)
def test_a_cache_that_somebody_changed_is_not_believed(
    files: list[Path], tmp_path: Path, spoil: str
) -> None:
    first = dict(scan_photos(files, tmp_path))
    with closing(sqlite3.connect(tmp_path / CACHE_FILE_NAME)) as cache:
        cache.execute(spoil)
        cache.commit()
    assert dict(scan_photos(files, tmp_path)) == first


def test_a_fault_that_may_pass_is_not_remembered(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_of_memory(path: Path) -> None:
        raise PhotoError("image_unreadable", "no memory")

    with monkeypatch.context() as patch:
        patch.setattr(photo_scan, "read_preview", short_of_memory)
        assert {found.reason for _, found in scan_photos(files, tmp_path)} == {"image_unreadable"}
    assert [found.reason for _, found in scan_photos(files[:-1], tmp_path)] == [""] * (
        len(files) - 1
    )
