"""What a photographer does on the page of label, in a real browser, by keyboard."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from mondrian.critique.schema import Critique
from mondrian.data.manifest import Manifest
from tests.browsing import open_page
from tests.conftest import ROOT, assert_one_error, run_stage
from tests.labeling.local_page import check_page, required_fields, run_local_page
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow


def expect_form(page: Page, name: str) -> None:
    """Wait for the form of a photo, and for its script, which shows the sliders."""
    expect(page.locator("h1")).to_have_text(name)
    expect(page.locator("[data-slider]").first).to_be_visible()


def start(page: Page) -> None:
    page.goto("/")
    page.get_by_role("link", name="Start with a.jpg").click()
    expect_form(page, "a.jpg")


def type_critique(page: Page, fields: dict[str, str]) -> None:
    """Fill in the required fields with the keyboard alone."""
    page.keyboard.press("0")
    page.keyboard.insert_text(fields["image_description"])
    page.keyboard.press("Escape")
    for i in range(7):
        page.keyboard.press(str(i + 1))
        expect(page.locator(f"[data-slider='dimensions.{i}.score']")).to_be_focused()
        target, score = round(2 * float(fields[f"dimensions.{i}.score"])), 10
        for _ in range(abs(target - score)):
            page.keyboard.press("ArrowRight" if target > score else "ArrowLeft")
        page.keyboard.press("Enter")  # sets the score, also of a slider that was not moved
        for part in ("comment", "recommendation"):
            page.keyboard.press("Tab")
            page.keyboard.insert_text(fields[f"dimensions.{i}.{part}"])
        page.keyboard.press("Escape")


def test_a_critique_is_written_by_keyboard_and_becomes_a_pair(
    browser: Browser, folder: Path, critique: Critique, tmp_path: Path
) -> None:
    fields = required_fields(critique)
    arguments = ("label", folder, "--advisor", "ansel", "--port", "0")
    with run_local_page(*arguments) as label, open_page(browser, label.url) as (page, _):
        start(page)
        type_critique(page, fields)
        expect(page.locator("[data-state]")).to_have_text("Kept. Ready to finish")
        page.keyboard.press("s")
        expect(page.get_by_text("a.jpg is in the list.")).to_be_visible()
        expect_form(page, "b.jpg")
        page.keyboard.press("x")
        expect_form(page, "more/ä c.jpg")
        page.keyboard.press("p")
        expect_form(page, "b.jpg")
        output = label.interrupt()
    assert "1 of 3 photos are in" in output
    assert "1 open, 1 skipped" in output
    assert f"next: mondrian init --list '{folder}/critiques.jsonl'" in output
    outputs = (f"--output_dir={tmp_path / 'linked'}", f"--cache_dir={tmp_path / 'cache'}")
    linked = run_stage("link", f"--db_path={folder}", "--advisor=ansel", *outputs)
    assert linked.returncode == 0, linked.stderr
    (record,) = Manifest(tmp_path / "linked" / "training_data_manifest.json").records()
    assert Path(record.photo.path).name == "a.jpg"
    assert record.critique.image_description == critique.image_description


def test_a_kill_loses_nothing_that_was_typed_before(browser: Browser, folder: Path) -> None:
    arguments = ("label", folder, "--advisor", "me", "--list", folder / "mine.jsonl", "--port")
    with open_page(browser, "http://127.0.0.1", faulty=True) as (page, log):
        with run_local_page(*arguments, "0") as label:
            page.goto(label.url)
            page.get_by_role("link", name="Start with a.jpg").click()
            expect_form(page, "a.jpg")
            page.keyboard.press("0")
            page.keyboard.insert_text("A lake below mountains.")
            expect(page.locator("[data-state]")).to_contain_text("Kept. 21 of 22")
            label.process.kill()
            label.process.wait()
            page.keyboard.press("Escape")
            page.keyboard.press("1")
            page.keyboard.press("ArrowRight")
            expect(page.locator("[data-state]")).to_contain_text("mondrian label has ended")
        port = label.url.rpartition(":")[2]
        with run_local_page(*arguments, port):
            expect(page.locator("[data-state]")).to_contain_text("Kept. 20 of 22")
            page.reload()
            expect(page.locator("#image_description")).to_have_value("A lake below mountains.")
            expect(page.locator("[id='dimensions.0.score']")).to_have_value("5.5")
    assert not (folder / "mine.jsonl").exists()


FINISH_AT_ONCE = """(fields) => {
  const form = document.querySelector("[data-label]");
  for (const [name, text] of Object.entries(fields)) form.elements[name].value = text;
  form.elements.image_description.dispatchEvent(new Event("input", { bubbles: true }));
  form.requestSubmit(form.querySelector("[value=finish]"));
}"""


def test_what_is_finished_right_after_typing_is_not_unfinished_again(
    browser: Browser, folder: Path, critique: Critique
) -> None:
    arguments = ("label", folder, "--advisor", "ansel", "--port", "0")
    with run_local_page(*arguments) as label, open_page(browser, label.url) as (page, _):
        start(page)
        page.evaluate(FINISH_AT_ONCE, required_fields(critique))
        expect(page.get_by_text("a.jpg is in the list.")).to_be_visible()
        expect_form(page, "b.jpg")
        page.keyboard.press("p")
        expect_form(page, "a.jpg")
        expect(page.get_by_text("Photo 1 of 3")).not_to_contain_text("changes are not yet")
        lines = (folder / ".critiques.jsonl.unfinished").read_text().splitlines()
        assert json.loads(lines[-1])["state"] == "finished"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_both_pages_are_accessible(browser: Browser, folder: Path, width: int, scheme: Any) -> None:
    arguments = ("label", folder, "--advisor", "ansel", "--port", "0")
    with (
        run_local_page(*arguments) as label,
        open_page(browser, label.url, width, faulty=True, color_scheme=scheme) as (page, _),
    ):
        page.goto("/")
        check_page(page)
        page.get_by_role("link", name="Start with a.jpg").click()
        check_page(page)
        page.keyboard.press("s")
        expect(page.locator(".fault").first).to_contain_text("22 fields need something")
        expect(page.locator("#image_description, [aria-invalid]").first).to_be_visible()
        check_page(page)


def test_typing_is_no_shortcut_and_shortcuts_can_be_switched_off(
    browser: Browser, folder: Path
) -> None:
    arguments = ("label", folder, "--advisor", "ansel", "--port", "0")
    with run_local_page(*arguments) as label, open_page(browser, label.url) as (page, _):
        start(page)
        page.keyboard.press("0")
        page.keyboard.type("sxn1 snow")
        expect_form(page, "a.jpg")
        expect(page.locator("#image_description")).to_have_value("sxn1 snow")
        expect(page.locator("[data-state]")).to_contain_text("Kept.")
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        page.get_by_label("Use keyboard shortcuts").uncheck()
        page.get_by_role("button", name="Close").click()
        page.keyboard.press("x")
        page.reload()
        expect_form(page, "a.jpg")
        page.keyboard.press("x")
        expect_form(page, "a.jpg")
        page.get_by_role("button", name="Keyboard shortcuts (off)").click()
        page.get_by_label("Use keyboard shortcuts").check()
        page.get_by_role("button", name="Close").click()
        page.keyboard.press("x")
        expect_form(page, "b.jpg")


# Stores what a tab sent when it left this page some milliseconds ago.
LEAVE_SCRIPT = """([text, milliseconds]) => {
  const form = document.querySelector("[data-label]");
  const body = new URLSearchParams(new FormData(form));
  body.set("action", "keep");
  body.set("image_description", text);
  const item = JSON.stringify([Date.now() - milliseconds, String(body)]);
  sessionStorage.setItem(form.getAttribute("action"), item);
}"""


def test_text_that_arrives_after_the_reload_is_there(browser: Browser, folder: Path) -> None:
    with (
        run_local_page("label", folder, "--advisor=ansel", "--port=0") as label,
        open_page(browser, label.url) as (page, _),
    ):
        start(page)
        page.evaluate(LEAVE_SCRIPT, ["long ago", 60_000])
        page.reload()
        expect_form(page, "a.jpg")
        page.evaluate(LEAVE_SCRIPT, ["just now", 100])
        page.reload()
        expect(page.locator("#image_description")).to_have_value("just now")
        page.reload()
        expect(page.locator("#image_description")).to_have_value("just now")


def test_text_typed_just_before_a_reload_is_there(browser: Browser, folder: Path) -> None:
    with (
        run_local_page("label", folder, "--advisor=ansel", "--port=0") as label,
        open_page(browser, label.url) as (page, _),
    ):
        start(page)
        for i in range(5):
            page.keyboard.press("0")
            page.keyboard.press("End")
            page.keyboard.insert_text(f"{i}")
            page.reload()
            text = "".join(map(str, range(i + 1)))
            expect(page.locator("#image_description")).to_have_value(text)
            page.wait_for_function("Object.values(sessionStorage).every((text) => text === '[0]')")


def test_a_draft_of_the_base_is_corrected(
    browser: Browser, folder: Path, critique: Critique
) -> None:
    own = required_fields(critique)
    arguments = ("label", folder, "--advisor", "ansel", "--draft", "base", "--port", "0")
    with (
        run_local_page(*arguments) as label,
        open_page(browser, label.url, faulty=True) as (page, _),
    ):
        start(page)
        expect(page.get_by_role("button", name="Fill in the draft")).to_be_visible()
        page.keyboard.press("d")
        expect(page.get_by_text("With words of base")).to_be_visible()
        expect(page.locator("[data-slider]").first).to_be_visible()
        page.keyboard.press("s")
        expect(page.get_by_text("This is the draft, word for word")).to_be_visible()
        for name, text in own.items():
            if not name.endswith("score"):
                page.fill(f"[id='{name}']", text)
        page.fill("#overall_score", "")
        page.keyboard.press("Control+Enter")
        expect_form(page, "b.jpg")
    (line,) = (folder / "critiques.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["draft"].startswith("base ")
    assert entry["critique"]["image_description"] == critique.image_description


def run_label(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mondrian", "label", *map(str, arguments), "--advisor=ansel"]
    return subprocess.run(
        [*command, "--no-browser"], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE
    )


def test_a_new_advisor_is_named_and_no_step_follows_without_a_critique(folder: Path) -> None:
    with run_local_page("label", folder, "--advisor=anse", "--port=0") as label:
        output = label.interrupt()
    assert "anse is a new advisor; params.yaml has ansel, okeefe\n" in label.start
    assert "0 of 3 photos are in" in output
    assert "next:" not in output


def test_mistakes_are_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("x")
    assert_one_error(run_label(tmp_path / "empty"), f"{tmp_path}/empty: no photo to critique")
    assert_one_error(run_label(tmp_path / "texts"), "notes.txt (not_a_photo)")
    assert_one_error(run_label(tmp_path / "my photo"), "does not exist; there is", folder)
    assert_one_error(run_label(folder / "a.jpg"), "a.jpg is a file; give its folder")
    assert_one_error(run_label(folder, "--list", folder / "a.jpg"), "it is a photo")
    assert list((tmp_path / "empty").iterdir()) == []
    with run_local_page("label", folder, "--advisor=okeefe", "--port=0") as label:
        port = label.url.rpartition(":")[2]
        taken = run_label(folder, "--port", port)
        assert_one_error(taken, f"cannot listen on 127.0.0.1 port {port}: Address already in use")
        assert_one_error(run_label(folder, "--port=0"), "another mondrian label writes into it")
