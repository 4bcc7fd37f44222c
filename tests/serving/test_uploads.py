"""Uploads are kept as they look, and a bad one holds up no other."""

import asyncio
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from mondrian.core.errors import DataError
from mondrian.core.params import Params
from mondrian.core.photo_decoder import DecoderLimits, DecoderPool
from mondrian.serving.http import uploads
from mondrian.serving.http.uploads import RequestRejectedError, UploadStore
from mondrian.serving.jobs.runner import JobRunner
from mondrian.storage.engine import open_engine
from mondrian.storage.jobs import JobStore, LeasePolicy
from tests.core import odd_photos
from tests.core.color_photos import P3_PROFILE, difference, make_colorful, on_white, to_p3
from tests.core.odd_photos import encode
from tests.slow_decoding import STUCK_SIDE, get_stuck


@pytest.fixture(scope="module")
def photo(photos: list[Image.Image]) -> Image.Image:
    return make_colorful(photos[5])


@pytest.fixture
def store(tmp_path: Path) -> UploadStore:
    return UploadStore(tmp_path, 4096, 20_480, 80)


def test_a_kept_upload_shows_the_colors_of_its_profile(
    store: UploadStore, photo: Image.Image
) -> None:
    large = photo.resize((960, 768))
    upload = store.save(encode(to_p3(large), "JPEG", quality=97, icc_profile=P3_PROFILE), "a.jpg")
    with Image.open(store.path(upload.filename)) as stored:
        assert "icc_profile" not in stored.info
        assert difference(stored, large) < 2
    assert upload.image.size == (160, 128)
    assert difference(upload.image, large) < 2
    assert difference(store.load_image(upload.filename), upload.image) < 1


def test_a_kept_upload_is_white_if_it_was_transparent(
    store: UploadStore, photo: Image.Image
) -> None:
    alpha = Image.linear_gradient("L").resize(photo.size)
    transparent = photo.copy()
    transparent.putalpha(alpha)
    upload = store.save(encode(transparent, "PNG"), "a.png")
    with Image.open(store.path(upload.filename)) as stored:
        assert difference(stored, on_white(photo, alpha)) < 2


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"\0\0\0\x18ftypcrx " + bytes(900), 415, "image_raw: a raw file .Canon CR3"),
        (odd_photos.make_scans(2000), 415, "image_unreadable: a JPEG of 2,000 scans"),
        (odd_photos.png_header(9100, 9100), 422, "image_too_large: 9100x9100 pixels"),
        (encode(Image.new("RGB", (300, 200), "red"), "PNG"), 422, "image_blank"),
        (encode(odd_photos.PHOTO, "BMP"), 415, "image_unreadable: a BMP, not one of"),
    ],
)
def test_a_rejected_upload_says_why(
    store: UploadStore, content: bytes, status: int, message: str
) -> None:
    with pytest.raises(RequestRejectedError, match=message) as error:
        store.save(content, "a.jpg")
    assert error.value.status == status
    assert not list(store.folder.rglob("*"))


def stuck_photo(kind: str = "JPEG") -> bytes:
    return encode(odd_photos.PHOTO.resize((STUCK_SIDE, 200)), kind)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let photos of STUCK_SIDE take forever, and shorten the limits."""
    pool = DecoderPool(4, DecoderLimits(6, 2**30))
    monkeypatch.setattr(uploads, "_convert_upload", get_stuck)
    monkeypatch.setattr(uploads, "_QUICK_DECODERS", pool)
    monkeypatch.setattr(uploads, "_SLOW_SECONDS", 14)
    yield
    pool.close()


def make_runner(params: Params, store: UploadStore) -> JobRunner:
    engine = SimpleNamespace(state=SimpleNamespace(batch_size=1))
    critique_runner: Any = SimpleNamespace(params=params, engine=engine)
    jobs = JobStore(open_engine(str(store.folder / "jobs.db")), LeasePolicy(30, 3))
    unused: Any = None
    return JobRunner(critique_runner, jobs, store, unused)


@pytest.mark.slow
@pytest.mark.usefixtures("stuck")
def test_two_bad_uploads_and_a_large_one_hold_up_no_other(tmp_path: Path, params: Params) -> None:
    """Two small photos and a large one get stuck; the others are stored before these end."""
    store = UploadStore(tmp_path, 4096, 20_480, 80)
    runner = make_runner(params, store)
    large = encode(odd_photos.PHOTO.resize((STUCK_SIDE, 120_000)), "PNG")
    assert store.is_slow(large)
    ended: list[str] = []

    async def save(name: str, content: bytes) -> None:
        try:
            await runner.decode_upload(store.save, content, name)
            ended.append(name)
        except RequestRejectedError as error:
            ended.append(f"{name} ended" if "took more than" in str(error) else str(error))

    async def save_all() -> None:
        await save("first", odd_photos.JPEG)  # starts a decoder
        bad = [save("bad", stuck_photo()), save("bad", stuck_photo()), save("large", large)]
        good = [save(f"good {i}", odd_photos.JPEG) for i in range(3)]
        await asyncio.gather(*bad, save("heic", odd_photos.HEIC), *good)

    asyncio.run(save_all())
    assert ended[-1] == "large ended"
    assert sorted(ended[:-1]) == [
        *["bad ended"] * 2,
        "first",
        *[f"good {i}" for i in range(3)],
        "heic",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("stuck")
def test_a_drain_ends_on_time_while_photos_are_decoded(tmp_path: Path, params: Params) -> None:
    store = UploadStore(tmp_path, 4096, 20_480, 80)
    errors: list[str] = []
    runner = make_runner(params, store)

    async def save(name: str, content: bytes) -> None:
        try:
            await runner.decode_upload(store.save, content, name)
        except (RequestRejectedError, asyncio.CancelledError) as error:
            errors.append(str(error))

    async def drain() -> None:
        await save("first", odd_photos.JPEG)
        saves = [asyncio.create_task(save(f"bad {i}", stuck_photo())) for i in range(6)]
        await asyncio.sleep(1)
        await runner.drain(0.1)
        await asyncio.wait(saves)

    asyncio.run(drain())
    assert len(errors) == 6
    assert not any("took more than" in error for error in errors)  # none was waited for
    with pytest.raises(RequestRejectedError, match="took more than 6 s"):
        store.save(stuck_photo(), "a.jpg")  # another service in this process continues


def test_a_folder_of_uploads_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "file", Path("/proc/mondrian")):
        with pytest.raises(DataError, match=f"--data {folder} cannot be written: ") as caught:
            UploadStore(folder, 4096, 20_480, 80).check_writable()
        assert "\n" not in str(caught.value)
    store = UploadStore(tmp_path / "new", 4096, 20_480, 80)
    assert "No such file" in store.find_fault()
    store.check_writable()
    assert store.find_fault() == ""
    assert list((tmp_path / "new/uploads").iterdir()) == []


def test_a_disk_that_is_nearly_full_is_a_fault(
    store: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes = shutil.disk_usage(store.folder).free
    monkeypatch.setattr(uploads, "_MIN_FREE_BYTES", 2 * free_bytes)
    assert "MB free; at least" in store.find_fault()


@pytest.mark.usefixtures("stuck")
def test_large_photos_wait_for_each_other(tmp_path: Path) -> None:
    store = UploadStore(tmp_path, 4096, 20_480, 80)
    assert store._slow_decoders.limits.seconds == 14
    assert store.is_slow(odd_photos.png_header(8000, 8000))
    assert not store.is_slow(odd_photos.png_header(5712, 4284))  # a phone's 24 megapixels
    assert not store.is_slow(odd_photos.HEIC)
    with pytest.raises(RequestRejectedError, match="not one of JPEG"):
        store.is_slow(b"no photo")


def test_a_missing_photo_of_a_job_is_a_reason(store: UploadStore) -> None:
    with pytest.raises(RequestRejectedError, match="image_missing"):
        store.load_image("uploads/gone.jpg")


def test_an_upload_is_stored_as_it_was_sent(store: UploadStore) -> None:
    content = encode(odd_photos.PHOTO, "PNG")
    with Image.open(store.path(store.save(content, "a").filename)) as stored:
        assert stored.size == odd_photos.SIZE
        assert difference(stored, Image.open(io.BytesIO(content))) < 3
