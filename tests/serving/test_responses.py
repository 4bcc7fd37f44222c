"""Responses of the application without a model: their URLs, HEAD, page sizes, and portraits."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from mondrian.cli.serve import parse_args
from mondrian.core.errors import ParamsError
from mondrian.core.params import load_params
from mondrian.core.photo_decoder import DecoderPool
from mondrian.serving.app import HeadMiddleware
from mondrian.serving.assignment import AnswerPlan
from mondrian.serving.http.body_limits import PhotoMemory
from mondrian.serving.portraits import draw_portrait
from mondrian.serving.service import Service
from mondrian.serving.settings import load_settings
from mondrian.storage.tables import jobs
from tests.conftest import ROOT
from tests.core.odd_photos import encode
from tests.serving.camera_exif import make_exif
from tests.serving.idle_service import IdleEngine, application, upload, write_params

DOCUMENT = "<!doctype html><p>x</p>"


@pytest.fixture
def photo(photos: list[Image.Image]) -> bytes:
    return encode(photos[0], "JPEG")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[TestClient, Service]]:
    with application(tmp_path) as parts:
        yield parts


def new_job_id(client: TestClient, photo: bytes, **fields: str) -> str:
    return str(upload(client, photo, **fields).json()["job_id"])


@pytest.mark.parametrize("value", ["https://critique.example", "https://critique.example/"])
def test_urls_begin_with_the_public_url(tmp_path: Path, photo: bytes, value: str) -> None:
    path, base = write_params(tmp_path, public_url=value), "https://critique.example"
    with application(tmp_path, "--params", str(path)) as (client, _):
        host = {"host": "critique.example"}  # as a proxy passes it; no --allow_host is needed
        assert client.get("/jobs", headers=host).status_code == 200
        job = upload(client, photo).json()
        id = job["job_id"]
        assert job["stream_url"] == f"{base}/stream/{id}"
        assert client.get(job["status_url"].removeprefix(base)).json()["id"] == id
        advisors = client.get("/advisors").json()["advisors"]
    images = [f"{base}/advisor_image/{advisor['id']}" for advisor in advisors]
    assert [advisor["image_url"] for advisor in advisors] == images


def test_urls_have_the_host_that_the_client_called(
    running: tuple[TestClient, Service], photo: bytes
) -> None:
    client, _ = running
    id = new_job_id(client, photo)
    for host in ("127.0.0.1:5100", "localhost", "[::1]:80"):
        job = client.get(f"/status/{id}", headers={"host": host}).json()
        assert job["summary_url"] == f"http://{host}/summary/{id}"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("public_url", "critique.example", "serve.public_url is 'critique.example'; write it as"),
        ("public_url", "ftp://critique.example", "serve.public_url"),
        ("public_url", "https://", "serve.public_url"),
        ("public_url", "https://critique.example:x", "serve.public_url"),
        ("public_url", "https://critique.example/path?x=1", "serve.public_url"),
        ("public_url", "https://me:secret@critique.example", "serve.public_url"),
        ("public_url", "https://[::1", "serve.public_url"),
        ("public_url", "https://*", "serve.public_url"),
        ("public_url", "https://critique.example:", "serve.public_url"),
        ("public_url", "https://kritik-für-fotos.example", "serve.public_url"),
        ("default_advisor", "monet", "serve.default_advisor is 'monet'; it must be one of ansel"),
    ],
)
def test_settings_that_clients_could_not_use_are_refused_in_one_line(
    tmp_path: Path, name: str, value: str, message: str
) -> None:
    path = write_params(tmp_path, **{name: value})
    with pytest.raises(ParamsError) as error:
        load_settings(parse_args(["--params", str(path)]))
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def test_the_default_advisor_answers_for_an_unknown_one(tmp_path: Path, photo: bytes) -> None:
    path = write_params(tmp_path, default_advisor="okeefe")
    with application(tmp_path, "--params", str(path)) as (client, _):
        job = upload(client, photo, advisor="Monet").json()
        several = upload(client, photo, advisor="monet, ansel, weston").json()
        body = {"advisor": "monet", "image_path": job["filename"]}
        again = client.post("/jobs", json=body).json()
        assert client.get("/advisors/monet").status_code == 404
    assert (job["advisor"], again["advisor"]) == ("okeefe", "okeefe")
    assert several["advisors_used"] == ["okeefe", "ansel"]


def test_an_unknown_advisor_is_refused_without_a_default(
    running: tuple[TestClient, Service], photo: bytes
) -> None:
    client, _ = running
    name = client.get(f"/status/{new_job_id(client, photo)}").json()["filename"]
    for response in (
        upload(client, photo, advisor="monet"),
        client.post("/jobs", json={"advisor": "monet", "image_path": name}),
    ):
        assert response.status_code == 400
        assert response.json() == {"error": "advisor is 'monet'; there are ansel, okeefe"}


def test_a_list_of_jobs_has_at_most_200(running: tuple[TestClient, Service]) -> None:
    client, service = running
    rows = [{"id": f"job-{i}", "status": "pending", "kind": "upload"} for i in range(203)]
    with service.store.engine.begin() as connection:
        connection.execute(jobs.insert(), rows)

    def count(query: str) -> int:
        return len(client.get(f"/jobs{query}").json()["jobs"])

    assert count("") == 100
    assert count("?limit=7") == 7
    for limit in ("200", "201", "1000", "9" * 30):  # existing scripts ask for 1000
        assert count(f"?limit={limit}") == 200
    for limit in ("0", "-1", "1e3", "x", ""):
        assert client.get(f"/jobs?limit={limit}").status_code == 400


def add_finished_job(service: Service, id: str) -> None:
    row = {"id": id, "advisor": "ansel", "mode": "baseline", "kind": "upload"}
    leased, _ = service.store.add(row | {"status": "analyzing"})
    documents = dict.fromkeys(("analysis_html", "summary_html"), DOCUMENT)
    assert service.store.complete(
        leased, **documents, enable_rag=1, fallback_occurred=0, compliant=1
    )


def test_the_status_of_a_job_has_booleans_and_no_documents(
    running: tuple[TestClient, Service],
) -> None:
    client, service = running
    add_finished_job(service, "a")
    job, full = client.get("/status/a").json(), client.get("/job/a/full-data").json()
    booleans = {name: job[name] for name in ("enable_rag", "fallback_occurred", "compliant")}
    assert [*booleans.values()] == [True, False, True]
    assert all(isinstance(value, bool) for value in booleans.values())
    assert (job["adapter"], job["llm_thinking"]) == ("", "")
    assert not {"analysis_html", "summary_html"} & set(job)
    assert full["analysis_html"] == client.get("/analysis/a").text == DOCUMENT


def test_a_full_queue_refuses_every_way_to_queue_a_job(tmp_path: Path, photo: bytes) -> None:
    path = write_params(tmp_path, max_queued_jobs=2)
    with application(tmp_path, "--params", str(path)) as (client, service):
        source = upload(client, photo).json()
        for id, status in (("failed", "failed"), ("done", "completed"), ("saved", "pending")):
            row = {"id": id, "status": status, "kind": "upload", "advisor": "ansel"}
            service.store.add(row | {"filename": source["filename"], "mode": "baseline"})
        for id in ("x", "y"):  # which no runner claims
            service.store.add({"id": id, "status": "queued", "kind": "direct", "advisor": "ansel"})
        files = {"image": ("lake.jpg", photo)}
        queued = {"status": "queued"}
        refusals = [
            client.post("/again/failed"),
            client.post("/again/saved"),
            client.put("/jobs/done", json=queued),
            client.put("/jobs/saved", json=queued),
            client.post("/more/done?advisor=okeefe"),
            client.post("/jobs", json={"image_path": source["filename"]}),
            client.post("/upload", files=files),
            client.post("/ask", files=files, data={"mode": "both"}),
        ]
        assert [response.status_code for response in refusals] == [429] * len(refusals)
        assert all(int(response.headers["retry-after"]) > 0 for response in refusals)
        assert service.store.count_queued() == 2
        assert len(service.store.list_newest(99)) == 6
        service.store.cancel("x")
        assert client.post("/again/failed", follow_redirects=False).status_code == 303


def test_a_photo_that_finds_no_memory_in_time_is_refused_and_leaves_nothing(
    running: tuple[TestClient, Service], photo: bytes
) -> None:
    client, service = running
    state = client.app.state  # type: ignore[attr-defined]
    state.photo_memory = PhotoMemory(10, 0.02)
    state.photo_memory._used_bytes = 1  # of another photo, which is not decoded yet
    files = {"image": ("lake.jpg", photo)}
    for path in ("/upload", "/analyze"):
        response = client.post(path, files=files)
        assert (response.status_code, response.headers["retry-after"]) == (503, "30")
        assert response.json()["error"].startswith("too many photos are being received; try again")
    page = client.post("/ask", files=files)
    assert (page.status_code, page.headers["retry-after"]) == (503, "30")
    assert "Too many photos are being received; try again in 30 s." in page.text
    assert service.store.list_newest(9) == []
    assert not list((service.uploads.folder / "uploads").iterdir())


def test_a_full_queue_gets_no_shadow_jobs(tmp_path: Path) -> None:
    path = write_params(tmp_path, max_queued_jobs=1, shadow_share=1.0, model_mode="ab_test")
    flags = ("--params", str(path), "--lora_path", str(tmp_path))
    args = parse_args([*flags, "--db", str(tmp_path / "jobs.db"), "--data", str(tmp_path)])
    service = Service(load_settings(args), IdleEngine())
    served, _ = service.store.add({"id": "a", "status": "queued", "kind": "direct"})
    for _ in range(3):
        plan = AnswerPlan("ab_test", "", True)
        asyncio.run(service.job_runner._queue_shadow_job(served, plan))
    assert len(service.store.list_newest(9, ("shadow",))) == 0
    service.store.cancel("a")
    for _ in range(3):
        asyncio.run(service.job_runner._queue_shadow_job(served, plan))
    assert len(service.store.list_newest(9, ("shadow",))) == 1
    service.store.close()


def test_a_full_size_photo_is_a_file_that_is_decoded_once(
    running: tuple[TestClient, Service], photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, service = running
    job = upload(client, photo).json()
    stored = service.uploads.path(job["filename"])
    other = stored.with_name("another-programs.jpg")
    other.write_bytes(encode(Image.open(BytesIO(photo)), "JPEG", exif=make_exif()))
    service.store.add({"id": "other", "filename": other.name, "status": "completed"})
    path, other_path = f"/photo/{job['job_id']}?size=full", "/photo/other?size=full"
    assert client.get(path).content == stored.read_bytes()
    first = client.get(other_path)
    assert not Image.open(BytesIO(first.content)).getexif()

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(DecoderPool, "call", refuse)
    for url, content in ((path, stored.read_bytes()), (other_path, first.content)):
        response = client.get(url)
        assert response.content == content
        assert response.headers["content-type"] == "image/jpeg"
        assert response.headers["cache-control"] == "private, max-age=3600"
        again = client.get(url, headers={"if-none-match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["cache-control"] == "private, max-age=3600"
        head = client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("etag", "content-length", "content-type"):
            assert head.headers[name] == response.headers[name]
        part = client.get(url, headers={"range": "bytes=0-9"})
        assert (part.status_code, part.content) == (206, content[:10])


def test_a_copy_in_full_size_follows_its_photo(
    running: tuple[TestClient, Service], photos: list[Image.Image]
) -> None:
    client, service = running
    path = service.uploads.path("another-programs.png")
    service.store.add({"id": "other", "filename": path.name, "status": "completed"})
    assert client.get("/photo/other?size=full").status_code == 404
    sizes = []
    for i, photo in enumerate(photos[:2]):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(photo.resize((300 + i, 200)), "PNG"))
        os.utime(path, (1000 + i, 1000 + i))
        sizes.append(Image.open(BytesIO(client.get("/photo/other?size=full").content)).size)
    assert sizes == [(300, 200), (301, 200)]
    copies = service.uploads.folder / "full"
    assert len(list(copies.iterdir())) == 1
    path.unlink()
    assert client.get("/photo/other?size=full").status_code == 404
    service.uploads.delete(path.name)
    assert not list(copies.iterdir())


@pytest.mark.parametrize("name", ["pipe.jpg", "folder.jpg", "link.jpg", "a\0b.jpg", "x" * 300, ""])
def test_a_photo_that_is_no_file_is_not_found(
    running: tuple[TestClient, Service], name: str
) -> None:
    client, service = running
    folder = service.uploads.path("x").parent
    folder.mkdir(exist_ok=True)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "link.jpg").symlink_to(folder / "link.jpg")
    service.store.add({"id": "other", "filename": name, "status": "completed"})
    for size in ("", "thumb", "full"):
        assert client.get(f"/photo/other?size={size}").status_code == 404


def test_head_is_answered_wherever_get_is(running: tuple[TestClient, Service]) -> None:
    client, service = running
    add_finished_job(service, "a")
    paths = ["/static/site.css", "/openapi.json", "/", "/history", "/experiments", "/login"]
    paths += ["/view/a", "/photo/a", "/live/a", "/jobs?format=html", "/nothing"]
    documented = client.get("/openapi.json").json()["paths"]
    paths += [
        path.replace("{id}", "a").replace("{name}", "ansel").replace("{part}", "prompt")
        for path, operations in documented.items()
        if "get" in operations
    ]
    assert len(paths) > 30
    for path in paths:
        get = client.get(path, follow_redirects=False)
        head = client.head(path, follow_redirects=False)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers.get("content-type") == get.headers.get("content-type"), path
    assert client.head("/upload").status_code == client.get("/upload").status_code == 405
    image = client.head("/advisor_image/ansel")
    assert image.headers["content-length"] == str(len(client.get("/advisor_image/ansel").content))


def test_head_ends_a_stream_that_get_would_not() -> None:
    ended = []

    async def events() -> AsyncIterator[str]:
        try:
            while True:
                yield "data: 1\n\n"
        finally:
            ended.append(True)

    async def stream(_: Any) -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream")

    client = TestClient(HeadMiddleware(Starlette(routes=[Route("/", stream)])))
    response = client.head("/")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert (response.content, ended) == (b"", [True])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photo": b"other"}, "used for another photo; send a new key"),
        ({"advisor": "okeefe"}, "used for advisor 'ansel' instead of 'okeefe';"),
        ({"mode": "lora"}, "used for mode 'baseline' instead of 'lora';"),
    ],
)
def test_an_idempotency_key_is_refused_for_another_request(
    running: tuple[TestClient, Service], photo: bytes, change: dict[str, Any], message: str
) -> None:
    client, service = running
    first = upload(client, photo, "k", advisor="ansel").json()
    assert upload(client, photo, "k", advisor="ansel").json() == first
    other = encode(Image.open(BytesIO(photo)), "PNG") if "photo" in change else photo
    fields = {"advisor": "ansel"} | {k: v for k, v in change.items() if k != "photo"}
    response = upload(client, other, "k", **fields)
    assert response.status_code == 409
    assert message in response.json()["error"]
    assert "\n" not in response.text
    assert len(list((service.uploads.folder / "uploads").iterdir())) == 1


def test_a_request_at_random_that_is_sent_again_is_the_same_request(
    running: tuple[TestClient, Service], photo: bytes
) -> None:
    client, _ = running
    for key in "abcdef":
        first, again = (upload(client, photo, key, advisor="random") for _ in range(2))
        assert first.status_code == again.status_code == 201
        assert first.json() == again.json()


def test_a_key_whose_job_failed_makes_a_new_job(
    running: tuple[TestClient, Service], photo: bytes
) -> None:
    client, service = running
    first = upload(client, photo, "k").json()["job_id"]
    assert client.put(f"/jobs/{first}", json={"status": "failed"}).status_code == 200
    second = upload(client, photo, "k").json()["job_id"]
    assert second != first
    assert upload(client, photo, "k").json()["job_id"] == second
    assert client.get(f"/status/{first}").json()["status"] == "failed"
    assert len(list((service.uploads.folder / "uploads").iterdir())) == 2


def test_a_fresh_database_shows_when_a_job_last_changed(tmp_path: Path, photo: bytes) -> None:
    with application(tmp_path) as (client, _):
        id = new_job_id(client, photo)
        created = client.get(f"/status/{id}").json()["last_activity"]
        client.put(f"/jobs/{id}", json={"status": "failed"})
        changed = client.get(f"/status/{id}").json()["last_activity"]
    connection = sqlite3.connect(tmp_path / "jobs.db")  # as existing scripts read it
    assert connection.execute("SELECT last_activity FROM jobs").fetchone() == (changed,)
    connection.close()
    assert created <= changed


def test_each_advisor_has_a_portrait_of_its_own() -> None:
    params = load_params(ROOT / "params.yaml")
    texts = [(name, params.profile(name)) for name in params.advisors]
    added = [(f"advisor_{i}", f"Advisor {i}", "") for i in range(12)]  # without a profile
    portraits = [
        np.asarray(Image.open(BytesIO(draw_portrait(*item))), dtype=float)
        for item in [*((n, p.name, f"{p.specialty} {p.bio}") for n, p in texts), *added]
    ]
    assert {portrait.shape for portrait in portraits} == {(512, 512, 3)}
    ansel = portraits[0]
    assert np.abs(ansel - ansel.mean(axis=2, keepdims=True)).max() < 4  # in black and white
    differences = [
        np.abs(a - b).mean() for i, a in enumerate(portraits) for b in portraits[:i]
    ]  # of 255
    assert min(differences) > 10


def test_a_portrait_is_a_jpeg_that_is_drawn_once(running: tuple[TestClient, Service]) -> None:
    client, _ = running
    draw_portrait.cache_clear()
    responses = [client.get("/advisor_image/okeefe") for _ in range(3)]
    assert responses[0].content[:3] == b"\xff\xd8\xff"
    assert responses[0].headers["content-type"] == "image/jpeg"
    assert len({response.content for response in responses}) == 1
    assert draw_portrait.cache_info().misses == 1
    assert responses[0].headers["content-security-policy"]
