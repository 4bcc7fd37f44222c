"""Blind votes by keyboard, in a real browser, on the report of an evaluation."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from mondrian.core.files import write_json
from mondrian.evaluation.preference import Preference, read_preference
from tests.browsing import open_page
from tests.conftest import ROOT
from tests.labeling.local_page import check_page, run_local_page
from tests.labeling.report_photos import make_photo

NUM_PHOTOS = 20
JUDGE = ("judge", "--advisor", "ansel", "--port", "0")


@pytest.fixture
def project(tmp_path: Path, photos: list[Image.Image]) -> Path:
    """A folder with the files of an evaluation of twenty photos."""
    for name in ("params.yaml", "dvc.yaml", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    metrics = tmp_path / "metrics" / "ansel"
    entries = [make_photo(i) for i in range(NUM_PHOTOS)]
    for i, entry in enumerate(entries):
        photos[i % len(photos)].save(tmp_path / entry["image"])
    report = {"adapter": {"version": "a1"}, "photographs": entries}
    write_json(metrics / "comparison_report.json", report)
    evaluation = {"verdict": "BETTER", "photographs": NUM_PHOTOS, "photograph_groups": NUM_PHOTOS}
    write_json(metrics / "evaluate.json", evaluation)
    return tmp_path


def read_left(page: Page) -> str:
    """Return the description by the left critique."""
    return str(page.locator(".compared .card").first.locator("p").nth(1).inner_text())


def read_markup(page: Page) -> str:
    """Return the page as it is sent, without texts, tokens and what the first page lacks."""
    html = str(page.evaluate("fetch('/').then((response) => response.text())"))
    html = re.sub(r"<button name=.choice. value=.undo.*?</button>", "", html)
    return re.sub(r"[0-9a-f]{32}", "", re.sub(r">[^<]+<", "><", html)).replace("<li></li>", "")


def expect_photo(page: Page, number: int) -> None:
    """Wait for a pair, and for the script of the page."""
    expect(page.get_by_text(f"Photo {number} of 20,")).to_be_visible()
    expect(page.locator("[data-shortcuts]")).to_be_visible()


@pytest.mark.slow
def test_twenty_votes_by_keyboard(browser: Browser, project: Path) -> None:
    entries = json.loads((project / "metrics/ansel/comparison_report.json").read_text())
    tuned = {
        json.loads(photo["fine_tuned_constrained"]["text"])["image_description"]
        for photo in entries["photographs"]
    }
    pages: dict[bool, set[str]] = {True: set(), False: set()}  # by: the adapter is at the left
    with run_local_page(*JUDGE, cwd=project) as judge, open_page(browser, judge.url) as (page, log):
        page.goto("/")
        for number in range(1, NUM_PHOTOS + 1):
            expect_photo(page, number)
            is_left = read_left(page) in tuned
            pages[is_left].add(read_markup(page))
            key = "0" if number % 5 == 0 else "1" if is_left else "2"  # four equal, else adapter
            page.keyboard.press(key)
        expect(page.locator("h1")).to_have_text("The adapter is preferred in 100 %")
        expect(page.get_by_text("95 % interval 79 to 100 %")).to_be_visible()
        expect(page.get_by_text("BETTER on 20 critiques of 20 photos")).to_be_visible()
        output = judge.interrupt()
    assert "adapter 16, base 0, equal 4; the adapter is preferred in 100%" in output
    assert read_preference(project / "metrics/ansel", "a1") == Preference(16, 0, 4)
    lines = (project / "metrics/ansel/votes.jsonl").read_text().splitlines()
    votes = [json.loads(line) for line in lines]
    assert [vote["side"] for vote in votes].count("left") == 10
    for start in range(0, NUM_PHOTOS, 4):
        assert [vote["side"] for vote in votes[start : start + 4]].count("left") == 2
    (one_of_left,) = pages[True]
    assert pages[False] == {one_of_left}  # the markup is the same, whichever side it is on
    assert not [url for url in log.requests if re.search("base|tuned|adapter|group|png", url)]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_is_accessible_and_a_session_continues(
    browser: Browser, project: Path, width: int, scheme: Any
) -> None:
    with (
        run_local_page(*JUDGE, cwd=project) as judge,
        open_page(browser, judge.url, width, color_scheme=scheme) as (page, _),
    ):
        page.goto("/")
        check_page(page)
        first = read_left(page)
        page.keyboard.press("1")
        expect_photo(page, 2)
        page.keyboard.press("u")
        expect_photo(page, 1)
        assert read_left(page) == first
        page.keyboard.press("x")
        expect(page.locator(".compared .card p").nth(1)).not_to_have_text(first)
        expect_photo(page, 1)
        page.keyboard.press("2")
        expect_photo(page, 2)
        judge.process.kill()
    with run_local_page(*JUDGE, cwd=project) as judge, open_page(browser, judge.url) as (page, _):
        page.goto("/")
        expect_photo(page, 2)
        *_, rest, commit = judge.interrupt().splitlines()
    assert rest == "mondrian summary shows them; 19 photos are left to compare"
    assert commit == "commit them with the metrics: git add metrics/ansel/votes.jsonl"
