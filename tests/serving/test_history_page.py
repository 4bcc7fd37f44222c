"""The history page, next steps and progress over HTTP, on a service without a model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from PIL import Image
from sqlalchemy import Double, Engine, Integer, select, text

from mondrian.critique.schema import serialize_critique
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from mondrian.serving.ab_outcome import load_ab_outcomes
from mondrian.serving.samples import read_sample
from mondrian.storage.engine import open_engine
from mondrian.storage.tables import feedback, jobs, migrate, preferences
from tests.rollout_world import serve_pages
from tests.waiting import PATIENCE

MODEL_NAMES = ("fine-tuned", "fine_tuned", "lora", "base", "ansel@v1")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(str(tmp_path / "mondrian.db"))
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def client(engine: Engine, tmp_path: Path) -> Iterator[httpx2.Client]:
    with (
        serve_pages(tmp_path / "mondrian.db") as url,
        httpx2.Client(base_url=url, trust_env=False, timeout=PATIENCE) as client,
    ):
        yield client


def add_job(engine: Engine, id: str, **values: Any) -> str:
    """Add a completed critique of the photo lake.jpg."""
    critique = write_critique("ansel", draw_scene(5, 1))
    row = {
        "id": id,
        "kind": "upload",
        "status": "completed",
        "advisor": "ansel",
        "mode": "baseline",
        "filename": "uploads/00000000-0000-4000-8000-000000000000_lake.jpg",
        "queued_at": float(len(id)),
        "created_at": "2026-05-01T23:30:00.000+00:00",
        "llm_outputs": json.dumps({"response": serialize_critique(critique)}),
        "score": critique.overall_score,
        "adapter": "ansel@v1",
        **values,
    }
    with engine.begin() as connection:
        connection.execute(jobs.insert(), row)
    return id


def add_pair(engine: Engine, **values: Any) -> None:
    add_job(engine, "z-base", mode="base", model_used="base", adapter=None, **values)
    tuned = {"mode": "lora", "model_used": "fine_tuned", "pair_of": "z-base"}
    add_job(engine, "a-tuned", **tuned, **values)


def save_photo(tmp_path: Path, engine: Engine, id: str) -> Path:
    with engine.begin() as connection:
        filename = connection.execute(select(jobs.c.filename).where(jobs.c.id == id)).scalar_one()
    path = tmp_path / "data" / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.radial_gradient("L").save(path)
    return path


def list_part(page: httpx2.Response) -> str:
    """Return the list of the history, without the filters."""
    assert page.status_code == 200
    return page.text.partition('<ul class="history">')[2].partition("</ul>")[0]


def test_thousands_of_critiques_have_pages_of_fifty(client: httpx2.Client, engine: Engine) -> None:
    rows = [
        {"id": f"job-{i:04}", "kind": "upload", "status": "failed", "queued_at": float(i)}
        for i in range(2020)
    ]
    with engine.begin() as connection:
        connection.execute(jobs.insert(), rows)
    first = client.get("/history")
    assert "2020 requests, newest first; page 1 of 41." in first.text
    assert list_part(first).count("<li") == 50
    assert 'href="/history?page=2">Older' in first.text
    last = client.get("/history?page=41&min=")
    assert list_part(last).count("<li") == 20
    assert "/view/job-0000" in last.text
    assert ">Older" not in last.text
    assert 'href="/history?page=40">Newer' in last.text


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("q=lake", True),
        ("q=LAKE+adams", True),
        ("q=mountain", False),
        ("q=%00", True),
        ("advisor=okeefe", False),
        ("from=2026-05-01&to=2026-05-01", True),
        ("from=2026-05-02", False),
        ("from=2026-05-02&offset=-120", True),  # two hours ahead of UTC it was past midnight
        ("to=2026-05-01&offset=-120", False),
        ("min=0&max=10", True),
        ("min=10", False),
        ("from=never&min=lots&offset=nan&page=x&arm=none", True),
    ],
)
def test_search_and_filters(
    client: httpx2.Client, engine: Engine, query: str, matches: bool
) -> None:
    add_job(engine, "job", model_used="base")
    page = client.get(f"/history?{query}")
    assert page.status_code == 200
    assert ("/view/job" in page.text) == matches
    assert ("Nothing matches" in page.text) != matches


def test_an_ab_critique_shows_no_model_anywhere_in_the_history_until_it_is_rated(
    client: httpx2.Client, engine: Engine
) -> None:
    add_job(engine, "job", model_used="ab_test_fine_tuned", fallback_occurred=1)
    for path in ("/history", "/jobs?format=html"):
        text = list_part(client.get(path))
        assert "rate it to see the model" in text
        assert not [name for name in (*MODEL_NAMES, "fallback") if name in text]
    assert "/view/job" not in client.get("/history?arm=fine_tuned").text
    assert "ansel@v1" not in client.get("/download/job/json").text
    with engine.begin() as connection:
        connection.execute(jobs.update(), {"thumbs": -1})
    assert "fine-tuned" in list_part(client.get("/history?arm=fine_tuned"))
    assert "ansel@v1" in client.get("/download/job/json").text


def test_a_pair_is_one_row_and_shows_no_arms_until_it_has_a_vote(
    client: httpx2.Client, engine: Engine
) -> None:
    add_pair(engine)
    for path in ("/history", "/jobs?format=html"):
        text = list_part(client.get(path))
        assert (text.count("<li"), text.count("/view/a-tuned")) == (1, 1)
        assert "two critiques, side by side" in text
        assert not [
            name for name in ("fine-tuned", "fine_tuned", "lora", "ansel@v1") if name in text
        ]
    for format in ("json", "html"):
        text = client.get(f"/download/z-base/{format}").text
        assert not [name for name in MODEL_NAMES if name in text.replace("z-base", "")]
    with engine.begin() as connection:
        vote = {"left_job": "a-tuned", "right_job": "z-base", "choice": "left", "advisor": "ansel"}
        connection.execute(preferences.insert(), vote)
    assert "fine-tuned" in list_part(client.get("/history"))
    assert "fine-tuned" in client.get("/download/a-tuned/html").text


def test_a_download_holds_photo_critique_and_correction(
    client: httpx2.Client, engine: Engine, tmp_path: Path
) -> None:
    critique = write_critique("ansel", draw_scene(5, 1))
    corrected = critique.model_copy(update={"technical_notes": "Too <dark>."})
    add_job(engine, "job", model_used="base")
    save_photo(tmp_path, engine, "job")
    row = {"job": "job", "advisor": "ansel", "verdict": "corrected"}
    texts = {"critique": serialize_critique(corrected), "original": serialize_critique(critique)}
    with engine.begin() as connection:
        connection.execute(feedback.insert(), row | texts)
    page = client.get("/download/job/html")
    assert page.headers["content-disposition"] == 'attachment; filename="lake-ansel.html"'
    assert "data:image/jpeg;base64," in page.text
    assert "Too &lt;dark&gt;." in page.text
    item = client.get("/download/job/json").json()["critiques"][0]
    assert item["critique"] == critique.model_dump(mode="json")
    assert item["corrected"]["technical_notes"] == "Too <dark>."
    assert client.get("/download/job/pdf").status_code == 404
    add_job(engine, "waiting", status="queued", llm_outputs=None)
    assert client.get("/download/waiting/json").status_code == 409


@pytest.mark.parametrize("answer", ["NaN", "[" * 100_000, '{"response": "\\ud800"}', b"\xff\xfe"])
def test_an_odd_row_of_another_program_breaks_no_page(
    client: httpx2.Client, engine: Engine, answer: str | bytes
) -> None:
    add_job(engine, "good")
    add_job(engine, "odd")
    odd = {"llm_outputs": answer, "filename": b"\xff.jpg", "created_at": b"\xfe", "mode": b"\xfd"}
    with engine.begin() as connection:
        columns = ", ".join(f"{name} = :{name}" for name in odd)
        connection.execute(text(f"UPDATE jobs SET {columns} WHERE id = 'odd'"), odd)
    for path in ("/history", "/jobs", "/jobs?format=html"):
        page = client.get(path)
        assert (page.status_code, "good" in page.text, "odd" in page.text) == (200, True, True)
    for path in ("/view/odd", "/status/odd", "/llm-outputs/odd", "/job/odd/full-data"):
        assert client.get(path).status_code == 200
    for path in ("/jobs/odd/feedback", "/download/odd/json", "/download/odd/html"):
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("value", ["many", b"\xff\xfe", float("inf")])
def test_what_is_no_number_in_a_column_of_numbers_breaks_nothing_and_is_logged_once(
    client: httpx2.Client,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    value: object,
) -> None:
    columns = [c.name for c in jobs.columns if isinstance(c.type, (Integer, Double))]
    id = add_job(engine, f"odd-{uuid4()}", model_used="ab_test_base", experiment="1")
    waiting = add_job(engine, f"odd-{uuid4()}", status="queued", kind="direct", llm_outputs=None)
    with engine.begin() as connection:
        values = ", ".join(f"{name} = :value" for name in columns)
        connection.execute(text(f"UPDATE jobs SET {values}"), {"value": value})
    assert {"thumbs", "tokens", "score", "latency_seconds", "share"} <= set(columns)
    listed = ["/history", "/history?min=1", "/jobs", "/jobs?format=html", "/experiments"]
    of_job = ["/view/{id}", "/status/{id}", "/status/{id}?view=detail", "/llm-outputs/{id}"]
    of_job += ["/job/{id}/full-data", "/job/{id}/prompt", "/jobs/{id}/feedback"]
    paths = listed + [path.format(id=i) for path in of_job for i in (id, waiting)]
    paths += [f"/download/{id}/json", f"/download/{id}/html", f"/stream/{id}", f"/live?ids={id}"]
    for path in paths:
        assert client.get(path).status_code == 200, path
    assert client.get(f"/status/{id}").json()["tokens"] is None
    rating = client.post(f"/jobs/{id}/feedback", json={"note": "good"})
    assert rating.json()["feedback"][0]["thumbs"] is None
    assert client.get(f"/view/{id}").status_code == 200
    assert load_ab_outcomes(engine)[0].critiques == {"base": 1}
    messages = [record.getMessage() for record in caplog.records if id in record.getMessage()]
    assert len([message for message in messages if "is no number" in message]) == 1


def test_a_number_that_is_stored_as_text_is_shown(client: httpx2.Client, engine: Engine) -> None:
    id = add_job(engine, "job")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs RENAME COLUMN tokens TO old_tokens"))
        connection.execute(text("ALTER TABLE jobs ADD COLUMN tokens"))  # without a type
        connection.execute(text("UPDATE jobs SET tokens = '12'"))
    assert client.get(f"/status/{id}").json()["tokens"] == 12


@pytest.mark.parametrize("stopped", ["z-base", "a-tuned"])
def test_a_pair_stays_blind_after_one_of_its_critiques_was_stopped(
    client: httpx2.Client, engine: Engine, stopped: str
) -> None:
    add_pair(engine)
    with engine.begin() as connection:
        is_stopped = jobs.c.id == stopped
        values = {"status": "analyzing", "llm_outputs": None, "model_used": None, "adapter": None}
        connection.execute(jobs.update().where(is_stopped), values)
    assert client.post("/stop/z-base", follow_redirects=False).status_code == 303
    other = {"z-base": "a-tuned", "a-tuned": "z-base"}[stopped]
    for rating in ({}, {"thumbs": 1}, {"verdict": "accepted"}):
        if rating:
            assert client.post(f"/jobs/{other}/feedback", json=rating).status_code == 200
        for path in ("/history", "/jobs?format=html"):
            text = list_part(client.get(path)).replace("z-base", "").replace("a-tuned", "")
            assert not [name for name in MODEL_NAMES if name in text], path
        for path in ("/view/a-tuned", "/view/z-base"):
            text = client.get(path).text
            assert not [n for n in ("fine-tuned", "base model", "ansel@v1", "Model<") if n in text]
        for format in ("json", "html"):
            text = client.get(f"/download/z-base/{format}").text.replace("z-base", "")
            assert not [name for name in MODEL_NAMES if name in text], format
        for arm in ("base", "fine_tuned"):
            assert "/view/" not in client.get(f"/history?arm={arm}").text


def test_critiques_of_an_advisor_that_params_no_longer_has_can_be_downloaded(
    client: httpx2.Client, engine: Engine
) -> None:
    add_job(engine, "job", advisor="ansel,weston")
    assert "Weston" in client.get("/download/job/html").text


def test_a_deleted_critique_takes_its_photo_with_it_unless_another_one_uses_it(
    client: httpx2.Client, engine: Engine, tmp_path: Path
) -> None:
    add_job(engine, "first")
    add_pair(engine)
    path = save_photo(tmp_path, engine, "first")
    response = client.post("/delete/first")
    assert (response.status_code, response.headers["location"]) == (303, "/history")
    assert client.get("/view/first").status_code == 404
    assert path.exists()
    vote = {"left_job": "a-tuned", "right_job": "z-base", "choice": "left", "advisor": "ansel"}
    with engine.begin() as connection:
        connection.execute(feedback.insert(), {"job": "a-tuned", "advisor": "ansel", "thumbs": 1})
        connection.execute(preferences.insert(), vote)
    client.post("/delete/z-base")
    with engine.begin() as connection:
        for table in (jobs, feedback, preferences):
            assert connection.execute(select(table)).all() == []
    assert not path.exists()


def test_a_critique_of_another_program_is_not_deleted(
    client: httpx2.Client, engine: Engine
) -> None:
    add_job(engine, "old", kind=None)
    page = client.post("/delete/old", headers={"accept": "text/html"})
    assert page.status_code == 409
    assert "belongs to another program" in page.text
    assert client.get("/status/old").status_code == 200


def test_other_sites_can_neither_delete_nor_stop(client: httpx2.Client, engine: Engine) -> None:
    add_job(engine, "job", status="queued")
    for action in ("delete", "stop", "more"):
        headers = {"origin": "https://elsewhere.example"}
        assert client.post(f"/{action}/job", headers=headers).status_code == 403
    assert client.get("/status/job").json()["status"] == "queued"


def test_a_running_critique_is_stopped_before_it_is_deleted(
    client: httpx2.Client, engine: Engine
) -> None:
    add_job(engine, "job", status="analyzing", owner="x", leased_until=9e9)
    page = client.post("/delete/job", headers={"accept": "text/html"})
    assert page.status_code == 409
    assert "Stop it, then delete it." in page.text
    assert client.post("/stop/job").status_code == 303
    row = client.get("/status/job").json()
    assert (row["status"], row["error"]) == ("failed", "stopped by a person")
    assert client.post("/stop/job").status_code == 409
    assert client.post("/delete/job").status_code == 303


def test_a_critique_that_a_client_waits_for_has_no_button_that_stops_it(
    client: httpx2.Client, engine: Engine
) -> None:
    for kind in ("upload", "direct"):
        add_job(engine, kind, kind=kind, status="analyzing", owner="x", leased_until=9e9)
    assert "/stop/upload" in client.get("/view/upload").text
    assert "/stop/" not in client.get("/view/direct").text


def test_another_advisor_critiques_the_same_photo_by_the_same_arms(
    client: httpx2.Client, engine: Engine
) -> None:
    add_pair(engine, photo_sha256="abc", exposure='{"iso": 100}')
    responses = [client.post("/more/z-base?advisor=okeefe") for _ in range(12)]
    assert {response.status_code for response in responses} == {303}
    with engine.begin() as connection:
        query = select(jobs).where(jobs.c.advisor == "okeefe")
        rows = {row["id"]: row for row in connection.execute(query).mappings()}
    seconds = {row["pair_of"]: row for row in rows.values() if row["pair_of"]}
    first_modes = set()
    for response in responses:
        first = rows[response.headers["location"].removeprefix("/view/")]
        second = seconds[first["id"]]
        assert {first["mode"], second["mode"]} == {"base", "lora"}
        for name in ("filename", "photo_sha256", "exposure"):
            assert first[name] == second[name]
        assert first["exposure"] == '{"iso": 100}'
        first_modes.add(first["mode"])
    assert first_modes == {"base", "lora"}  # so the URL does not tell the model
    assert client.post("/more/z-base?advisor=nobody").status_code == 400


def test_the_first_critique_of_a_pair_keeps_its_photo_if_the_second_is_not_stored(
    client: httpx2.Client, engine: Engine, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        fail = "WHEN NEW.pair_of IS NOT NULL BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        connection.exec_driver_sql(f"CREATE TRIGGER full BEFORE INSERT ON jobs {fail}")
    photo = read_sample("sample-1.jpg")
    response = client.post("/ask", files={"image": ("a.jpg", photo)}, data={"mode": "both"})
    assert response.status_code == 503
    with engine.begin() as connection:
        (row,) = connection.execute(select(jobs)).mappings().all()
    assert (tmp_path / "data" / row["filename"]).is_file()


def read_events(stream: httpx2.Response) -> Iterator[dict[str, Any]]:
    return (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))


def test_one_stream_carries_several_jobs_and_ends_with_the_last(
    client: httpx2.Client, engine: Engine
) -> None:
    add_job(engine, "pending", status="pending")
    add_job(engine, "done")
    with client.stream("GET", "/live?ids=pending,done,none") as stream:
        events = list(read_events(stream))
    assert events == [
        {"id": "pending", "ended": True, "status": "pending"},
        {"id": "done", "ended": True, "status": "completed"},
        {"id": "none", "ended": True, "status": "deleted"},
    ]
    assert client.get("/live?ids=").status_code == 400
    assert client.get("/live?ids=" + ",".join(f"j{i}" for i in range(101))).status_code == 400


def test_progress_says_the_place_in_the_queue(client: httpx2.Client, engine: Engine) -> None:
    for i, id in enumerate(("one", "three", "four5")):
        add_job(engine, id, status="queued", queued_at=float(i), current_step="Queued")
    add_job(engine, "shadow", status="queued", queued_at=-1.0, kind="shadow")
    with client.stream("GET", "/live?ids=four5,one") as stream:
        lines = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))
        assert [next(lines)["step"] for _ in range(2)] == [
            "Number 3 in the queue",
            "Next in the queue",
        ]
        client.post("/stop/one")
        states = {state["id"]: state for state in (next(lines), next(lines))}
        assert states["one"]["ended"]
        assert states["four5"]["place"] == 2


@pytest.mark.parametrize("path", ["/view/none", "/nonsense", "/download/none/html"])
def test_an_error_is_a_page_in_plain_words(client: httpx2.Client, path: str) -> None:
    page = client.get(path, headers={"accept": "text/html"})
    assert page.status_code == 404
    assert "<h1>Not found</h1>" in page.text
    assert '<main id="main"' in page.text
    assert client.post("/ask?sample=9", files={"image": b""}).status_code == 404
    assert client.get("/nonsense").json() == {"error": "Not Found"}
