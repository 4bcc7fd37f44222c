"""The page of a critique in a real browser: photo, correction in place, blind comparison."""

import json
import re
import sqlite3
import time
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect

from mondrian.core.params import Params
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from mondrian.serving.jobs.view import CritiquePage, build_page
from mondrian.storage.feedback import add_vote, load_newest_feedback, load_votes
from mondrian.storage.jobs import JobRow, JobStore
from tests import browsing
from tests.browsing import bounding_box, open_page, overflow_width, request_critique
from tests.reviewing import add_completed_job, open_store, write_feedback
from tests.service_process import ServiceProcess
from tests.serving.camera_exif import make_exif
from tests.serving.critique_texts import EVIL, critique_json
from tests.serving.service_jobs import get_row, insert_job, upload_photos

SIZE = (1600, 1280)  # pixels of the photo
VIEWS = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]
LEFT, RIGHT = "00000000-0000-4000-8000-{:012}", "ffffffff-0000-4000-8000-{:012}"
ARMS: dict[str, dict[str, Any]] = {  # what tells the model of a job
    "base": {"mode": "base", "model_used": "base"},
    "lora": {
        "mode": "lora",
        "model_used": "fine_tuned",
        "adapter": "tuned-on-prints",
        "adapter_version": "v77",
        "latency_seconds": 9.5,
    },
}


@pytest.fixture(scope="module")
def service(ab_service: ServiceProcess) -> ServiceProcess:
    return ab_service


@pytest.fixture(scope="module")
def photo(photos: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "a lake.jpg"
    photos[0].resize(SIZE).save(path, quality=90, exif=make_exif().tobytes())
    return path


@pytest.fixture(scope="module")
def job(service: ServiceProcess, photo: Path) -> str:
    """The id of a critique by the base model; its photo is that of the inserted jobs."""
    return upload_photos(service, photo)[0]


def add_critique(service: ServiceProcess, job: str, scene: int = 1, **values: Any) -> str:
    """Insert a completed job about the photo of another one; return its id."""
    row = get_row(service, job)
    text = serialize_critique(write_critique("ansel", draw_scene(5, scene)))
    return insert_job(
        service,
        llm_outputs=json.dumps({"response": text}),
        kind="upload",
        completed_at="2026-01-02T03:05:00.000+00:00",
        **{name: row[name] for name in ("filename", "exposure", "photo_sha256")},
        **({"mode": "base", "model_used": "base"} | values),
    )


def add_pair(
    service: ServiceProcess, job: str, number: int, arms: tuple[str, str] = ("base", "lora")
) -> tuple[str, str]:
    """Insert two critiques of one photo, the left one first; return their ids."""
    left, right = LEFT.format(number), RIGHT.format(number)
    add_critique(service, job, 1, id=left, **ARMS[arms[0]])
    add_critique(service, job, 2, id=right, pair_of=left, **ARMS[arms[1]])
    return left, right


def newest_feedback(service: ServiceProcess, id: str) -> dict[str, Any]:
    with service.client() as client:
        newest: dict[str, Any] = client.get(f"/jobs/{id}/feedback").json()["feedback"][-1]
        return newest


def open_editor(part: Page | Locator, title: str) -> None:
    """Open the fields of a part of the critique."""
    part.locator("summary", has_text=title).click()


def page_html(service: ServiceProcess, id: str) -> str:
    with service.client() as client:
        return str(client.get(f"/view/{id}").text)


# Which model answered stays hidden


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return open_store(tmp_path / "jobs.db")


def load_page(store: JobStore, params: Params, *rows: JobRow) -> CritiquePage:
    ids = [row["id"] for row in rows]
    feedback, votes = load_newest_feedback(store.engine, ids), load_votes(store.engine, ids)
    return build_page(rows, params, feedback, votes)


def test_a_pair_is_blind_until_a_vote_or_two_ratings(
    store: JobStore, params: Params, critique: Critique
) -> None:
    voted, rated = [
        [add_completed_job(store, critique, mode=mode) for mode in ("base", "lora")] for _ in "12"
    ]
    for rows in (voted, rated):
        page = load_page(store, params, *rows)
        assert page.is_blind
        assert [page.heading(job) for job in page.jobs] == ["Left", "Right"]
        assert page.can_vote("ansel")
    add_vote(
        store.engine, "ansel", [job.row for job in load_page(store, params, *voted).jobs], "equal"
    )
    write_feedback(store, rated[0], critique, thumbs=1)
    assert load_page(store, params, *rated).is_blind
    write_feedback(store, rated[1], critique, thumbs=-1)
    for rows in (voted, rated):
        page = load_page(store, params, *rows)
        assert not page.is_blind
        assert not page.can_vote("ansel")
        assert {page.heading(job).split(": ")[1] for job in page.jobs} == {
            "base model",
            "fine-tuned adapter",
        }
    assert load_page(store, params, *voted).votes == {"ansel": "equal"}


def test_the_sides_of_a_pair_are_random_and_stay(
    store: JobStore, params: Params, critique: Critique
) -> None:
    first_is_left = []
    for _ in range(40):
        rows = [add_completed_job(store, critique, mode=mode) for mode in ("base", "lora")]
        page, again = load_page(store, params, *rows), load_page(store, params, *reversed(rows))
        assert [job.row["id"] for job in page.jobs] == [job.row["id"] for job in again.jobs]
        first_is_left.append(page.jobs[0].row["id"] == rows[0]["id"])
    assert set(first_is_left) == {True, False}


def test_nothing_is_hidden_if_there_is_nothing_to_compare(
    store: JobStore, params: Params, critique: Critique
) -> None:
    answered = add_completed_job(store, critique)
    fell_back = add_completed_job(store, critique, mode="lora", fallback_occurred=1)
    assert not load_page(store, params, answered, fell_back).is_blind


@pytest.mark.parametrize("status", ["queued", "failed"])
def test_a_pair_stays_blind_while_one_critique_waits_or_may_be_tried_again(
    store: JobStore, params: Params, critique: Critique, status: str
) -> None:
    answered = add_completed_job(store, critique)
    page = load_page(store, params, answered, add_completed_job(store, critique, status=status))
    assert page.is_blind
    assert not page.can_vote("ansel")


def test_a_job_of_an_ab_test_is_blind_until_it_is_rated(
    store: JobStore, params: Params, critique: Critique
) -> None:
    row = add_completed_job(store, critique, model_used="ab_test_base")
    write_feedback(store, row, critique, note="a note is no rating")
    assert load_page(store, params, row).is_blind
    write_feedback(store, row, critique, verdict="accepted", critique=None)
    assert not load_page(store, params, row).is_blind
    assert not load_page(store, params, add_completed_job(store, critique)).is_blind


@pytest.mark.slow
def test_the_html_of_an_ab_test_does_not_tell_the_arm(service: ServiceProcess, job: str) -> None:
    pages = []
    for arm in ARMS.values():
        hidden = arm | {"mode": "baseline", "model_used": f"ab_test_{arm['model_used']}"}
        id = add_critique(service, job, **hidden)
        pages.append(page_html(service, id).replace(id, "ID"))
        with service.client() as client:
            rating = client.post(f"/feedback/{id}?advisor=ansel", data={"thumbs": "up"})
            assert rating.status_code == 303
        assert "answered by" in page_html(service, id)
    assert pages[0] == pages[1]
    assert "The page shows the model once you have rated it." in pages[0]
    assert "tuned-on-prints, version v77" in page_html(service, id)


@pytest.mark.slow
def test_the_html_of_a_pair_does_not_tell_the_arms(service: ServiceProcess, job: str) -> None:
    pages = []
    for number, arms in enumerate((("base", "lora"), ("lora", "base")), 10):
        ids = add_pair(service, job, number, arms)
        html = page_html(service, ids[0])
        assert html == page_html(service, ids[1])
        pages.append(html.replace(ids[0], "LEFT").replace(ids[1], "RIGHT"))
    assert pages[0] == pages[1]
    assert "v77" not in pages[0]


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_a_blind_vote_is_stored_and_then_shows_the_models(
    browser: Browser, service: ServiceProcess, job: str, width: int
) -> None:
    left, right = add_pair(service, job, width)
    with open_page(browser, service.url, width=width) as (page, _):
        page.goto(f"/view/{right}")
        expect(page.locator("article h2")).to_have_text(["Left", "Right"])
        expect(page.locator(".facts")).to_have_count(0)
        page.get_by_role("button", name="Right is better").click()
        expect(page.get_by_text("Your vote: right is better.")).to_be_visible()
        headings = ["Left: base model", "Right: fine-tuned adapter"]
        expect(page.locator("article h2")).to_have_text(headings)
        expect(page.locator(".facts").nth(1)).to_contain_text("tuned-on-prints, version v77")
        expect(page.get_by_role("button", name="Right is better")).to_have_count(0)
    with service.client() as client:
        for data, status in (({"choice": "left"}, 409), ({"choice": "up"}, 400), ({}, 400)):
            url = f"/vote/{left}?advisor=ansel"
            assert client.post(url, data=data).status_code == status
        assert client.post(f"/vote/{job}?advisor=ansel", data={"choice": "left"}).status_code == 409
    with sqlite3.connect(service.db) as connection:
        query = "SELECT left_job, right_job, choice FROM mondrian_preferences WHERE left_job = ?"
        assert connection.execute(query, (left,)).fetchall() == [(left, right, "right")]
    connection.close()


@pytest.mark.slow
def test_both_arms_can_be_requested_and_have_random_sides(
    browser: Browser, service: ServiceProcess, photo: Path
) -> None:
    with open_page(browser, service.url) as (page, _):
        path = request_critique(page, photo, mode="both")
        expect(page.locator("article h2")).to_have_text(["Left", "Right"])
        first = get_row(service, path.rsplit("/", 1)[1])
    with sqlite3.connect(service.db) as connection:
        query = "SELECT id, mode, filename FROM jobs WHERE pair_of = ?"
        other = connection.execute(query, (first["id"],)).fetchone()
    connection.close()
    assert {first["mode"], other[1]} == {"base", "lora"}
    assert other[2] == first["filename"]
    with open_page(browser, service.url) as (page, _):
        page.goto(f"/view/{other[0]}")
        expect(page.locator("article")).to_have_count(2)


@pytest.mark.slow
def test_the_rows_of_two_critiques_are_aligned_and_differences_are_marked(
    browser: Browser, service: ServiceProcess, job: str
) -> None:
    left, _ = add_pair(service, job, 20)
    with open_page(browser, service.url) as (page, _):
        page.goto(f"/view/{left}")
        dimensions = page.locator(".dimension")
        expect(dimensions).to_have_count(14)
        for i in range(7):
            one, two = bounding_box(page, ".dimension", i), bounding_box(page, ".dimension", 7 + i)
            assert one["y"] == two["y"]
            assert one["x"] + one["width"] <= two["x"]
            texts = [dimensions.nth(n).locator(".difference").inner_text() for n in (i, 7 + i)]
            scores = [float(dimensions.nth(n).locator(".value b").inner_text()) for n in (i, 7 + i)]
            if scores[0] == scores[1]:
                assert texts == ["same score"] * 2
            else:
                change = f"{abs(scores[0] - scores[1]):g}"
                higher, lower = f"▲ {change} higher", f"▼ {change} lower"
                assert texts == ([higher, lower] if scores[0] > scores[1] else [lower, higher])
        assert page.locator("svg.radar polygon.soft").count() == 2
        page.set_viewport_size({"width": 390, "height": 800})
        above, below = bounding_box(page, "article", 0), bounding_box(page, "article", 1)
        assert above["x"] == below["x"]
        assert above["y"] + above["height"] <= below["y"]


# The photo


@pytest.mark.slow
def test_the_photo_is_beside_the_critique_on_a_desk_and_on_top_on_a_phone(
    browser: Browser, service: ServiceProcess, job: str
) -> None:
    with open_page(browser, service.url) as (page, _):
        page.goto(f"/view/{job}")
        photo, critique = bounding_box(page, ".frame", 0), bounding_box(page, "article", 0)
        assert photo["width"] > critique["width"]
        assert photo["x"] + photo["width"] < critique["x"]
        page.locator(".opinion").scroll_into_view_if_needed()
        expect(page.locator(".frame img")).to_be_in_viewport(ratio=1)
        page.set_viewport_size({"width": 390, "height": 800})
        page.evaluate("scrollTo(0, 0)")
        photo, critique = bounding_box(page, ".frame", 0), bounding_box(page, "article", 0)
        assert photo["width"] == 390
        assert photo["y"] + photo["height"] < critique["y"]
        page.locator(".opinion").scroll_into_view_if_needed()
        expect(page.locator(".frame img")).not_to_be_in_viewport()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_photo_can_be_enlarged(
    browser: Browser, service: ServiceProcess, job: str, width: int
) -> None:
    with open_page(browser, service.url, width=width) as (page, _):
        page.goto(f"/view/{job}")
        link, dialog = page.locator("[data-enlarge]"), page.get_by_role("dialog")
        link.focus()
        page.keyboard.press("Enter")
        expect(dialog).to_be_visible()
        image, scale = dialog.locator("img"), dialog.locator("[data-scale]")
        page.wait_for_function("img => img.naturalWidth", arg=image.element_handle())
        assert image.evaluate("img => [img.naturalWidth, img.naturalHeight]") == list(SIZE)
        expect(scale).to_have_text("Fit")
        box = bounding_box(page, ".lightbox img", 0)
        assert box["width"] <= width
        assert box["y"] + box["height"] <= 900
        image.click()
        expect(scale).to_have_text("100 %")
        assert image.evaluate("img => img.clientWidth") == SIZE[0]
        before = dialog.locator(".stage").evaluate("stage => stage.scrollLeft")
        page.mouse.move(200, 400)
        page.mouse.down()
        page.mouse.move(100, 400)
        page.mouse.up()
        stage = dialog.locator(".stage")
        assert stage.evaluate("stage => stage.scrollLeft") == pytest.approx(before + 100, abs=2)
        expect(scale).to_have_text("100 %")  # a drag is no click
        dialog.get_by_role("button", name="Zoom in").click()
        expect(scale).to_have_text("200 %")
        page.keyboard.press("0")
        expect(scale).to_have_text("Fit")
        page.keyboard.press("Escape")
        expect(dialog).not_to_be_visible()
        expect(link).to_be_focused()


@pytest.mark.slow
def test_photo_exposure_and_histogram_need_no_scripts(
    browser: Browser, service: ServiceProcess, job: str
) -> None:
    with open_page(browser, service.url, java_script_enabled=False) as (page, _):
        page.goto(f"/view/{job}")
        for text in ("NIKON Z 6", "NIKKOR Z 35mm f/1.8 S", "f/2.8", "1/250 s", "2024-05-01 06:30"):
            expect(page.locator(".exposure")).to_contain_text(text)
        histogram = page.locator(".histogram")
        expect(histogram.locator("svg polygon")).to_have_count(4)
        expect(histogram).to_contain_text(re.compile(r"Shadows clipped \d+\.\d %"))
        expect(histogram).to_contain_text(re.compile(r"Highlights clipped \d+\.\d %"))
        grid = "frame => getComputedStyle(frame, '::after').content"
        assert page.locator(".frame").evaluate(grid) == "none"
        page.get_by_label("Rule of thirds").check()
        assert page.locator(".frame").evaluate(grid) != "none"
        page.locator("[data-enlarge]").click()
        assert page.url.endswith(f"/photo/{job}?size=full")
    html = page_html(service, job) + json.dumps(get_row(service, job))
    assert not any(secret in html for secret in ("SN-4711", "LENS-0815", "Jane Doe", "my garden"))


@pytest.mark.slow
def test_photos_are_served_in_three_sizes_and_without_metadata(
    service: ServiceProcess, photo: Path
) -> None:
    large = photo.with_name("large.jpg")
    with Image.open(photo) as image:
        image.resize((2400, 1920)).save(large, exif=make_exif().tobytes())
    id = upload_photos(service, large, wait=False)[0]
    with service.client() as client:
        for size, side in (("", 1600), ("?size=thumb", 240), ("?size=full", 2400)):
            response = client.get(f"/photo/{id}{size}")
            assert response.headers["cache-control"].startswith("private")
            image = Image.open(BytesIO(response.content))
            assert (image.format, max(image.size)) == ("JPEG", side)
            assert not image.getexif()
            assert b"garden" not in response.content
        for size in ("", "?size=full"):
            for missing in (
                "none",
                insert_job(service, filename="/etc/passwd"),
                insert_job(service),
            ):
                assert client.get(f"/photo/{missing}{size}").status_code == 404


# One form


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_one_button_saves_rating_note_scores_and_texts(
    browser: Browser, service: ServiceProcess, job: str, width: int
) -> None:
    id = add_critique(service, job)
    with open_page(browser, service.url, width=width) as (page, _):
        page.goto(f"/view/{id}")
        grade = page.locator(".grade b").inner_text()
        comment = page.locator(".dimension .reading p").first.inner_text()
        page.get_by_role("button", name="Correct it").click()
        slider = page.get_by_label("Composition, slider")
        slider.focus()
        page.keyboard.press("Home")
        expect(page.get_by_label("Composition", exact=True)).to_have_value("0")
        expect(page.locator("svg.radar polygon.two")).to_have_count(1)
        expect(page.get_by_label("Overall", exact=True)).not_to_have_value(grade)
        page.get_by_label("Comment").first.fill("Nothing leads the eye.")
        page.get_by_label("Note (optional)").fill("too kind")
        page.get_by_role("button", name="thumbs down").click()
        saved = "Saved: thumbs down with a note; corrected, 2 scores and 1 text changed"
        expect(page.get_by_text(saved)).to_be_visible()
        dimension = page.locator(".dimension").first
        expect(dimension.locator(".reading")).to_contain_text("Nothing leads the eye.")
        expect(dimension.locator(".value b")).to_have_text("0")
        expect(page.locator(".grade b")).not_to_have_text(grade)
        original = page.locator(".original dd").first
        expect(original).not_to_be_visible()
        page.get_by_text("The critique before correction").click()
        expect(original).to_contain_text(comment)
    newest = newest_feedback(service, id)
    assert (newest["thumbs"], newest["note"], newest["verdict"]) == (-1, "too kind", "corrected")
    scores = [dimension["score"] for dimension in newest["critique"]["dimensions"]]
    assert newest["critique"]["overall_score"] == pytest.approx(sum(scores) / 7, abs=0.051)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_faults_are_beside_their_fields_and_the_first_has_the_focus(
    browser: Browser, service: ServiceProcess, job: str, width: int
) -> None:
    id = add_critique(service, job)
    with open_page(browser, service.url, width=width, faulty=True) as (page, _):
        page.goto(f"/view/{id}")
        open_editor(page, "Lighting")
        page.get_by_label("Lighting", exact=True).fill("25")
        open_editor(page, "technical notes")
        page.get_by_label("Technical notes").fill("")
        page.get_by_label("Note (optional)").fill(f"half a thought\n{EVIL}")
        page.get_by_role("button", name="Save correction").click()
        expect(page.get_by_role("alert")).to_have_text("Not saved; see 2 fields below")
        lighting, notes = (
            page.get_by_label(name, exact=True) for name in ("Lighting", "Technical notes")
        )
        expect(lighting).to_be_focused()
        expect(lighting).to_have_attribute("aria-invalid", "true")
        expect(lighting).to_have_accessible_description(re.compile("It is 25; it must be from 0"))
        expect(lighting).to_have_value("25")
        expect(notes).to_have_accessible_description("It is empty")
        expect(page.get_by_label("Note (optional)")).to_have_value(f"half a thought\n{EVIL}")
        assert page.evaluate(browsing.CONTRAST_SCRIPT)["faint"] == []
        assert page.evaluate(browsing.UNLABELED_SCRIPT) == 0
        assert overflow_width(page) <= 0
        lighting.fill("9.5")
        notes.fill("Too dark.")
        lighting.focus()
        page.keyboard.press("Enter")  # saves, and is no thumbs up
        expect(page.get_by_text("Saved: a note; corrected, 2 scores and 1 text")).to_be_visible()
        assert page.evaluate("window.hacked") is None
    assert newest_feedback(service, id)["thumbs"] is None


@pytest.mark.slow
def test_buttons_of_other_forms_lose_no_input(
    browser: Browser, service: ServiceProcess, job: str
) -> None:
    left, _ = add_pair(service, job, 30)
    with open_page(browser, service.url) as (page, _):
        page.goto(f"/view/{left}")
        right = page.locator("article").nth(1)
        open_editor(right, "Lighting")
        right.get_by_label("Lighting", exact=True).fill("1.5")
        right.get_by_label("Note (optional)").fill("half a thought")
        page.locator("article").nth(0).get_by_role("button", name="thumbs up").click()
        expect(page.get_by_text("Saved: thumbs up")).to_be_visible()
        page.get_by_role("button", name="About equal").click()
        expect(page.get_by_text("Your vote: about equal.")).to_be_visible()
        expect(right.get_by_label("Lighting", exact=True)).to_have_value("1.5")
        expect(right.get_by_label("Note (optional)")).to_have_value("half a thought")
        right.get_by_role("button", name="thumbs down").click()
        expect(page.get_by_text("Saved: thumbs down with a note; corrected")).to_be_visible()
        page.reload()
        expect(right.locator(".edit[open]")).to_have_count(0)  # nothing unsaved is left


@pytest.mark.slow
def test_a_correction_is_not_discarded_by_mistake(
    browser: Browser, service: ServiceProcess, job: str
) -> None:
    id = add_critique(service, job)
    with open_page(browser, service.url, faulty=True) as (page, _):
        page.goto(f"/view/{id}")
        page.get_by_role("button", name="Use for training").click()
        expect(page.get_by_text("Saved: accepted as served; used for training")).to_be_visible()
        open_editor(page, "technical notes")
        page.get_by_label("Technical notes").fill("Too dark.")
        page.get_by_role("button", name="Do not use for training").click()
        expect(page.get_by_role("alert")).to_contain_text("save the correction, or undo the")
        expect(page.get_by_label("Technical notes")).to_have_value("Too dark.")
        page.get_by_role("button", name="Save correction").click()
        expect(page.get_by_text("Saved: corrected, 1 text changed")).to_be_visible()
        page.get_by_role("button", name="Use without correction instead").click()
        expect(page.get_by_text("Saved: accepted as served; used for training")).to_be_visible()
        page.get_by_role("button", name="Do not use for training").click()
        expect(page.get_by_text("Saved:")).to_have_count(0)


@pytest.mark.slow
def test_keyboard_shortcuts_do_not_disturb_typing(
    browser: Browser, service: ServiceProcess, job: str
) -> None:
    id = add_critique(service, job)
    with open_page(browser, service.url) as (page, _):
        page.goto(f"/view/{id}")
        note = page.get_by_label("Note (optional)")
        note.focus()
        page.keyboard.type("sudden fog? j1")
        expect(note).to_have_value("sudden fog? j1")
        expect(page.get_by_role("dialog")).to_have_count(0)
        note.blur()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
        page.keyboard.press("u")  # not while a dialog is open
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        page.keyboard.press("e")
        expect(page.get_by_role("button", name="Stop correcting")).to_be_visible()
        page.keyboard.press("e")
        page.keyboard.press("g")
        expect(page.get_by_label("Rule of thirds")).to_be_checked()
        page.keyboard.press("f")
        lightbox = page.get_by_role("dialog", name="photo")
        expect(lightbox).to_be_visible()
        page.keyboard.press("Escape")
        expect(lightbox).not_to_be_visible()
        page.keyboard.press("j")
        expect(page.locator(".overall")).to_be_focused()
        page.keyboard.press("u")
        expect(page.get_by_text("Saved: thumbs up with a note")).to_be_visible()
    left, _ = add_pair(service, job, 40)
    with open_page(browser, service.url) as (page, _):
        page.goto(f"/view/{left}")
        page.keyboard.press("1")
        expect(page.get_by_text("Your vote: left is better.")).to_be_visible()


@pytest.mark.slow
def test_keyboard_shortcuts_can_be_switched_off_in_a_browser(
    browser: Browser, service: ServiceProcess, job: str
) -> None:
    with open_page(browser, service.url, width=390) as (page, _):
        page.goto(f"/view/{job}")
        page.keyboard.press("?")
        box = page.get_by_label("Use keyboard shortcuts")
        expect(box).to_be_checked()
        expect(page.get_by_role("button", name="Close")).to_be_focused()
        box.uncheck()
        page.keyboard.press("Escape")
        page.reload()
        for key in ("?", "g", "f", "e"):
            page.keyboard.press(key)
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.get_by_label("Rule of thirds")).not_to_be_checked()
        expect(page.get_by_role("button", name="Correct it")).to_be_visible()
        page.get_by_role("button", name="Keyboard shortcuts (off)").click()
        box.check()
        page.keyboard.press("Escape")
        page.keyboard.press("g")
        expect(page.get_by_label("Rule of thirds")).to_be_checked()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_the_page_is_readable_in_every_state(
    browser: Browser, service: ServiceProcess, job: str, width: int, scheme: Any
) -> None:
    blind, _ = add_pair(service, job, 100 + VIEWS.index((width, scheme)))
    corrected = add_critique(service, job)
    with service.client() as client:
        correction = {"scores": {"Lighting": 0.5}, "note": "flat"}
        assert client.post(f"/jobs/{corrected}/feedback", json=correction).status_code == 200
    with open_page(browser, service.url, width=width, color_scheme=scheme) as (page, _):
        for id in (job, blind, corrected, insert_job(service, status="queued")):
            page.goto(f"/view/{id}")
            for key in ("", "e", "?", "Escape", "f"):
                if key:
                    page.keyboard.press(key)
                assert_readable(page)
            page.keyboard.press("Escape")


def assert_readable(page: Page) -> None:
    contrast = page.evaluate(browsing.CONTRAST_SCRIPT)
    assert contrast["seen"] > 5
    assert not contrast["faint"]
    assert page.evaluate(browsing.UNLABELED_SCRIPT) == 0
    assert overflow_width(page) <= 0


@pytest.mark.slow
def test_a_rating_is_saved_and_counted(browser: Browser, service: ServiceProcess, job: str) -> None:
    with open_page(browser, service.url) as (page, _):
        page.goto(f"/view/{job}")
        page.get_by_label("Note (optional)").fill(f"too short\n{EVIL}")
        page.get_by_role("button", name="thumbs down").click()
        expect(page.get_by_text("Saved: thumbs down with a note")).to_be_visible()
        expect(page.get_by_label("Note (optional)")).to_have_value(f"too short\n{EVIL}")
        button = page.get_by_role("button", name="thumbs down")
        expect(button).to_have_attribute("aria-pressed", "true")
        row = get_row(service, job)
        assert (row["thumbs"], row["note"]) == (-1, f"too short\n{EVIL}")
        page.goto("/history")
        expect(page.locator("li", has=page.locator(f"a[href='/view/{job}']"))).to_contain_text(
            "thumbs down with a note"
        )
    with service.client() as client:
        counted = 'mondrian_thumbs_total{model_used="base",up="false"}'
        assert counted in client.get("/metrics").text
        for data, status in (
            ({"thumbs": "sideways"}, 400),
            ({"thumbs": "up", "note": "x" * 1001}, 400),
        ):
            assert client.post(f"/feedback/{job}", data=data).status_code == status
        waiting = insert_job(service, status="queued")
        assert client.post(f"/feedback/{waiting}", data={"thumbs": "up"}).status_code == 409


@pytest.mark.slow
def test_a_correction_needs_no_javascript_and_is_for_one_advisor(
    browser: Browser, service: ServiceProcess, photo: Path
) -> None:
    id = upload_photos(service, photo, advisor="ansel,okeefe")[0]
    with open_page(browser, service.url, java_script_enabled=False) as (page, _):
        page.goto(f"/view/{id}")
        open_editor(page.locator("article").nth(1), "Lighting")
        page.locator("[name='dimensions.1.score']").nth(1).fill("0.5")
        page.get_by_role("button", name="Save correction").last.click()
        expect(page.get_by_text("Saved: corrected, 2 scores changed")).to_be_visible()
    with service.client() as client:
        feedback = client.get(f"/jobs/{id}/feedback").json()["feedback"]
        assert [(entry["advisor"], entry["verdict"]) for entry in feedback] == [
            ("okeefe", "corrected")
        ]
        rejected = client.post(f"/jobs/{id}/feedback", json={"verdict": "accepted"})
        assert rejected.status_code == 400
        assert rejected.json()["faults"] == [
            {"field": "advisor", "message": "is missing; the job has ansel, okeefe"}
        ]
        assert client.post(f"/jobs/{id}/feedback", json={"thumbs": 1}).status_code == 200
        waiting = insert_job(service, status="queued")
        assert client.post(f"/jobs/{waiting}/feedback", json={"thumbs": 1}).status_code == 409
        assert client.get(f"/jobs/{uuid4()}/feedback").status_code == 404
        huge = client.post(f"/jobs/{id}/feedback", content=b" " * 300_000)
        assert huge.status_code == 413


@pytest.mark.slow
def test_a_note_is_not_lost_when_the_other_arm_arrives(
    browser: Browser, service: ServiceProcess, job: str
) -> None:
    elsewhere = {"kind": "upload", "owner": "elsewhere:1:0:x", "leased_until": time.time() + 50}
    other = insert_job(service, status="analyzing", pair_of=job, **elsewhere)
    routes: list[Route] = []
    stream = re.compile(r"/live\?ids=")
    with open_page(browser, service.url) as (page, _):
        page.add_init_script("delete window.SharedWorker")  # its requests cannot be answered here
        page.route(stream, lambda route: routes.append(route))
        with page.expect_request(stream):
            page.goto(f"/view/{other}")
        page.get_by_label("Note (optional)").fill("half a thought")
        ended = json.dumps({"id": other, "ended": True, "status": "completed"})
        content_type = "text/event-stream"
        routes[0].fulfill(status=200, content_type=content_type, body=f"data: {ended}\n\n")
        expect(page.get_by_text("A critique has arrived")).to_be_visible()
        expect(page.get_by_label("Note (optional)")).to_have_value("half a thought")


@pytest.mark.slow
def test_jobs_of_several_advisors_and_of_other_programs_are_shown(
    browser: Browser, service: ServiceProcess, photo: Path
) -> None:
    id = upload_photos(service, photo, advisor="ansel,okeefe")[0]
    other = insert_job(
        service, analysis_markdown=critique_json("Critiqued elsewhere."), advisor="ghost_of_x"
    )
    bare = insert_job(service, advisor=None, llm_outputs="[1")
    with open_page(browser, service.url) as (page, _):
        page.goto(f"/view/{id}")
        expect(page.locator("article h2")).to_have_text(["Ansel Adams", "Georgia O'Keeffe"])
        assert page.locator("article h4").count() == 14
        page.goto(f"/view/{other}")
        expect(page.locator("h1")).to_contain_text("Ghost Of X")
        expect(page.locator(".description")).to_have_text("Critiqued elsewhere.")
        page.goto(f"/view/{bare}")
        expect(page.locator("h1")).to_be_visible()
