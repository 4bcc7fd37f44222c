"""The contact sheet in a real browser, from a file, without network."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from mondrian.core.files import write_bytes
from mondrian.critique.schema import DIMENSIONS, Critique
from mondrian.inference.gallery import Gallery
from mondrian.inference.photo_critiques import CritiquedPhoto
from mondrian.inference.photo_files import PhotoFile, SkippedFile
from mondrian.inference.photo_reader import PreviewFolder, encode_preview
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique
from tests import browsing
from tests.browsing import CONTRAST_SCRIPT, UNLABELED_SCRIPT, open_page, overflow_width
from tests.inference.critique_records import make_record

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \u2028"
NAMES = ("a.jpg", "b <i>.jpg", "sub/c.jpg", "d.jpg")
OVERALL = (5.0, 8.0, 6.5, 3.0)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browsing.browser() as chromium:
        yield chromium


def change_first_score(critique: Critique, score: float) -> Critique:
    first = critique.dimensions[0].model_copy(update={"score": score, "comment": HOSTILE})
    return critique.model_copy(update={"dimensions": (first, *critique.dimensions[1:])})


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    previews, photos = PreviewFolder(folder / "previews"), []
    for i, (name, overall) in enumerate(zip(NAMES, OVERALL, strict=True)):
        scene = draw_scene(5, i)
        file = PhotoFile(folder / "photos" / name, f"{i}" * 64)
        write_bytes(previews.path(file), encode_preview(render(scene)))
        fine_tuned = change_first_score(write_critique("ansel", scene), 9.0 - i)
        base = change_first_score(write_critique("okeefe", scene), 1.0)
        records = (
            make_record(fine_tuned, name, overall),
            make_record(base, name, 2.0, adapter=""),
        )
        photos.append(CritiquedPhoto(file, records))
    skipped = [SkippedFile(str(folder / "photos/<b>.txt"), "not_a_photo", "a file")]
    page = Gallery("Ansel Adams", "an adapter", previews, folder).render(photos, skipped)
    (folder / "gallery.html").write_text(page, encoding="utf-8")
    return folder / "gallery.html"


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_sheet_is_sorted_filtered_and_shows_both_critiques(
    chromium: Browser, page_path: Path, width: int, scheme: str
) -> None:
    with open_page(chromium, page_path.as_uri(), width, color_scheme=scheme) as (page, log):
        page.goto(page_path.as_uri())
        assert [url for url in log.requests if not url.startswith("data:")] == [page_path.as_uri()]
        files = page.locator(".sheet .file")
        expect(files).to_have_text(["b <i>.jpg", "sub/c.jpg", "a.jpg", "d.jpg"])
        expect(page.locator(".sheet b").first).to_have_text("8.0")
        page.select_option("select[name=score]", label=DIMENSIONS[0])
        expect(files).to_have_text(["a.jpg", "b <i>.jpg", "sub/c.jpg", "d.jpg"])
        expect(page.locator(".sheet b").first).to_have_text("9.0")
        page.fill("input[name=minimum]", "7")
        expect(files).to_have_text(["a.jpg", "b <i>.jpg", "sub/c.jpg"])
        expect(page.locator("[data-count]")).to_have_text("3 of 4 photos")
        assert overflow_width(page) == 0
        assert page.evaluate(CONTRAST_SCRIPT)["faint"] == []
        page.locator(".sheet button").first.click()
        expect(page.locator("dialog h2")).to_have_text("a.jpg")
        page.keyboard.press("ArrowRight")
        expect(page.locator("dialog h2")).to_have_text("b <i>.jpg")
        for arm, overall in (("0", "8.0"), ("1", "2.0")):
            texts = page.locator(f'[data-arm="{arm}"]')
            expect(texts).to_contain_text(HOSTILE)
            expect(page.locator("[data-overall]").nth(int(arm))).to_have_text(overall)
        points = page.locator("polygon[class]").evaluate_all(
            "nodes => nodes.map((node) => node.points.numberOfItems)"
        )
        assert points == [7, 7]
        assert page.locator("dialog img").evaluate("image => image.naturalWidth") > 300
        href = page.locator("[data-original]").get_attribute("href")
        assert href == "photos/b%20%3Ci%3E.jpg"
        assert page.evaluate(CONTRAST_SCRIPT)["faint"] == []
        assert page.evaluate(UNLABELED_SCRIPT) == 0
        assert page.evaluate("document.querySelector('dialog').scrollWidth") <= width
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).to_be_hidden()
        assert page.evaluate("document.activeElement.closest('li').dataset.index") == "0"
        page.fill("input[name=minimum]", "9.5")
        expect(page.get_by_text("No photo has that score.")).to_be_visible()


@pytest.mark.slow
def test_without_scripts_the_sheet_shows_photos_and_scores(
    chromium: Browser, page_path: Path
) -> None:
    with open_page(chromium, page_path.as_uri(), java_script_enabled=False) as (page, _):
        page.goto(page_path.as_uri())
        expect(page.locator(".sheet img")).to_have_count(4)
        expect(page.locator(".sheet b").first).to_have_text("8.0")
        expect(page.get_by_text("critiques.csv has them too")).to_be_visible()
        expect(page.get_by_text("<b>.txt", exact=True)).to_have_count(1)
