"""Clients without an id of their own are known by a signed cookie or their address."""

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.cookies import SimpleCookie
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from mondrian.core.errors import DataError
from mondrian.serving.http.client_identity import COOKIE, ClientKey
from mondrian.serving.service import Service
from tests.core.odd_photos import encode
from tests.serving.idle_service import URL, application, upload, write_params
from tests.storage.job_rows import get_row

KEY, OTHER_KEY = ClientKey(b"k" * 32), ClientKey(b"o" * 32)
BROWSER = {"accept": "text/html,*/*;q=0.8"}


def test_a_cookie_is_one_client_and_its_stored_id_is_not_in_it() -> None:
    first, second = KEY.make_cookie(), KEY.make_cookie()
    assert KEY.identify_cookie(first) == KEY.identify_cookie(first) != KEY.identify_cookie(second)
    digest = KEY.identify_cookie(first).removeprefix("browser-")
    assert len(digest) == 32
    assert digest not in first


def test_a_forged_cookie_is_nobody() -> None:
    id, _, signature = KEY.make_cookie().partition(".")
    other_id, _, other_signature = KEY.make_cookie().partition(".")
    assert KEY.identify_cookie(f"{id}.{signature}")
    for forged in (
        id,
        f"{id}.",
        f".{signature}",
        f"{id}.{other_signature}",
        f"{other_id}.{signature}",
        f"{id}.{signature[:-1]}",
        f"{id}.{signature}0",
        f"{id}.{signature}".upper(),
        OTHER_KEY.make_cookie(),
    ):
        assert KEY.identify_cookie(forged) == "", forged


@given(st.text(max_size=100))
def test_a_cookie_of_any_text_is_nobody(value: str) -> None:
    assert KEY.identify_cookie(value) == ""


def test_an_address_is_one_client_and_cannot_be_read_from_its_stored_id() -> None:
    ids = [KEY.identify_address(address) for address in ("192.168.1.20", "192.168.1.21", "")]
    assert len(set(ids)) == 3
    assert not any("192" in id for id in ids)
    assert KEY.identify_address("192.168.1.20") == ids[0]
    assert OTHER_KEY.identify_address("192.168.1.20") not in ids
    assert KEY.identify_address("::ffff:192.168.1.20") == ids[0]
    home = {KEY.identify_address(f"2001:db8:1:2:{rest}") for rest in (":1", ":ffff", "a:b:c:d")}
    assert len(home) == 1
    assert KEY.identify_address("2001:db8:1:3::1") not in home
    assert KEY.identify_address("fe80::1%en0") != KEY.identify_address("fe80::2%en0")


def test_the_key_is_made_once_and_only_its_user_may_read_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:  # several services on one folder
        keys = list(pool.map(ClientKey.load, [tmp_path] * 8))
    assert len({key.identify_address("10.0.0.1") for key in keys}) == 1
    path = tmp_path / "client.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(DataError, match="client.key has 5 bytes instead of 32; delete it"):
        ClientKey.load(tmp_path)
    with pytest.raises(DataError, match="; serve.identify_clients needs it"):
        ClientKey.load(path)  # not a folder


@pytest.fixture
def photo(photos: list[Image.Image]) -> bytes:
    return encode(photos[0], "JPEG")


@contextmanager
def running(tmp_path: Path, identifies: bool = True) -> Iterator[tuple[TestClient, Service]]:
    path = write_params(tmp_path, identify_clients=identifies)
    with application(tmp_path, "--params", str(path)) as (client, service):
        client.cookies.clear()
        yield client, service


def subject(service: Service, response: httpx2.Response) -> str:
    assert response.status_code == 201, response.text
    return str(get_row(service.store, response.json()["job_id"])["subject"])


def test_a_browser_is_one_client_by_its_cookie(tmp_path: Path, photo: bytes) -> None:
    with running(tmp_path) as (client, service):
        page = client.get("/", headers=BROWSER)
        cookie = SimpleCookie(page.headers["set-cookie"])[COOKIE]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
        assert not cookie["secure"]
        assert "set-cookie" not in client.get("/history", headers=BROWSER).headers
        first, second = (upload(client, photo) for _ in range(2))
        assert subject(service, first) == subject(service, second)
        assert subject(service, first).startswith("browser-")
        body = {"image_path": first.json()["filename"]}
        assert subject(service, client.post("/jobs", json=body)) == subject(service, first)
        more = client.post(f"/more/{first.json()['job_id']}?advisor=okeefe", follow_redirects=False)
        assert get_row(service.store, more.headers["location"].rpartition("/")[2])[
            "subject"
        ] == subject(service, first)
        client.cookies.clear()
        client.get("/", headers=BROWSER)
        assert subject(service, upload(client, photo)) != subject(service, first)
        stored = str(service.store.list_newest(9))
        assert cookie.value not in stored
        assert "testclient" not in stored


def test_programs_are_known_by_their_address_and_get_no_cookie(
    tmp_path: Path, photo: bytes
) -> None:
    with running(tmp_path) as (client, service):
        first, second = upload(client, photo, job_id="1"), upload(client, photo, job_id="2")
        assert "set-cookie" not in first.headers
        assert subject(service, first) == subject(service, second)
        assert subject(service, first).startswith("address-")
        other = TestClient(client.app, URL, client=("10.0.0.9", 1))
        assert subject(service, upload(other, photo)) != subject(service, first)


def test_its_own_id_comes_before_cookie_and_address(tmp_path: Path, photo: bytes) -> None:
    with running(tmp_path) as (client, service):
        client.get("/", headers=BROWSER)
        assert subject(service, upload(client, photo, client_id="ipad")) == "ipad"
        client.headers["x-client-id"] = "studio"
        first = upload(client, photo, client_id="ipad")
        assert subject(service, first) == "studio"
        body = {"image_path": first.json()["filename"]}
        assert subject(service, client.post("/jobs", json=body)) == "studio"


def test_a_browser_with_a_forged_cookie_is_known_by_its_address_and_gets_another(
    tmp_path: Path, photo: bytes
) -> None:
    with running(tmp_path) as (client, service):
        by_address = subject(service, upload(client, photo))
        id, _, signature = KEY.make_cookie().partition(".")
        forged = {"cookie": f"{COOKIE}={id}.{signature}"}
        assert "set-cookie" in client.get("/", headers=BROWSER | forged).headers
        client.cookies.clear()
        client.headers["cookie"] = forged["cookie"]
        assert subject(service, upload(client, photo)) == by_address


def test_by_default_each_request_is_a_client_and_no_cookie_is_set(
    tmp_path: Path, photo: bytes
) -> None:
    with running(tmp_path, identifies=False) as (client, service):
        assert "set-cookie" not in client.get("/", headers=BROWSER).headers
        first, second = upload(client, photo), upload(client, photo)
        assert subject(service, first) == first.json()["job_id"] != subject(service, second)
        assert not (service.uploads.folder / "client.key").exists()
