"""The pages as people meet them: in a real browser, on the real service, with mondrian-tiny."""

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from mondrian.critique.schema import DIMENSIONS
from tests import browsing
from tests.browsing import choose, critiqued, opened, too_wide
from tests.conftest import ROOT
from tests.service_process import Running, running

pytestmark = pytest.mark.slow
HEIC = ROOT / "tests/core/rendered.heic"
EVIL = "<script>hacked = 1</script><img src=x onerror='hacked = 1'>\"'</textarea></style>"
KEY = "a key of more than sixteen characters"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing.browser() as started:
        yield started


@pytest.fixture(scope="module")
def service(adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    browsing.chromium()
    folder = tmp_path_factory.mktemp("pages")
    with running(folder, "--lora_path", adapters, "--model_mode", "ab_test") as started:
        yield started


@pytest.fixture(scope="module")
def photo(photos: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "a lake.jpg"
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    photos[0].resize((1600, 1280)).save(path, quality=90, exif=exif)
    return path


@pytest.fixture(scope="module")
def job(service: Running, photo: Path) -> str:
    """A critique by the base; its id."""
    return finished(service, photo)[0]


def finished(service: Running, *photos: Path, wait: bool = True, **fields: str) -> list[str]:
    """Critiques that were asked for by HTTP."""
    data = {"advisor": "ansel", "mode": "base", **fields}
    ids = []
    with service.client() as client:
        for photo in photos:
            files = {"image": (photo.name, photo.read_bytes())}
            ids.append(client.post("/upload", files=files, data=data).json()["job_id"])
        while wait and any(client.get(f"/status/{i}").json()["status"] != "completed" for i in ids):
            time.sleep(0.1)
    return ids


def row_of(service: Running, id: str) -> dict[str, Any]:
    with service.client() as client:
        told: dict[str, Any] = client.get(f"/status/{id}").json()
        return told


def written(service: Running, **values: Any) -> str:
    """A job put straight into the database, as another program would; its id."""
    row = {
        "id": str(uuid4()),
        "advisor": "ansel",
        "status": "completed",
        "queued_at": time.time(),
        "created_at": "2026-01-02T03:04:05.000+00:00",
        **values,
    }
    marks = ", ".join("?" * len(row))
    with sqlite3.connect(service.db) as connection:
        connection.execute(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({marks})", [*row.values()])
    connection.close()
    return str(row["id"])


def critique_of(text: str) -> str:
    """A critique that says one thing only."""
    dimensions = [
        {"name": name, "score": 5, "comment": text, "recommendation": text} for name in DIMENSIONS
    ]
    return json.dumps(
        {
            "image_description": text,
            "dimensions": dimensions,
            "overall_score": 5,
            "key_strengths": [text],
            "priority_improvements": [text],
            "technical_notes": text,
        }
    )


def box(page: Page, selector: str, index: int) -> Any:
    found = page.locator(selector).nth(index).bounding_box()
    assert found
    return found


@pytest.mark.parametrize("kind", ["jpeg", "heic"])
def test_a_photograph_is_critiqued_while_one_watches(
    browser: Browser, service: Running, photo: Path, kind: str
) -> None:
    path = photo if kind == "jpeg" else HEIC
    with opened(browser, service.url) as (page, _):
        page.add_init_script(browsing.GROWTH)
        choose(page, path, "okeefe", "lora")
        caption = page.locator("[data-preview] figcaption")
        expect(caption).to_contain_text(path.name)
        expect(page.locator("[data-preview] img")).to_be_visible(visible=kind == "jpeg")
        finished(service, *[photo] * 8, wait=False)  # so that it takes its time
        page.click("text=Critique it")
        page.wait_for_url("**/view/*")
        article = page.locator("article")
        expect(article.locator("h4")).to_have_count(7)
        grown = json.loads(page.evaluate("sessionStorage.getItem('grown')"))
        assert len(grown) >= 2
        assert all(len(a) <= len(b) for a, b in zip(grown, grown[1:], strict=False))
        assert grown[-1].startswith(grown[0][:20])
        assert len(grown[-1]) > len(grown[0])
        assert not any('"' in text or "{" in text for text in grown)
        expect(page.locator("h1")).to_contain_text(
            f"Georgia O'Keeffe on {path.stem.replace(' ', '-')}"
        )
        expect(article.locator(".grade")).to_contain_text(re.compile(r"\d/10"))
        assert article.locator("svg.radar polygon.one").get_attribute("points")
        label = article.locator("svg.radar").get_attribute("aria-label") or ""
        assert all(name in label for name in DIMENSIONS)
        facts = page.locator(".facts")
        expect(facts).to_contain_text("mondrian-tiny-lora-okeefe, version")
        expect(facts).to_contain_text("answered byfine-tuned")
        shown = "img => img.complete && img.naturalWidth > 0"
        page.wait_for_function(f"() => ({shown})(document.querySelector('.shown img'))")


def test_both_arms_stand_side_by_side_and_below_each_other_on_a_phone(
    browser: Browser, service: Running, photo: Path
) -> None:
    with opened(browser, service.url) as (page, _):
        path = critiqued(page, photo, mode="both")
        expect(page.locator("article h2")).to_have_text(["The base", "The fine-tuned adapter"])
        expect(page.locator(".facts").nth(0)).to_contain_text("answered bybase")
        expect(page.locator(".facts").nth(1)).to_contain_text("mondrian-tiny-lora-ansel, version")
        assert page.locator("svg.radar polygon.soft").count() == 2
        left, right = box(page, "article", 0), box(page, "article", 1)
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
        page.set_viewport_size({"width": 390, "height": 800})
        above, below = box(page, "article", 0), box(page, "article", 1)
        assert above["x"] == below["x"]
        assert above["y"] + above["height"] <= below["y"]
        first = row_of(service, path.rsplit("/", 1)[1])
    with sqlite3.connect(service.db) as connection:
        query = "SELECT id, mode, filename FROM jobs WHERE pair_of = ?"
        other = connection.execute(query, (first["id"],)).fetchone()
    connection.close()
    assert (first["mode"], *other[1:]) == ("base", "lora", first["filename"])
    with opened(browser, service.url) as (page, _):
        page.goto(f"/view/{other[0]}")
        expect(page.locator("article")).to_have_count(2)


def test_what_a_person_says_is_kept_and_counted(
    browser: Browser, service: Running, job: str
) -> None:
    with opened(browser, service.url) as (page, _):
        page.goto(f"/view/{job}")
        page.get_by_label("A note").fill(f"too short\n{EVIL}")
        page.get_by_role("button", name="thumbs down").click()
        expect(page.get_by_text("Kept: thumbs down with a note")).to_be_visible()
        expect(page.get_by_label("A note")).to_have_value(f"too short\n{EVIL}")
        pressed = page.get_by_role("button", name="thumbs down")
        expect(pressed).to_have_attribute("aria-pressed", "true")
        row = row_of(service, job)
        assert (row["thumbs"], row["note"]) == (-1, f"too short\n{EVIL}")
        page.goto("/history")
        expect(page.locator("li", has=page.locator(f"a[href='/view/{job}']"))).to_contain_text(
            "thumbs down with a note"
        )
    with service.client() as client:
        counted = 'mondrian_thumbs_total{model_used="base",up="false"} 1.0'
        assert counted in client.get("/metrics").text
        for data, status in (
            ({"thumbs": "sideways"}, 400),
            ({"thumbs": "up", "note": "x" * 1001}, 400),
        ):
            assert client.post(f"/feedback/{job}", data=data).status_code == status
        waiting = written(service, status="queued")
        assert client.post(f"/feedback/{waiting}", data={"thumbs": "up"}).status_code == 409


def test_a_critique_is_taken_for_training_and_corrected(
    browser: Browser, service: Running, photo: Path
) -> None:
    id = finished(service, photo)[0]
    with opened(browser, service.url, width=390, faulty=True) as (page, _):
        page.goto(f"/view/{id}")
        page.get_by_role("button", name="Take it for training").click()
        expect(page.get_by_text("Kept: taken as it stands; for training")).to_be_visible()
        page.get_by_role("button", name="Do not train on it").click()
        expect(page.get_by_text("Kept:")).to_have_count(0)
        page.get_by_text("Correct it").click()
        page.get_by_label("Composition", exact=True).fill("0.5")  # the radar follows
        expect(page.locator("svg.radar polygon.two")).to_have_count(1)
        page.get_by_label("Technical notes").fill(f"Too dark.\n{EVIL}")
        page.evaluate("document.querySelector('form[data-radar]').noValidate = true")
        page.get_by_label("Lighting", exact=True).fill("25")
        keep = page.get_by_role("button", name="Keep it as corrected")
        keep.click()
        lighting = page.get_by_label("Lighting", exact=True)
        expect(lighting).to_have_attribute("aria-invalid", "true")
        expect(lighting).to_have_value("25")
        expect(page.get_by_role("alert")).to_contain_text("Not kept; see 1 field")
        expect(page.get_by_label("Technical notes")).to_have_value(f"Too dark.\n{EVIL}")
        assert page.evaluate(browsing.FAINT)["faint"] == []
        assert page.evaluate(browsing.NAMELESS) == 0
        assert too_wide(page) <= 0
        lighting.fill("9.5")
        keep.focus()
        page.keyboard.press("Enter")
        expect(
            page.get_by_text("Kept: corrected, 3 scores and 1 text changed; for training")
        ).to_be_visible()
        expect(page.locator("svg.radar polygon.two")).to_have_count(1)
        expect(page.get_by_text("corrected", exact=True)).to_be_visible()
        assert page.evaluate("window.hacked") is None
    with service.client() as client:
        told = client.get(f"/jobs/{id}/feedback").json()
    (now,) = told["feedback"]
    assert (now["verdict"], now["model_used"]) == ("corrected", "base")
    assert now["critique"]["technical_notes"] == f"Too dark.\n{EVIL}"
    scores = [one["score"] for one in now["critique"]["dimensions"]]
    assert scores[:2] == [0.5, 9.5]
    assert now["critique"]["overall_score"] == round(sum(scores) / 7, 1)
    assert len(told["history"]) == 3


def test_a_correction_needs_no_javascript_and_is_of_one_advisor(
    browser: Browser, service: Running, photo: Path
) -> None:
    id = finished(service, photo, advisor="ansel,okeefe")[0]
    with opened(browser, service.url, java_script_enabled=False) as (page, _):
        page.goto(f"/view/{id}")
        page.locator("details.correct").nth(1).locator("summary").click()
        page.locator("[name='dimensions.1.score']").nth(1).fill("0.5")
        page.get_by_role("button", name="Keep it as corrected").last.click()
        expect(page.get_by_text("Kept: corrected, 2 scores changed")).to_be_visible()
    with service.client() as client:
        told = client.get(f"/jobs/{id}/feedback").json()["feedback"]
        assert [(one["advisor"], one["verdict"]) for one in told] == [("okeefe", "corrected")]
        refused = client.post(f"/jobs/{id}/feedback", json={"verdict": "accepted"})
        assert refused.status_code == 400
        assert refused.json()["faults"] == [
            {"field": "advisor", "told": "is missing; the job asked ansel, okeefe"}
        ]
        assert client.post(f"/jobs/{id}/feedback", json={"thumbs": 1}).status_code == 200
        waiting = written(service, status="queued")
        assert client.post(f"/jobs/{waiting}/feedback", json={"thumbs": 1}).status_code == 409
        assert client.get(f"/jobs/{uuid4()}/feedback").status_code == 404
        huge = client.post(f"/jobs/{id}/feedback", content=b" " * 300_000)
        assert huge.status_code == 413


def test_a_note_is_not_lost_when_the_other_arm_arrives(
    browser: Browser, service: Running, job: str
) -> None:
    other = written(service, status="queued", pair_of=job)
    held: list[Route] = []
    with opened(browser, service.url) as (page, _):
        page.route("**/live/*", lambda route: held.append(route))
        page.goto(f"/view/{other}")
        page.get_by_label("A note").fill("half a thought")
        ended = 'data: {"ended": true}\n\n'
        held[0].fulfill(status=200, content_type="text/event-stream", body=ended)
        expect(page.get_by_text("A critique has arrived")).to_be_visible()
        expect(page.get_by_label("A note")).to_have_value("half a thought")


def test_the_history_leads_to_each_critique(browser: Browser, service: Running, job: str) -> None:
    with opened(browser, service.url) as (page, _):
        page.goto("/history")
        entry = page.locator("li", has=page.locator(f"a[href='/view/{job}']"))
        expect(entry).to_contain_text("Ansel Adams")
        expect(entry).to_contain_text("base")
        expect(entry.locator(".grade")).to_contain_text(re.compile(r"^\d+(\.\d)?/10$"))
        picture = entry.locator("img")
        picture.scroll_into_view_if_needed()
        page.wait_for_function("img => img.naturalWidth > 0", arg=picture.element_handle())
        entry.locator("a").click()
        expect(page.locator("article h4")).to_have_count(7)
        for path in (f"/status/{job}?view=detail", "/jobs?format=html"):
            page.goto(path)
            expect(page.locator("header .brand")).to_be_visible()


def test_it_works_without_javascript(browser: Browser, service: Running, photo: Path) -> None:
    with opened(browser, service.url, java_script_enabled=False) as (page, _):
        choose(page, photo, mode="both")
        page.click("text=Critique it")
        page.wait_for_url("**/view/*")
        expect(page.locator("article")).to_have_count(2)  # the page looks again
        page.get_by_role("button", name="thumbs up").first.click()
        expect(page.get_by_text("Kept: thumbs up")).to_be_visible()


def test_what_a_model_writes_is_text_and_nothing_else(browser: Browser, service: Running) -> None:
    evil = {
        "filename": f"uploads/{EVIL.replace('/', '')}.jpg",
        "model": EVIL,
        "adapter": EVIL,
        "fallback_reason": EVIL,
        "fallback_occurred": 1,
        "model_used": EVIL,
        "mode": EVIL,
    }
    outputs = json.dumps({"response": critique_of(EVIL)})
    whole = written(service, llm_outputs=outputs, **evil)
    broken = written(service, llm_outputs=json.dumps({"response": EVIL}), advisor=EVIL)
    failed = written(service, status="failed", error=EVIL, **evil)
    with opened(browser, service.url) as (page, _):
        for id, least in ((whole, 20), (broken, 2), (failed, 1)):
            page.goto(f"/view/{id}")
            shown = page.locator("body").inner_text().lower()
            assert shown.count("<script>hacked = 1</script>") >= least
            assert page.locator("img[src=x]").count() == 0
            assert page.evaluate("typeof hacked") == "undefined"
        page.goto("/history")
        page.goto("/jobs?format=html")
        assert "<script>hacked" in page.locator("main").inner_text()
        assert page.evaluate("typeof hacked") == "undefined"


def test_what_a_model_is_writing_is_text_too(browser: Browser, service: Running) -> None:
    id = written(service, status="queued", current_step="Queued")  # of a program that never does it
    text = critique_of(EVIL)
    cuts = (*range(1, 300), *range(300, len(text), 97), len(text))
    told = [json.dumps({"step": EVIL, "share": 40, "text": text[:cut]}) for cut in cuts]
    body = "".join(f"data: {one}\n\n" for one in told)
    with opened(browser, service.url) as (page, _):
        page.route(
            "**/live/*",
            lambda route: route.fulfill(
                status=200,
                content_type="text/event-stream",
                body=body,
            ),
        )
        page.goto(f"/view/{id}")
        expect(page.locator("[data-step]")).to_have_text(EVIL)
        expect(page.locator("[data-text]")).to_contain_text("Technical notes")
        shown = page.locator("[data-text]")
        assert shown.inner_text().count("<script>hacked = 1</script>") == 18
        assert shown.locator("img, script").count() == 0
        assert page.evaluate("typeof hacked") == "undefined"


def test_no_page_is_wider_than_a_phone(
    browser: Browser, service: Running, job: str, photo: Path
) -> None:
    long = "Donaudampfschifffahrtsgesellschaft" * 8
    outputs = json.dumps({"response": critique_of(long)})
    worst = written(
        service,
        llm_outputs=outputs,
        filename=f"uploads/{long}.jpg",
        model=long,
        adapter=long,
        fallback_reason=long,
        mode=long,
        model_used=long,
    )
    broken = written(service, status="failed", error=long)
    with opened(browser, service.url, width=390, faulty=True) as (page, _):
        pair = critiqued(page, photo, mode="both")
        paths = (
            "/",
            "/history",
            f"/view/{job}",
            pair,
            f"/view/{worst}",
            f"/view/{broken}",
            "/view/none",
            "/jobs?format=html",
        )
        for path in paths:
            told = page.goto(path)
            assert told
            assert told.status == (404 if path.endswith("none") else 200)
            assert too_wide(page) <= 0, path
        page.goto("/")
        for file in (photo, HEIC):
            page.set_input_files("#image", file)
            expect(page.locator("[data-preview] figcaption")).to_contain_text(file.name)
            assert too_wide(page) <= 0, file


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(
    browser: Browser, service: Running, job: str, photo: Path, scheme: Any
) -> None:
    pair = finished(service, photo)[0]
    failed = written(service, status="failed", error="it was too dark", kind="upload")
    with opened(browser, service.url, color_scheme=scheme, faulty=True) as (page, _):
        paper = "getComputedStyle(document.body).backgroundColor"
        for path in (
            "/",
            "/history",
            f"/view/{job}",
            f"/view/{pair}",
            f"/view/{failed}",
            "/view/none",
        ):
            page.goto(path)
            assert (page.evaluate(paper) == "rgb(22, 22, 20)") == (scheme == "dark")
            found = page.evaluate(browsing.FAINT)
            assert found["seen"] > 5
            assert not found["faint"], path


def test_the_pages_have_the_colors_of_the_reports() -> None:
    names = ("core/templates/page.html", "serving/templates/static/site.css")
    report, site = ((ROOT / "mondrian" / name).read_text() for name in names)
    colors = re.findall(r"--(?:paper|ink|soft|line|card|one|two|three): #\w+", report)
    assert len(colors) == 16
    wanted = set(colors)
    assert set(re.findall(r"--(?:paper|ink|soft|line|card|one|two|three): #\w+", site)) == wanted


def test_a_keyboard_is_enough(browser: Browser, service: Running, photo: Path) -> None:
    with opened(browser, service.url) as (page, _):
        page.on("filechooser", lambda _: None)  # so that choosers are caught before one opens
        page.goto("/")
        page.keyboard.press("Tab")
        expect(page.get_by_text("To the content")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_label("Choose a photograph")).to_be_focused()
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files(photo)
        for selector, key in (
            ("[name=advisor][value=okeefe]", "ArrowDown"),
            ("[name=mode][value=base]", "ArrowDown"),
        ):
            page.keyboard.press("Tab")
            page.keyboard.press(key)
            expect(page.locator(selector)).to_be_checked()
            assert page.evaluate(browsing.OUTLINE) == "solid"
        page.keyboard.press("Tab")
        assert page.evaluate(browsing.OUTLINE) == "solid"
        page.keyboard.press("Enter")
        page.wait_for_url("**/view/*")
        expect(page.locator("h1")).to_contain_text("Georgia O'Keeffe")
        expect(page.locator(".facts")).to_contain_text("asked forthe base")


def test_every_field_and_picture_has_a_name(browser: Browser, service: Running, job: str) -> None:
    with opened(browser, service.url) as (page, _):
        for path in ("/", "/history", f"/view/{job}"):
            page.goto(path)
            nameless = page.evaluate(browsing.NAMELESS)
            assert nameless == 0
            assert page.locator("img:not([alt])").count() == 0
            for landmark in ("banner", "navigation", "main", "contentinfo"):
                expect(page.get_by_role(landmark)).to_have_count(1)
            expect(page.locator("h1")).to_have_count(1)


def test_a_photograph_can_be_dropped_anywhere(
    browser: Browser, service: Running, photo: Path
) -> None:
    with opened(browser, service.url) as (page, _):
        page.goto("/")
        content = list(photo.read_bytes())
        dropped = page.evaluate_handle(
            """(content) => {
            const moved = new DataTransfer();
            moved.items.add(new File([new Uint8Array(content)], "dropped.jpg"));
            return moved;
        }""",
            content,
        )
        page.dispatch_event("footer", "drop", {"dataTransfer": dropped})
        expect(page.locator("[data-preview]")).to_contain_text("dropped.jpg")
        page.click("text=Critique it")
        page.wait_for_url("**/view/*")
        expect(page.locator("h1")).to_contain_text("on dropped")


def test_a_refusal_is_told_in_the_form(browser: Browser, service: Running, tmp_path: Path) -> None:
    text, large = tmp_path / "words.jpg", tmp_path / "large.jpg"
    text.write_text("no photograph")
    with large.open("wb") as file:
        file.truncate(41_000_000)
    with opened(browser, service.url, faulty=True) as (page, noted):
        choose(page, text, "okeefe", "both")
        with page.expect_response("**/ask") as answer:
            page.click("text=Critique it")
        assert answer.value.status == 415
        expect(page.get_by_role("alert").first).to_contain_text("image_unreadable")
        expect(page.locator("[value=okeefe]")).to_be_checked()
        expect(page.locator("[value=both]")).to_be_checked()
        choose(page, large)
        before = len(noted.requests)
        page.click("text=Critique it")
        expect(page.locator("[data-fault]")).to_contain_text("41.0 MB; at most 40 MB")
        assert len(noted.requests) == before
    with service.client() as client:
        told = client.post("/ask", data={"advisor": "ansel"})
        assert told.status_code == 400
        assert '<form class="ask"' in told.text


def test_what_failed_can_be_tried_again(browser: Browser, service: Running, job: str) -> None:
    row = row_of(service, job)
    same = {name: row[name] for name in ("filename", "mode", "advisor")}
    id = written(service, status="failed", error="the model ran away", kind="upload", **same)
    with opened(browser, service.url) as (page, _):
        page.goto(f"/view/{id}")
        expect(page.get_by_text("the model ran away")).to_be_visible()
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("article h4")).to_have_count(7)
    with service.client() as client:
        assert client.post(f"/again/{uuid4()}").status_code == 404
        assert client.post(f"/again/{written(service)}").status_code == 409


def test_photographs_are_given_small_and_without_what_the_camera_knew(
    service: Running, photo: Path
) -> None:
    id = finished(service, photo, wait=False)[0]
    with service.client() as client:
        for size, side in (("", 900), ("?size=thumb", 240)):
            told = client.get(f"/photo/{id}{size}")
            assert told.headers["cache-control"].startswith("private")
            picture = Image.open(BytesIO(told.content))
            assert (picture.format, max(picture.size)) == ("JPEG", side)
            assert not picture.getexif()
            assert b"at home" not in told.content
        assert client.get("/photo/none").status_code == 404
        assert client.get(f"/photo/{written(service, filename='/etc/passwd')}").status_code == 404
        assert client.get(f"/photo/{written(service)}").status_code == 404


def test_several_advisors_and_other_programs_are_shown(
    browser: Browser, service: Running, photo: Path
) -> None:
    id = finished(service, photo, advisor="ansel,okeefe")[0]
    other = written(service, analysis_markdown=critique_of("Seen elsewhere."), advisor="ghost_of_x")
    bare = written(service, advisor=None, llm_outputs="[1")
    with opened(browser, service.url) as (page, _):
        page.goto(f"/view/{id}")
        expect(page.locator("article h2")).to_have_text(["Ansel Adams", "Georgia O'Keeffe"])
        assert page.locator("article h4").count() == 14
        page.goto(f"/view/{other}")
        expect(page.locator("h1")).to_contain_text("Ghost Of X")
        expect(page.locator(".description")).to_have_text("Seen elsewhere.")
        page.goto(f"/view/{bare}")
        expect(page.locator("h1")).to_be_visible()


def test_a_key_opens_the_pages(browser: Browser, photo: Path, tmp_path: Path) -> None:
    with (
        running(tmp_path, env={"MONDRIAN_API_KEY": KEY}) as service,
        opened(browser, service.url, faulty=True) as (page, _),
    ):
        page.goto("/history")
        assert page.url.endswith("/login")
        page.get_by_label("API key").fill("not this one")
        with page.expect_response("**/login") as answer:
            page.get_by_role("button", name="Log in").click()
        assert answer.value.status == 403
        expect(page.get_by_role("alert")).to_contain_text("not the key")
        assert page.evaluate(browsing.FAINT)["faint"] == []
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("h1")).to_have_text("Ask for a critique")
        cookie = page.context.cookies()[0]
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
        assert KEY not in cookie["value"]
        critiqued(page, photo)
        page.get_by_role("button", name="thumbs up").click()
        expect(page.get_by_text("Kept: thumbs up")).to_be_visible()


def test_a_service_without_a_key_has_no_login(service: Running) -> None:
    with service.client() as client:
        assert client.get("/login").headers["location"] == "/"
        told = client.post("/login", data={"key": ""})
        assert "set-cookie" not in told.headers
