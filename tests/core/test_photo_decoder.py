"""A photo that costs too much is ended and rejected; the others go on."""

import io
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mondrian.core import images, photo_decoder
from mondrian.core.errors import PhotoError
from mondrian.core.images import read_photo
from mondrian.core.photo_decoder import DecoderLimits, DecoderPool, is_cheap, read_preview
from mondrian.core.photo_header import read_header
from tests.conftest import ROOT
from tests.core import odd_photos
from tests.waiting import is_alive, wait_for

HEIC = Path(__file__).parent / "rendered.heic"
LIMITS = DecoderLimits(seconds=60, memory_bytes=2**29)


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    decoders = DecoderPool(1, LIMITS)
    yield decoders
    decoders.close()


def test_a_photo_is_decoded_in_another_process_alike(pool: DecoderPool) -> None:
    assert pool.call(os.getpid) != os.getpid()
    assert pool.call(read_photo, HEIC).tobytes() == read_photo(HEIC).tobytes()
    assert pool.call(read_photo, io.BytesIO(odd_photos.JPEG)).size == odd_photos.SIZE


def test_a_decoder_gets_no_key_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONDRIAN_API_KEY", "a key of 16 characters")
    pool = DecoderPool(1, LIMITS)
    assert pool.call(os.getenv, "MONDRIAN_API_KEY") is None
    assert pool.call(os.getenv, "PYTHONPATH")
    pool.close()


def test_calls_at_work_end_when_their_pool_is_closed() -> None:
    pool = DecoderPool(2, DecoderLimits(60, 2**29))
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(pool.call, time.sleep, 50) for _ in range(2)]
        time.sleep(0.1)  # one may still be starting its decoder
        pool.close()
        for call in calls:
            with pytest.raises(PhotoError, match="crashed|was ended"):
                call.result(20)
    assert pool.call(len, "the pool can be used again") == 26
    pool.close()


def test_a_reason_comes_back_from_the_other_process(pool: DecoderPool) -> None:
    with pytest.raises(PhotoError, match="a GIF") as error:
        pool.call(read_photo, io.BytesIO(odd_photos.encode(odd_photos.PHOTO, "GIF")))
    assert error.value.reason == "image_unreadable"


def test_a_photo_that_takes_too_long_is_ended() -> None:
    pool = DecoderPool(1, DecoderLimits(seconds=1.5, memory_bytes=2**29))
    process = pool.call(os.getpid)
    with pytest.raises(PhotoError, match=r"took more than 1\.5 s") as error:
        pool.call(time.sleep, 3600)
    assert error.value.reason == "image_unreadable"
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert pool.call(os.getpid) != process  # the next one has a new decoder
    pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not limit memory")
def test_a_photo_that_needs_too_much_memory_is_rejected() -> None:
    pool = DecoderPool(1, DecoderLimits(seconds=60, memory_bytes=2**28))
    large = odd_photos.png_header(20_000, 20_000)  # 1.2e9 bytes
    with pytest.raises(PhotoError, match="too much memory") as error:
        pool.call(read_photo, io.BytesIO(large), 10**9)
    assert error.value.reason == "image_unreadable"
    with pytest.raises(PhotoError, match="too much memory"):
        pool.call(bytes, 2**29)
    assert len(pool.call(bytes, 2**20)) == 2**20
    pool.close()


def test_memory_is_watched_if_the_system_does_not_limit_it(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS: the decoder is ended when it has grown."""
    pool.call(os.getpid)
    pool._idle[0].limits = DecoderLimits(60, 2**24)  # less than an idle decoder has
    monkeypatch.setattr(photo_decoder, "_MEMORY_LIMIT_WORKS", False)
    with pytest.raises(PhotoError, match="too much memory"):
        pool.call(time.sleep, 50)


def test_a_decoder_that_crashes_rejects_one_photo_only(pool: DecoderPool) -> None:
    with pytest.raises(PhotoError, match="crashed") as error:
        pool.call(os.abort)
    assert error.value.reason == "image_unreadable"
    assert pool.call(read_photo, HEIC).size == (640, 512)


def test_an_idle_decoder_that_the_system_ended_is_replaced(pool: DecoderPool) -> None:
    os.kill(pool.call(os.getpid), signal.SIGKILL)
    wait_for(lambda: not pool._idle[0].is_running)
    assert pool.call(read_photo, HEIC).size == (640, 512)


def test_other_errors_of_a_decoder_are_reasons(pool: DecoderPool) -> None:
    with pytest.raises(PhotoError, match="ValueError"):
        pool.call(int, "x")


@pytest.mark.slow
def test_busy_decoders_do_not_hold_up_the_others() -> None:
    decoders = DecoderPool(3, DecoderLimits(5, 2**29))
    with ThreadPoolExecutor(2) as threads:
        bad = [threads.submit(decoders.call, time.sleep, 3600) for _ in range(2)]
        assert decoders.call(read_photo, HEIC).size == (640, 512)
        assert {type(future.exception()) for future in bad} == {PhotoError}
    decoders.close()


def test_a_quick_photo_needs_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("started")

    monkeypatch.setattr(photo_decoder._scan_decoder, "call", fail)
    path = tmp_path / "photo"
    for kind in ("JPEG", "PNG", "WEBP"):
        odd_photos.PHOTO.save(path, kind)
        assert read_preview(path).size == odd_photos.SIZE
    with pytest.raises(AssertionError, match="started"):
        read_preview(HEIC)


def test_a_slow_photo_is_read_alike_in_another_process() -> None:
    assert not is_cheap(read_header(HEIC))
    bounded, direct = read_preview(HEIC), images.read_preview(HEIC)
    assert (bounded.size, bounded.notes) == (direct.size, direct.notes)
    assert bounded.image.tobytes() == direct.image.tobytes()


def test_what_counts_as_quick() -> None:
    size_offset = odd_photos.JPEG.index(b"\xff\xc0") + 5
    size = struct.pack(">HH", 6000, 8064)  # 48 megapixels, as phones make them
    large = odd_photos.JPEG[:size_offset] + size + odd_photos.JPEG[size_offset + 4 :]
    assert is_cheap(read_header(io.BytesIO(large)))
    assert not is_cheap(read_header(io.BytesIO(odd_photos.png_header(8064, 8064))))
    assert not is_cheap(read_header(io.BytesIO(odd_photos.TIFF)))
    assert not is_cheap(read_header(io.BytesIO(large.replace(b"\xff\xd9", b"\xff\xda\0\2" * 9))))


def test_no_decoder_outlives_a_killed_run(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from mondrian.core.photo_decoder import DecoderLimits, DecoderPool\n"
        "pool = DecoderPool(1, DecoderLimits(60, 2**29))\n"
        "Path(sys.argv[1]).write_text(str(pool.call(os.getpid)))\ntime.sleep(3600)"
    )
    file = tmp_path / "process"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code, str(file)], env=env) as run:
        wait_for(lambda: file.exists() and bool(file.read_text()))
        run.kill()
    decoder = int(file.read_text())
    wait_for(lambda: not is_alive(decoder))
