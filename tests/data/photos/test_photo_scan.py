import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from mondrian.core import images, photo_decoder
from mondrian.core.color import UNREADABLE_PROFILE
from mondrian.core.errors import DataError, PhotoError
from mondrian.core.photo_decoder import DecoderLimits, DecoderPool
from mondrian.data.photos import photo_scan
from mondrian.data.photos.photo_scan import CACHE_FILE, PhotoInfo, scan_photos
from tests.conftest import ROOT
from tests.slow_decoding import get_stuck_on_heif


@pytest.fixture
def files(tmp_path: Path, photos: list[Image.Image]) -> list[Path]:
    paths = [tmp_path / f"{i}.jpg" for i in range(len(photos))]
    for path, photo in zip(paths, photos, strict=True):
        photo.save(path)
    (tmp_path / "broken.jpg").write_bytes(b"no photograph")
    return [*paths, tmp_path / "broken.jpg"]


def record_decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that receives the names of the photos that are decoded."""
    decoded: list[str] = []
    original = photo_scan.read_photo_info

    def recording(path: Path, sha256: str) -> PhotoInfo:
        decoded.append(path.name)
        return original(path, sha256)

    monkeypatch.setattr(photo_scan, "read_photo_info", recording)
    return decoded


def test_a_photo_is_decoded_once_and_later_only_new_ones(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: list[Image.Image]
) -> None:
    decoded = record_decoded(monkeypatch)
    cache = tmp_path / "cache"
    first = dict(scan_photos(files, cache))
    assert sorted(decoded) == sorted(path.name for path in files)
    assert first[files[-1]].reason == "image_unreadable"
    assert (first[files[0]].width, first[files[0]].height) == photos[0].size
    decoded.clear()
    assert dict(scan_photos(files, cache)) == first
    files[0].rename(tmp_path / "renamed.jpg")  # known by its content
    files[1].write_bytes(files[2].read_bytes())  # another content that is known
    photos[0].resize((300, 240)).save(files[3])  # a new one
    second = dict(scan_photos([tmp_path / "renamed.jpg", *files[1:]], cache))
    assert [name for name in decoded if name != "broken.jpg"] == [
        "3.jpg"
    ]  # the error may be temporary
    assert second[tmp_path / "renamed.jpg"] == first[files[0]]
    assert second[files[1]] == first[files[2]]
    assert second[files[3]].width == 300


def test_scanning_in_processes_gives_the_same_result(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial = dict(scan_photos(files, tmp_path / "one"))
    monkeypatch.setattr(photo_scan, "_MAX_SERIAL", 0)
    assert dict(scan_photos(files, tmp_path / "two")) == serial


def test_a_photo_that_takes_too_long_is_rejected_and_the_others_are_scanned(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = DecoderPool(1, DecoderLimits(0.5, 2**29))
    monkeypatch.setattr(photo_decoder, "_scan_decoder", pool)
    monkeypatch.setattr(images, "read_preview", get_stuck_on_heif)
    heic = tmp_path / "phone.heic"
    heic.write_bytes((ROOT / "tests/core/rendered.heic").read_bytes())
    infos = dict(scan_photos([heic, *files], tmp_path / "cache"))
    assert infos[heic].reason == "image_unreadable"
    assert "took more than 0.5 s" in infos[heic].detail
    assert [infos[path].reason for path in files[:-1]] == [""] * (len(files) - 1)
    monkeypatch.undo()  # it was not cached: on an idle machine it is read
    assert dict(scan_photos([heic], tmp_path / "cache"))[heic].width == 640
    pool.close()


def test_what_was_assumed_about_a_photo_is_kept_in_the_cache(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    path = tmp_path / "photo.jpg"
    photos[0].save(path, icc_profile=b"broken")
    for _ in range(2):
        assert dict(scan_photos([path], tmp_path / "cache"))[path].notes == UNREADABLE_PROFILE


def test_a_missing_photo_has_a_reason(tmp_path: Path) -> None:
    ((path, info),) = scan_photos([tmp_path / "gone.jpg"], tmp_path / "cache")
    assert path.name == "gone.jpg"
    assert info.reason == "image_unreadable"


def test_a_cache_that_cannot_be_used_is_one_clear_line(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / CACHE_FILE).write_bytes(b"x" * 4096)
    with pytest.raises(DataError, match="delete this cache"):
        list(scan_photos(files, tmp_path))


def test_a_cache_of_another_version_is_cleared(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(scan_photos(files, tmp_path))
    monkeypatch.setattr(photo_scan, "CACHE_VERSION", photo_scan.CACHE_VERSION + 1)
    decoded = record_decoded(monkeypatch)
    list(scan_photos(files, tmp_path))
    assert len(decoded) == len(files)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE photos SET fingerprint = x'00'",
        "UPDATE photos SET fingerprint = NULL",
        "UPDATE photos SET reason = 'bogus', fingerprint = x''",
        "ALTER TABLE photos ADD COLUMN more",
        "DELETE FROM photos",
    ],
)
def test_a_changed_cache_is_not_trusted(files: list[Path], tmp_path: Path, change: str) -> None:
    first = dict(scan_photos(files, tmp_path))
    with closing(sqlite3.connect(tmp_path / CACHE_FILE)) as cache:
        cache.execute(change)
        cache.commit()
    assert dict(scan_photos(files, tmp_path)) == first


def test_a_temporary_error_is_not_cached(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(path: Path) -> None:
        raise PhotoError("image_unreadable", "no memory")

    with monkeypatch.context() as patch:
        patch.setattr(photo_scan, "read_preview", out_of_memory)
        assert {info.reason for _, info in scan_photos(files, tmp_path)} == {"image_unreadable"}
    assert [info.reason for _, info in scan_photos(files[:-1], tmp_path)] == [""] * (len(files) - 1)
