"""Hostile uploads are rejected with one line or accepted as photos, without other effects."""

import json
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mondrian.core.heif_boxes import is_safe_to_decode
from mondrian.serving.http.uploads import RequestRejectedError, UploadStore
from tests import odd_files
from tests.conftest import ROOT
from tests.core.odd_photos import encode
from tests.service_process import ServiceProcess, run_service
from tests.serving.hostile_requests import JPEG, PHOTO, UPLOAD_PATHS, assert_rejected, stray_files

HEIC = (ROOT / "tests/core/rendered.heic").read_bytes()
REJECTED, ACCEPTED = odd_files.rejected_files(PHOTO, HEIC), odd_files.accepted_files(PHOTO, HEIC)
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
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "tmp").mkdir()
    with run_service(folder, env={"TMPDIR": str(folder / "tmp")}) as started:
        yield started
        assert not stray_files(started)
        assert all(json.loads(line) for line in started.log().strip().split("\n"))
        assert "Traceback" not in started.log()


def stored_photos(service: ServiceProcess) -> set[Path]:
    return set((service.data / "uploads").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("path", UPLOAD_PATHS)
def test_every_upload_route_rejects_files_that_are_not_photos(
    service: ServiceProcess, path: str
) -> None:
    before = stored_photos(service)
    with service.client() as client:
        for content, status in REJECTED.values():
            assert_rejected(client.post(path, files={"image": ("a.jpg", content)}), status)
    assert stored_photos(service) == before


@pytest.mark.slow
def test_unusual_photos_are_critiqued(service: ServiceProcess) -> None:
    def analyze(content: bytes) -> httpx2.Response:
        with service.client() as client:
            return client.post("/analyze", files={"image": ("a.bin", content)})

    with ThreadPoolExecutor(len(ACCEPTED)) as pool:
        answers = dict(zip(ACCEPTED, pool.map(analyze, ACCEPTED.values()), strict=True))
    assert {name: response.status_code for name, response in answers.items()} == dict.fromkeys(
        ACCEPTED, 200
    )


@pytest.mark.slow
def test_a_stored_photo_has_no_metadata_and_no_foreign_data(service: ServiceProcess) -> None:
    with service.client() as client:
        for content in ACCEPTED.values():
            files = {"image": ("a.jpg", content)}
            response = client.post("/upload", files=files, data={"auto_analyze": "false"})
            assert response.status_code == 201, response.text
            path = service.data / response.json()["filename"]
            whole = path.read_bytes()
            for trace in (odd_files.SECRET.encode(), b"<script", b"PK\x03\x04", b"Exif", b"xmp"):
                assert trace not in whole
            with Image.open(path) as image:
                assert image.format == "JPEG"
                assert not image.getexif()
                assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@pytest.mark.slow
def test_a_file_name_never_leads_out_of_the_uploads_folder(service: ServiceProcess) -> None:
    with service.client() as client:
        for name in NAMES:
            response = client.post(
                "/upload", files={"image": (name, JPEG)}, data={"auto_analyze": "false"}
            )
            assert response.status_code == 201, (name, response.text)
            stored = response.json()["filename"]
            assert re.fullmatch(r"uploads/[0-9a-f-]{36}_[A-Za-z0-9._-]{1,60}\.jpg", stored), name
            assert (service.data / stored).is_file()
            page = client.get(f"/view/{response.json()['job_id']}")
            assert "<script>alert" not in page.text
        long = client.post("/upload", files={"image": ("a" * 5000, JPEG)})
        assert_rejected(long, 400)


@pytest.mark.slow
@pytest.mark.parametrize("field", ["advisor", "mode", "job_id", "client_id", "auto_analyze"])
def test_form_fields_are_treated_as_text(service: ServiceProcess, field: str) -> None:
    with service.client() as client:
        for text in TEXTS:
            fields = {"auto_analyze": "false", field: text}
            response = client.post("/upload", files={"image": ("a.jpg", JPEG)}, data=fields)
            if field in ("advisor", "mode") or "\0" in text or len(text) > 200:
                assert_rejected(response, 400)
            else:
                assert response.status_code == 201
                assert re.fullmatch(r"[0-9a-f-]{36}", response.json()["job_id"])
        assert client.get("/jobs?limit=1").json()["count"] == 1  # the table still exists


@pytest.mark.slow
def test_an_idempotency_key_is_rejected_for_another_photo(service: ServiceProcess) -> None:
    headers, other = {"idempotency-key": "k"}, encode(PHOTO, "PNG")
    fields = {"auto_analyze": "false"}
    with service.client() as client:

        def post(path: str, content: bytes) -> httpx2.Response:
            return client.post(path, files={"image": ("a", content)}, data=fields, headers=headers)

        first, again = post("/upload", JPEG), post("/upload", JPEG)
        assert first.json() == again.json()
        before = stored_photos(service)
        for path in ("/upload", "/analyze"):
            assert_rejected(post(path, other), 409)
        assert_rejected(post("/analyze", JPEG), 409)  # it is pending
    assert stored_photos(service) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "address", ["/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/"]
)
def test_a_path_or_url_in_place_of_a_photo_is_never_followed(
    service: ServiceProcess, address: str
) -> None:
    with service.client() as client:
        for path in UPLOAD_PATHS:
            assert_rejected(client.post(path, data={"image": address}), 400)
            assert_rejected(
                client.post(path, data={"image": address}, files={"x": ("a", b"")}), 400
            )


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
        "/jobs?limit=-1",
        "/jobs?limit=1e3",
        "/job/x/%3Cscript%3E",
        "/advisors/%3Cscript%3E",
        "/advisor_image/..%2fx",
        "/view/%3Cscript%3E",
    ],
)
def test_a_url_path_never_leads_outside(service: ServiceProcess, path: str) -> None:
    with service.client() as client:
        response = client.get(path)
    assert response.status_code in (400, 404)
    assert "<script>" not in response.text


def test_a_photo_that_would_crash_its_decoder_is_never_opened() -> None:
    assert all(is_safe_to_decode(content) for content in ACCEPTED.values())
    for offset in range(176, 180):  # the type of an item, which pi-heif reads as text
        assert not is_safe_to_decode(HEIC[:offset] + b"\xf4" + HEIC[offset + 1 :])
    size = HEIC.index(b"meta") - 4
    for lie in (0, 1, 7, 2**32 - 1):  # wrong lengths of the enclosing box
        damaged = HEIC[:size] + lie.to_bytes(4, "big") + HEIC[size + 4 :]
        assert not is_safe_to_decode(damaged.replace(b"Exif", b"Ex\xf4f", 1))


@given(st.data())
@settings(max_examples=60)
def test_a_damaged_photo_is_accepted_or_rejected(data: st.DataObject) -> None:
    whole = bytearray(ACCEPTED[data.draw(st.sampled_from(list(ACCEPTED)))])
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, min(600, len(whole) - 1)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(whole), len(whole) // 2]))
    with tempfile.TemporaryDirectory() as folder:
        rejection = None
        try:
            UploadStore(Path(folder), 4096, 20_480, 2).save(bytes(whole[:cut]), "a.jpg")
        except RequestRejectedError as refused:
            rejection = refused
        assert len(list(Path(folder).rglob("*.jpg"))) == (0 if rejection else 1)
        assert rejection is None or (rejection.status in (415, 422) and "\n" not in str(rejection))
