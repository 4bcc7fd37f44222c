"""What a photographer does on the pages, in a real browser, at both widths and color schemes."""

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import Browser, Page, expect

from mondrian.sample.scene import draw_scene, render
from mondrian.serving.samples import SAMPLES, read_sample
from tests import browsing
from tests.browsing import find_axe_violations, open_page, overflow_width
from tests.conftest import ROOT
from tests.service_process import ServiceProcess, model_process, run_service
from tests.serving.service_jobs import insert_job, upload_photos, wait_until

pytestmark = pytest.mark.slow
KEY = "a key of more than sixteen characters"


@pytest.fixture(scope="module")
def service(ab_service: ServiceProcess) -> ServiceProcess:
    return ab_service


@pytest.fixture(scope="module")
def files(photos: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three photos and a text file, which is no photo."""
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"lake {i}.jpg" for i in range(3)]
    for photo, path in zip(photos, paths, strict=False):
        photo.save(path)
    text = folder / "words.jpg"
    text.write_text("not a photo")
    return [*paths, text]


def check_page(page: Page) -> None:
    """Assert that axe finds nothing, each text has enough contrast, and the page fits."""
    assert find_axe_violations(page) == []
    assert page.evaluate(browsing.CONTRAST_SCRIPT)["faint"] == []
    assert overflow_width(page) <= 0


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_several_photos_are_sent_and_a_bad_one_is_explained(
    browser: Browser, service: ServiceProcess, files: list[Path], width: int, scheme: Any
) -> None:
    with open_page(browser, service.url, width, faulty=True, color_scheme=scheme) as (page, _):
        page.goto("/")
        page.set_input_files("#image", files)
        expect(page.locator("[data-preview] figure")).to_have_count(4)
        check_page(page)
        page.click("text=Get critique")
        rows = page.locator(".batch li")
        expect(rows).to_have_count(4)
        for i in range(3):
            expect(rows.nth(i)).to_contain_text("Complete")
            assert rows.nth(i).locator("progress").get_attribute("value") == "100"
        expect(rows.nth(3)).to_contain_text("Export it again as JPEG.")
        expect(rows.nth(3).get_by_role("button", name="Send again")).to_be_visible()
        check_page(page)
        rows.nth(0).get_by_role("link", name="Open").click()
        expect(page.locator("h1")).to_contain_text("lake-0")
        page.goto("/history")
        expect(page.locator(".history li").nth(2)).to_contain_text("lake-0")


@pytest.mark.parametrize("shares_worker", [True, False])
def test_every_photo_of_a_large_batch_is_followed(
    browser: Browser, service: ServiceProcess, files: list[Path], shares_worker: bool
) -> None:
    """A stream has at most 100 jobs; the last of the others ends first."""
    ids = [insert_job(service, status="queued", current_step="Queued") for _ in range(120)]
    answers = iter([{"url": f"/view/{id}", "ids": [id]} for id in ids])
    photo = files[0].read_bytes()
    payloads: Any = [
        {"name": f"{i}.jpg", "mimeType": "image/jpeg", "buffer": photo} for i in range(len(ids))
    ]
    with open_page(browser, service.url) as (page, _):
        if not shares_worker:
            page.add_init_script(browsing.NO_SHARED_WORKER_SCRIPT)
        page.route("**/ask", lambda route: route.fulfill(status=201, json=next(answers)))
        page.goto("/")
        page.set_input_files("#image", payloads)
        page.click("text=Get critique")
        steps = page.locator(".batch [data-step]")
        expect(steps.last).to_have_text("Queued")
        complete_jobs(service, ids[-1:])
        expect(steps.last).to_have_text("Complete")
        expect(steps.first).to_have_text("Queued")
        complete_jobs(service, ids)
        expect(steps).to_have_text(["Complete"] * len(ids))


def complete_jobs(service: ServiceProcess, ids: list[str]) -> None:
    """Mark inserted jobs as completed, as another program would."""
    with sqlite3.connect(service.db) as connection:
        command = "UPDATE jobs SET status = 'completed' WHERE id = ?"
        connection.executemany(command, [(id,) for id in ids])
    connection.close()


def test_a_sample_photo_is_one_click_on_the_demo_model(
    browser: Browser, service: ServiceProcess
) -> None:
    for script in (True, False):
        with open_page(browser, service.url, java_script_enabled=script) as (page, _):
            page.goto("/")
            expect(page.get_by_text("It knows only rendered landscapes")).to_be_visible()
            page.check("[name=advisor][value=okeefe]")
            page.get_by_role("button", name="a sunset over sand").click()
            page.wait_for_url("**/view/*")
            expect(page.locator("h1")).to_have_text("Georgia O'Keeffe on sample-1")
            expect(page.locator("article h4")).to_have_count(7)


def test_the_sample_photos_are_rendered_by_the_project(tmp_path: Path) -> None:
    for name, seed in zip(SAMPLES, (24, 29, 18), strict=True):
        path = tmp_path / name
        path.write_bytes(read_sample(name))
        difference = ImageChops.difference(
            Image.open(path).convert("RGB"), render(draw_scene(2026, seed), 640, 512)
        )
        assert max(ImageStat.Stat(difference).mean) < 12  # JPEG's loss


def test_another_base_has_no_samples(tmp_path: Path) -> None:
    base = tmp_path / "another-base"
    base.symlink_to(ROOT / "models/base/mondrian-tiny")
    with run_service(tmp_path, base=str(base), ready=False) as service, service.client() as client:
        assert "No landscape at hand?" not in client.get("/").text


def test_choices_are_remembered_and_the_bio_is_one_click_away(
    browser: Browser, service: ServiceProcess, files: list[Path]
) -> None:
    with open_page(browser, service.url) as (page, _):
        page.goto("/")
        bio = page.get_by_text("Zone System of exposure")
        expect(bio).to_be_hidden()
        page.get_by_text("About Ansel Adams").click()
        expect(bio).to_be_visible()
        check_page(page)
        browsing.request_critique(page, files[0], "okeefe", "lora")
        page.goto("/")
        expect(page.locator("[value=okeefe]")).to_be_checked()
        expect(page.locator("[value=lora]")).to_be_checked()


def test_a_photo_stays_chosen_while_the_service_cannot_be_reached(
    browser: Browser, service: ServiceProcess, files: list[Path]
) -> None:
    with open_page(browser, service.url, faulty=True) as (page, _):
        page.goto("/")
        page.set_input_files("#image", files[0])
        page.route("**/ask", lambda route: route.abort())
        page.click("text=Get critique")
        expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
        check_page(page)
        page.unroute("**/ask")
        page.click("text=Get critique")
        page.wait_for_url("**/view/*")


def test_all_tabs_share_one_event_stream_and_say_where_a_job_waits(
    browser: Browser, service: ServiceProcess, files: list[Path]
) -> None:
    model = model_process(service)
    assert model
    with open_page(browser, service.url) as (page, _):
        page.goto("/")
        model.suspend()
        try:
            ids = upload_photos(service, *files[:3] * 7, wait=False)  # 16 run at a time
            tabs = [page.context.new_page() for _ in ids[-8:]]
            for tab, id in zip(tabs, ids[-8:], strict=True):
                tab.goto(f"/view/{id}")
            for tab in tabs[-2:]:
                place = re.compile("Number [0-9]+ in the queue")
                expect(tab.locator("[data-step]")).to_have_text(place)
            connections = psutil.Process(service.process.pid).net_connections("tcp")
            established = [c for c in connections if c.status == psutil.CONN_ESTABLISHED]
            assert len(established) < len(tabs)  # Chromium opens at most six
        finally:
            model.resume()
        for tab in tabs:
            expect(tab.locator("article h4")).to_have_count(7)
        for tab in tabs:
            tab.close()
    with service.client() as client:
        wait_until(client, ids[-1], "completed")


def test_a_lost_connection_is_said_and_found_again(
    browser: Browser, service: ServiceProcess
) -> None:
    id = insert_job(service, status="queued", current_step="Queued")  # no service claims it
    with open_page(browser, service.url, faulty=True) as (page, _):
        page.add_init_script(browsing.NO_SHARED_WORKER_SCRIPT)
        event = json.dumps({"id": id, "step": "Next in the queue", "share": 0, "text": ""})
        answers = iter([f"retry: 100\n\ndata: {event}\n\n", ""])
        page.route(
            "**/live?*",
            lambda route: route.fulfill(
                status=200, content_type="text/event-stream", body=next(answers, "retry: 9999\n\n")
            ),
        )
        page.goto(f"/view/{id}")
        expect(page.locator("[data-step]")).to_have_text("Connection lost, retrying…")
        page.unroute("**/live?*")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_next_steps(
    browser: Browser,
    service: ServiceProcess,
    files: list[Path],
    width: int,
    scheme: Any,
) -> None:
    id = upload_photos(service, files[0])[0]
    with open_page(browser, service.url, width, color_scheme=scheme) as (page, _):
        page.goto(f"/view/{id}")
        steps = page.get_by_role("navigation", name="Next steps")
        for format in ("HTML", "JSON"):
            with page.expect_download() as download:
                steps.get_by_role("link", name=f"Download as {format}").click()
            assert download.value.suggested_filename == f"lake-0-ansel.{format.lower()}"
        steps.get_by_role("button", name="Ask Georgia O'Keeffe").click()
        expect(page.locator("h1")).to_have_text("Georgia O'Keeffe on lake-0")
        expect(page.locator("article h4")).to_have_count(7)
        check_page(page)
        steps.get_by_text("Delete…").click()
        check_page(page)
        steps.get_by_role("button", name="Delete for good").click()
        page.wait_for_url("**/history")
        page.goto(f"/view/{id}")  # its photo is still used
        page.wait_for_function("() => document.querySelector('.frame img')?.naturalWidth > 0")


def test_a_critique_that_is_being_written_is_stopped_and_started_again(
    browser: Browser, service: ServiceProcess, files: list[Path]
) -> None:
    model = model_process(service)
    assert model
    with open_page(browser, service.url) as (page, _):
        model.suspend()
        try:
            id = upload_photos(service, files[1], wait=False)[0]
            with service.client() as client:
                wait_until(client, id, "analyzing")
            page.goto(f"/view/{id}")
            page.get_by_role("button", name="Stop").click()
            expect(page.get_by_text("stopped by a person")).to_be_visible()
        finally:
            model.resume()
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("article h4")).to_have_count(7)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_the_history_is_searched_filtered_and_stays_blind(
    browser: Browser, service: ServiceProcess, files: list[Path], width: int, scheme: Any
) -> None:
    name = f"blind {width}.jpg"
    path = files[2].parent / name
    path.write_bytes(files[2].read_bytes())
    with open_page(browser, service.url, width, color_scheme=scheme) as (page, _):
        job = browsing.request_critique(page, path, mode="baseline")
        page.goto("/history")
        page.get_by_label("Search photos").fill(f"blind {width}")
        page.get_by_role("button", name="Search").click()
        rows = page.locator(".history li")
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("rate it to see the model")
        assert "fine-tuned" not in rows.inner_html()
        page.get_by_label("Grade at least").fill("10")
        page.get_by_role("button", name="Apply").click()
        expect(page.get_by_text("Nothing matches")).to_be_visible()
        check_page(page)
        page.goto(job)
        page.get_by_role("button", name="thumbs up").click()
        page.goto(f"/history?q=blind+{width}")
        expect(rows).to_contain_text(re.compile("(base|fine-tuned) +at random"))
        check_page(page)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_on_any_page(
    browser: Browser, service: ServiceProcess, files: list[Path], width: int, scheme: Any
) -> None:
    job = upload_photos(service, files[0])[0]
    failed = insert_job(service, status="failed", error="it was too dark", kind="upload")
    with open_page(browser, service.url, width, faulty=True, color_scheme=scheme) as (page, _):
        pair = browsing.request_critique(page, files[1], mode="both")
        paths = ("/", "/history?min=1", "/experiments", f"/view/{job}", pair, f"/view/{failed}")
        errors = ("/view/none", "/nonsense")
        for path in (*paths, *errors, f"/analysis/{job}", f"/summary/{job}"):
            page.goto(path)
            assert find_axe_violations(page) == [], path


def test_axe_finds_nothing_on_the_login_page(browser: Browser, tmp_path: Path) -> None:
    environment = {"MONDRIAN_API_KEY": KEY}
    with (
        run_service(tmp_path, env=environment, ready=False) as service,
        open_page(browser, service.url, 390, faulty=True) as (page, _),
    ):
        page.goto("/login")
        check_page(page)
        page.get_by_label("API key").fill("not this one")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("Wrong API key")
        check_page(page)


def test_axe_finds_a_missing_label(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content("<html lang=en><title>x</title><main><h1>x</h1><input></main>")
    assert any(violation.startswith("label:") for violation in find_axe_violations(page))
    page.close()
