"""The pages in a real browser, on the real service with mondrian-tiny."""

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from mondrian.critique.schema import DIMENSIONS
from tests import browsing
from tests.browsing import fill_in_form, open_page, overflow_width, request_critique
from tests.conftest import ROOT
from tests.service_process import ServiceProcess, model_process, run_service
from tests.serving.critique_texts import EVIL, critique_json
from tests.serving.service_jobs import get_row, insert_job, upload_photos
from tests.waiting import wait_for

HEIC = ROOT / "tests/core/rendered.heic"
KEY = "a key of more than sixteen characters"


@pytest.fixture(scope="module")
def service(ab_service: ServiceProcess) -> ServiceProcess:
    return ab_service


@pytest.fixture(scope="module")
def photo(photos: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "a lake.jpg"
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    photos[0].resize((1600, 1280)).save(path, quality=90, exif=exif)
    return path


@pytest.fixture(scope="module")
def job(service: ServiceProcess, photo: Path) -> str:
    """The id of a critique by the base model."""
    return upload_photos(service, photo)[0]


@pytest.mark.parametrize("kind", ["jpeg", pytest.param("heic", marks=pytest.mark.slow)])
def test_a_critique_appears_while_it_is_generated(
    browser: Browser, service: ServiceProcess, photo: Path, kind: str
) -> None:
    path = photo if kind == "jpeg" else HEIC
    with open_page(browser, service.url) as (page, _):
        page.add_init_script(browsing.RECORD_TEXTS_SCRIPT)
        page.add_init_script(browsing.NO_SHARED_WORKER_SCRIPT)
        fill_in_form(page, path, "okeefe", "lora")
        caption = page.locator("[data-preview] figcaption")
        expect(caption).to_contain_text(path.name)
        expect(page.locator("[data-preview] img")).to_be_visible(visible=kind == "jpeg")
        model = model_process(service)
        assert model
        model.suspend()  # until the page listens
        upload_photos(service, *[photo] * 8, wait=False)  # so that generation takes a while
        with page.expect_request("**/live?*"):
            page.click("text=Get critique")
        model.resume()
        page.wait_for_url("**/view/*")
        article = page.locator("article")
        expect(article.locator("h4")).to_have_count(7)
        texts = json.loads(page.evaluate("sessionStorage.getItem('texts')"))
        assert len(texts) >= 2
        assert all(len(a) <= len(b) for a, b in zip(texts, texts[1:], strict=False))
        assert texts[-1].startswith(texts[0][:20])
        assert len(texts[-1]) > len(texts[0])
        assert not any('"' in text or "{" in text for text in texts)
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
        is_loaded = "img => img.complete && img.naturalWidth > 0"
        page.wait_for_function(f"() => ({is_loaded})(document.querySelector('.frame img'))")


@pytest.mark.slow
def test_a_job_of_an_advisor_that_params_no_longer_has_fails_without_a_traceback(
    service: ServiceProcess, job: str
) -> None:
    filename = get_row(service, job)["filename"]
    id = insert_job(service, advisor="weston", status="queued", kind="upload", filename=filename)
    wait_for(lambda: get_row(service, id)["status"] == "failed", service.log)
    assert "personas has no text for 'weston'" in get_row(service, id)["error"]
    assert "Traceback" not in service.log()


@pytest.mark.slow
def test_the_history_links_to_every_critique(
    browser: Browser, service: ServiceProcess, job: str
) -> None:
    with open_page(browser, service.url) as (page, _):
        page.goto("/history")
        entry = page.locator("li", has=page.locator(f"a[href='/view/{job}']"))
        expect(entry).to_contain_text("Ansel Adams")
        expect(entry).to_contain_text("base")
        expect(entry.locator(".grade")).to_contain_text(re.compile(r"^\d+(\.\d)?/10$"))
        image = entry.locator("img")
        image.scroll_into_view_if_needed()
        page.wait_for_function("img => img.naturalWidth > 0", arg=image.element_handle())
        entry.locator("a").click()
        expect(page.locator("article h4")).to_have_count(7)
        for path in (f"/status/{job}?view=detail", "/jobs?format=html"):
            page.goto(path)
            expect(page.locator("header .brand")).to_be_visible()


@pytest.mark.slow
def test_it_works_without_javascript(
    browser: Browser, service: ServiceProcess, photo: Path
) -> None:
    with open_page(browser, service.url, java_script_enabled=False) as (page, _):
        fill_in_form(page, photo, mode="both")
        page.click("text=Get critique")
        page.wait_for_url("**/view/*")
        expect(page.locator("article")).to_have_count(2)  # the page reloads
        page.get_by_role("button", name="thumbs up").first.click()
        expect(page.get_by_text("Saved: thumbs up")).to_be_visible()


@pytest.mark.slow
def test_model_output_is_shown_as_text_only(browser: Browser, service: ServiceProcess) -> None:
    evil = {
        "filename": f"uploads/{EVIL.replace('/', '')}.jpg",
        "model": EVIL,
        "adapter": EVIL,
        "fallback_reason": EVIL,
        "fallback_occurred": 1,
        "model_used": EVIL,
        "mode": EVIL,
    }
    outputs = json.dumps({"response": critique_json(EVIL)})
    whole = insert_job(service, llm_outputs=outputs, **evil)
    broken = insert_job(service, llm_outputs=json.dumps({"response": EVIL}), advisor=EVIL)
    failed = insert_job(service, status="failed", error=EVIL, **evil)
    with open_page(browser, service.url) as (page, _):
        for id, min_count in ((whole, 20), (broken, 2), (failed, 1)):
            page.goto(f"/view/{id}")
            text = page.locator("body").inner_text().lower()
            assert text.count("<script>hacked = 1</script>") >= min_count
            assert page.locator("img[src=x]").count() == 0
            assert page.evaluate("typeof hacked") == "undefined"
        page.goto("/history")
        page.goto("/jobs?format=html")
        assert "<script>hacked" in page.locator("main").inner_text()
        assert page.evaluate("typeof hacked") == "undefined"


@pytest.mark.slow
def test_partial_model_output_is_shown_as_text_only(
    browser: Browser, service: ServiceProcess
) -> None:
    id = insert_job(service, status="queued", current_step="Queued")  # it stays queued
    text = critique_json(EVIL)
    cuts = (*range(1, 300), *range(300, len(text), 97), len(text))
    shown = {"id": id, "step": EVIL, "share": 40}
    states = [json.dumps(shown | {"text": text[:cut]}) for cut in cuts]
    body = "".join(f"data: {state}\n\n" for state in states)
    with open_page(browser, service.url) as (page, _):
        page.add_init_script(browsing.NO_SHARED_WORKER_SCRIPT)
        page.route(
            "**/live?*",
            lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body),
        )
        page.goto(f"/view/{id}")
        expect(page.locator("[data-text]")).to_contain_text("Technical notes")
        expect(page.locator("[data-step]")).to_have_text("Connection lost, retrying…")
        output = page.locator("[data-text]")
        assert output.inner_text().count("<script>hacked = 1</script>") == 18
        assert output.locator("img, script").count() == 0
        assert page.evaluate("typeof hacked") == "undefined"


@pytest.mark.slow
def test_no_page_is_wider_than_a_phone(
    browser: Browser, service: ServiceProcess, job: str, photo: Path
) -> None:
    long = "Donaudampfschifffahrtsgesellschaft" * 8
    outputs = json.dumps({"response": critique_json(long)})
    worst = insert_job(
        service,
        llm_outputs=outputs,
        filename=f"uploads/{long}.jpg",
        model=long,
        adapter=long,
        fallback_reason=long,
        mode=long,
        model_used=long,
    )
    broken = insert_job(service, status="failed", error=long)
    with open_page(browser, service.url, width=390, faulty=True) as (page, _):
        pair = request_critique(page, photo, mode="both")
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
            response = page.goto(path)
            assert response
            assert response.status == (404 if path.endswith("none") else 200)
            assert overflow_width(page) <= 0, path
        page.goto("/")
        for file in (photo, HEIC):
            page.set_input_files("#image", file)
            expect(page.locator("[data-preview] figcaption")).to_contain_text(file.name)
            assert overflow_width(page) <= 0, file


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(
    browser: Browser, service: ServiceProcess, job: str, photo: Path, scheme: Any
) -> None:
    pair = upload_photos(service, photo)[0]
    failed = insert_job(service, status="failed", error="it was too dark", kind="upload")
    with open_page(browser, service.url, color_scheme=scheme, faulty=True) as (page, _):
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
            result = page.evaluate(browsing.CONTRAST_SCRIPT)
            assert result["seen"] > 5
            assert not result["faint"], path


def test_the_pages_use_the_colors_of_the_reports() -> None:
    names = ("core/templates/page.html", "serving/templates/static/site.css")
    report, site = ((ROOT / "mondrian" / name).read_text() for name in names)
    colors = re.findall(r"--(?:paper|ink|soft|line|card|one|two|three): #\w+", report)
    assert len(colors) == 16
    expected = set(colors)
    assert set(re.findall(r"--(?:paper|ink|soft|line|card|one|two|three): #\w+", site)) == expected


@pytest.mark.slow
def test_a_keyboard_is_enough(browser: Browser, service: ServiceProcess, photo: Path) -> None:
    with open_page(browser, service.url) as (page, _):
        page.on("filechooser", lambda _: None)  # intercept choosers before one opens
        page.goto("/")
        page.keyboard.press("Tab")
        expect(page.get_by_text("Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_label("Choose a photo")).to_be_focused()
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files(photo)
        for selector, stops in (  # after three sample photos; after what is about the advisor
            ("[name=advisor][value=okeefe]", 4),
            ("[name=mode][value=base]", 2),
        ):
            for _ in range(stops):
                page.keyboard.press("Tab")
            page.keyboard.press("ArrowDown")
            expect(page.locator(selector)).to_be_checked()
            assert page.evaluate(browsing.OUTLINE_SCRIPT) == "solid"
        page.keyboard.press("Tab")
        assert page.evaluate(browsing.OUTLINE_SCRIPT) == "solid"
        page.keyboard.press("Enter")
        page.wait_for_url("**/view/*")
        expect(page.locator("h1")).to_contain_text("Georgia O'Keeffe")
        expect(page.locator(".facts")).to_contain_text("requestedbase model")


@pytest.mark.slow
def test_every_field_and_image_has_a_label(
    browser: Browser, service: ServiceProcess, job: str
) -> None:
    with open_page(browser, service.url) as (page, _):
        for path in ("/", "/history", f"/view/{job}"):
            page.goto(path)
            nameless = page.evaluate(browsing.UNLABELED_SCRIPT)
            assert nameless == 0
            assert page.locator("img:not([alt])").count() == 0
            for landmark in ("banner", "main", "contentinfo"):
                expect(page.get_by_role(landmark)).to_have_count(1)
            expect(page.get_by_role("navigation", name="Pages")).to_have_count(1)
            expect(page.locator("h1")).to_have_count(1)


@pytest.mark.slow
def test_a_photo_can_be_dropped_anywhere(
    browser: Browser, service: ServiceProcess, photo: Path
) -> None:
    with open_page(browser, service.url) as (page, _):
        page.goto("/")
        content = list(photo.read_bytes())
        dropped = page.evaluate_handle(
            """(content) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(content)], "dropped.jpg"));
            return transfer;
        }""",
            content,
        )
        page.dispatch_event("footer", "drop", {"dataTransfer": dropped})
        expect(page.locator("[data-preview]")).to_contain_text("dropped.jpg")
        page.click("text=Get critique")
        page.wait_for_url("**/view/*")
        expect(page.locator("h1")).to_contain_text("on dropped")


@pytest.mark.slow
def test_a_rejection_is_shown_in_the_form(
    browser: Browser, service: ServiceProcess, tmp_path: Path
) -> None:
    text, large = tmp_path / "words.jpg", tmp_path / "large.jpg"
    text.write_text("not a photo")
    with large.open("wb") as file:
        file.truncate(41_000_000)
    with open_page(browser, service.url, faulty=True) as (page, log):
        fill_in_form(page, text, "okeefe", "both")
        with page.expect_response("**/ask") as answer:
            page.click("text=Get critique")
        assert answer.value.status == 415
        expect(page.get_by_role("alert")).to_contain_text("Export it again as JPEG.")
        assert page.evaluate("document.querySelector('#image').files[0].name") == "words.jpg"
        expect(page.locator("[value=okeefe]")).to_be_checked()
        expect(page.locator("[value=both]")).to_be_checked()
        expect(page.get_by_role("button", name="Get critique")).to_be_enabled()
        fill_in_form(page, large)
        before = len(log.requests)
        page.click("text=Get critique")
        expect(page.locator("[data-fault]")).to_contain_text("41.0 MB; at most 40 MB")
        assert len(log.requests) == before
    with open_page(browser, service.url, java_script_enabled=False, faulty=True) as (page, _):
        fill_in_form(page, text, "okeefe", "both")
        page.click("text=Get critique")
        expect(page.get_by_role("alert")).to_contain_text("Export it again as JPEG.")
        expect(page.locator("[value=okeefe]")).to_be_checked()
    with service.client() as client:
        response = client.post("/ask", data={"advisor": "ansel"})
        assert response.status_code == 400
        assert '<form class="ask"' in response.text


@pytest.mark.slow
def test_a_failed_job_can_be_retried(browser: Browser, service: ServiceProcess, job: str) -> None:
    row = get_row(service, job)
    copied = {name: row[name] for name in ("filename", "mode", "advisor")}
    id = insert_job(service, status="failed", error="the model ran away", kind="upload", **copied)
    with open_page(browser, service.url) as (page, _):
        page.goto(f"/view/{id}")
        expect(page.get_by_text("the model ran away")).to_be_visible()
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("article h4")).to_have_count(7)
    with service.client() as client:
        assert client.post(f"/again/{uuid4()}").status_code == 404
        assert client.post(f"/again/{insert_job(service)}").status_code == 409


@pytest.mark.slow
def test_the_api_key_opens_the_pages(browser: Browser, photo: Path, tmp_path: Path) -> None:
    with (
        run_service(tmp_path, env={"MONDRIAN_API_KEY": KEY}) as service,
        open_page(browser, service.url, faulty=True) as (page, _),
    ):
        page.goto("/history")
        assert page.url.endswith("/login")
        page.get_by_label("API key").fill("not this one")
        with page.expect_response("**/login") as answer:
            page.get_by_role("button", name="Log in").click()
        assert answer.value.status == 403
        expect(page.get_by_role("alert")).to_contain_text("Wrong API key")
        assert page.evaluate(browsing.CONTRAST_SCRIPT)["faint"] == []
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("h1")).to_have_text("Get a critique")
        cookie = page.context.cookies()[0]
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
        assert KEY not in cookie["value"]
        request_critique(page, photo)
        page.get_by_role("button", name="thumbs up").click()
        expect(page.get_by_text("Saved: thumbs up")).to_be_visible()


@pytest.mark.slow
def test_a_service_without_a_key_has_no_login(service: ServiceProcess) -> None:
    with service.client() as client:
        assert client.get("/login").headers["location"] == "/"
        response = client.post("/login", data={"key": ""})
        assert "set-cookie" not in response.headers
