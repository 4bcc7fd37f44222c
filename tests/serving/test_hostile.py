"""What nobody should send: refused in one line or taken as what it is, and nothing else happens."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mondrian.core.images import is_safe_to_decode
from mondrian.sample.scene import draw_scene, render
from mondrian.serving.http.uploads import RequestRejected, UploadStore
from tests import odd_files
from tests.conftest import ROOT
from tests.service_process import Running, running

PHOTO = render(draw_scene(5, 1), 320, 256)
JPEG = odd_files.encoded(PHOTO, "JPEG")
HEIC = (ROOT / "tests/core/rendered.heic").read_bytes()
REFUSED, TAKEN = odd_files.refused(PHOTO, HEIC), odd_files.taken(PHOTO, HEIC)
DOORS = ("/analyze", "/analyze_stream", "/upload", "/ask")
NAMES = (
    "../../etc/passwd",
    "..\\..\\x",
    "C:\\x",
    "/etc/passwd",
    ".",
    "..",
    "%2e%2e%2fx",
    "con.jpg",
    "a" * 300,
    "a\0b.jpg",
    "a\nb.jpg",
    "\u202egpj.exe",
    "📷.jpg",
    '"><script>alert(1)</script>.jpg',
)
TEXTS = (
    "<script>alert(1)</script>",
    "'; DROP TABLE jobs; --",
    "../../etc/passwd",
    "x" * 10_000,
    "a\0b",
    "${jndi:ldap://x}",
    "{{7*7}}",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "tmp").mkdir()
    with running(folder, env={"TMPDIR": str(folder / "tmp")}) as started:
        yield started
        assert not strangers(started)
        assert all(json.loads(line) for line in started.log().strip().split("\n"))
        assert "Traceback" not in started.log()


def strangers(service: Running) -> set[str]:
    """Files that came about outside the folder of uploads, as far as paths can lead."""
    top = service.data.parent
    around = {path.relative_to(top) for path in top.rglob("*") if path.is_file()}
    # mlx and cc are what MLX and its compiler write.
    own = re.compile(r"jobs\.db|service-1\.log|params-1\.yaml|service/uploads/|tmp/(mlx/|cc)")
    return {str(path) for path in around if not own.match(str(path))}


def kept(service: Running) -> set[Path]:
    return set((service.data / "uploads").glob("*"))


def assert_refused(told: httpx2.Response, *statuses: int) -> None:
    """4xx with {"error": one line}; a page for people has it in words."""
    assert told.status_code in (statuses or range(400, 500)), told.text
    if told.headers["content-type"].startswith("application/json"):
        assert list(told.json()) == ["error"]
        assert told.json()["error"].strip()
        assert "\n" not in told.json()["error"]
    else:
        assert str(told.url).endswith("/ask")
    assert "Traceback" not in told.text


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_photograph_is_refused_at_every_door(service: Running, door: str) -> None:
    before = kept(service)
    with service.client() as client:
        for content, status in REFUSED.values():
            assert_refused(client.post(door, files={"image": ("a.jpg", content)}), status)
    assert kept(service) == before


@pytest.mark.slow
def test_what_is_odd_and_still_a_photograph_is_critiqued(service: Running) -> None:
    def critiqued(content: bytes) -> httpx2.Response:
        with service.client() as client:
            return client.post("/analyze", files={"image": ("a.bin", content)})

    with ThreadPoolExecutor(len(TAKEN)) as pool:
        answers = dict(zip(TAKEN, pool.map(critiqued, TAKEN.values()), strict=True))
    assert {name: told.status_code for name, told in answers.items()} == dict.fromkeys(TAKEN, 200)


@pytest.mark.slow
def test_what_is_kept_shows_the_photograph_and_nothing_else(service: Running) -> None:
    with service.client() as client:
        for content in TAKEN.values():
            files = {"image": ("a.jpg", content)}
            told = client.post("/upload", files=files, data={"auto_analyze": "false"})
            assert told.status_code == 201, told.text
            path = service.data / told.json()["filename"]
            whole = path.read_bytes()
            for trace in (odd_files.SECRET.encode(), b"<script", b"PK\x03\x04", b"Exif", b"xmp"):
                assert trace not in whole
            with Image.open(path) as picture:
                assert picture.format == "JPEG"
                assert not picture.getexif()
                assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@pytest.mark.slow
def test_no_name_leads_out_of_the_folder(service: Running) -> None:
    with service.client() as client:
        for name in NAMES:
            told = client.post(
                "/upload", files={"image": (name, JPEG)}, data={"auto_analyze": "false"}
            )
            assert told.status_code == 201, (name, told.text)
            stored = told.json()["filename"]
            assert re.fullmatch(r"uploads/[0-9a-f-]{36}_[A-Za-z0-9._-]{1,60}\.jpg", stored), name
            assert (service.data / stored).is_file()
            page = client.get(f"/view/{told.json()['job_id']}")
            assert "<script>alert" not in page.text
        long = client.post("/upload", files={"image": ("a" * 5000, JPEG)})
        assert_refused(long, 400)


@pytest.mark.slow
@pytest.mark.parametrize("field", ["advisor", "mode", "job_id", "client_id", "auto_analyze"])
def test_no_field_does_more_than_say_what_it_says(service: Running, field: str) -> None:
    with service.client() as client:
        for text in TEXTS:
            fields = {"auto_analyze": "false", field: text}
            told = client.post("/upload", files={"image": ("a.jpg", JPEG)}, data=fields)
            if field in ("advisor", "mode") or "\0" in text or len(text) > 200:
                assert_refused(told, 400)
            else:
                assert told.status_code == 201
                assert re.fullmatch(r"[0-9a-f-]{36}", told.json()["job_id"])
        assert client.get("/jobs?limit=1").json()["count"] == 1  # the table is still there


@pytest.mark.slow
def test_a_key_of_an_earlier_request_shows_no_other_photograph(service: Running) -> None:
    headers, other = {"idempotency-key": "k"}, odd_files.encoded(PHOTO, "PNG")
    fields = {"auto_analyze": "false"}
    with service.client() as client:

        def post(door: str, content: bytes) -> httpx2.Response:
            return client.post(door, files={"image": ("a", content)}, data=fields, headers=headers)

        first, again = post("/upload", JPEG), post("/upload", JPEG)
        assert first.json() == again.json()
        before = kept(service)
        for door in ("/upload", "/analyze"):
            assert_refused(post(door, other), 422)
        assert_refused(post("/analyze", JPEG), 409)  # it is not to be analyzed yet
    assert kept(service) == before


@pytest.mark.slow
@pytest.mark.parametrize("told", ["/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/"])
def test_a_path_or_an_address_is_never_followed(service: Running, told: str) -> None:
    with service.client() as client:
        for door in DOORS:
            assert_refused(client.post(door, data={"image": told}), 400)
            assert_refused(client.post(door, data={"image": told}, files={"x": ("a", b"")}), 400)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "/status/%00",
        "/status/%ff",
        "/status/" + "a" * 5000,
        "/analysis/..%2f..%2fetc%2fpasswd",
        "/static/..%2f..%2f..%2fparams.yaml",
        "/static/../../app.py",
        "/photo/..%2fjobs.db",
        "/jobs?limit=%00",
        "/jobs?limit=99999999999999999999",
        "/jobs?limit=-1",
        "/jobs?limit=1e3",
        "/job/x/%3Cscript%3E",
        "/advisors/%3Cscript%3E",
        "/advisor_image/..%2fx",
        "/view/%3Cscript%3E",
    ],
)
def test_no_path_leads_anywhere_else(service: Running, path: str) -> None:
    with service.client() as client:
        told = client.get(path)
    assert told.status_code in (400, 404)
    assert "<script>" not in told.text


def test_a_photograph_that_ends_the_process_of_its_reader_is_never_opened() -> None:
    assert all(is_safe_to_decode(content) for content in TAKEN.values())
    for at in range(176, 180):  # the kind of an item, which pi-heif takes for text
        assert not is_safe_to_decode(HEIC[:at] + b"\xf4" + HEIC[at + 1 :])
    size = HEIC.index(b"meta") - 4
    for lie in (0, 1, 7, 2**32 - 1):  # of the length of the box around it
        damaged = HEIC[:size] + lie.to_bytes(4, "big") + HEIC[size + 4 :]
        assert not is_safe_to_decode(damaged.replace(b"Exif", b"Ex\xf4f", 1))


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_photograph_is_taken_or_refused_and_raises_nothing_else(
    data: st.DataObject,
) -> None:
    whole = bytearray(TAKEN[data.draw(st.sampled_from(list(TAKEN)))])
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, min(600, len(whole) - 1)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(whole), len(whole) // 2]))
    with tempfile.TemporaryDirectory() as folder:
        told = None
        try:
            UploadStore(Path(folder), 4096, 20_480, 2).save(bytes(whole[:cut]), "a.jpg")
        except RequestRejected as refused:
            told = refused
        assert len(list(Path(folder).rglob("*.jpg"))) == (0 if told else 1)
        assert told is None or (told.status in (415, 422) and "\n" not in str(told))
