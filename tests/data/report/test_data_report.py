"""The pages are parsed as a browser does: their images are decoded, their texts escaped."""

import base64
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from lxml import html
from PIL import Image
from playwright.sync_api import Browser, Page

from mondrian.core.params import Params
from mondrian.critique.rejection import RejectionReason
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.link import MANIFEST_FILE, link
from mondrian.data.link_context import LinkContext
from mondrian.data.manifest import SECTION_NAMES, Manifest, ManifestRecord, write_manifest
from mondrian.data.report.data_report import render_data_report, summarize_manifest
from mondrian.data.report.split_report import render_split_report
from mondrian.data.split import split_records
from tests import browsing
from tests.data.manifest_records import record

# Words that are broken, except in paths, ids and texts that contain them.
BROKEN_WORDS_SCRIPT = r"""() => {
  const broken = [];
  let seen = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walk.nextNode(); text; text = walk.nextNode()) {
    if (text.parentElement.closest(".path, figcaption")) continue;
    for (const match of text.data.matchAll(/[\p{L}\d_]+/gu)) {
      const range = document.createRange();
      range.setStart(text, match.index);
      range.setEnd(text, match.index + match[0].length);
      const tops = new Set([...range.getClientRects()].map((r) => Math.round(r.top)));
      seen += tops.size > 0;
      if (tops.size > 1) broken.push(match[0]);
    }
  }
  return {seen, broken};
}"""
EMPTY: dict[str, Any] = dict.fromkeys(
    ("rejected", "suspicions", "forms", "repairs", "match_kinds"), {}
)


def write(
    path: Path,
    used: Sequence[ManifestRecord] = (),
    left_out: Sequence[ManifestRecord] = (),
    rejected: Sequence[dict[str, str]] = (),
) -> Manifest:
    """Write a manifest with counts that fit its content."""
    jobs = [*rejected]
    jobs += [{"job_id": r.job_id, "reason": str(r.reason), "detail": "a flag"} for r in left_out]
    reasons = [job["reason"] for job in jobs]
    flags = [flag for r in (*used, *left_out) for flag in r.suspicions]
    totals = {
        "finished": len(used) + len(jobs),
        "linked": len(used),
        "photos": len({r.photo.group for r in used}),
        "rejected": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "suspicions": {flag: flags.count(flag) for flag in sorted(set(flags))},
    }
    sections = {
        "records": [r.model_dump_json() for r in used],
        "left_out": [r.model_dump_json() for r in left_out],
        "rejected": list(map(json.dumps, jobs)),
    }
    assert set(sections) == set(SECTION_NAMES)
    write_manifest(path, "ansel", EMPTY | totals | {"jobs": totals["finished"]}, sections)
    return Manifest(path)


def change(entry: ManifestRecord, photo: dict[str, Any], **changes: Any) -> ManifestRecord:
    return entry.model_copy(update={"photo": entry.photo.model_copy(update=photo), **changes})


def with_scores(
    entry: ManifestRecord, scores: Sequence[float], overall: float, **changes: Any
) -> ManifestRecord:
    dimensions = tuple(
        dimension.model_copy(update={"score": score})
        for dimension, score in zip(entry.critique.dimensions, scores, strict=True)
    )
    update = {"dimensions": dimensions, "overall_score": overall}
    return entry.model_copy(
        update={"critique": entry.critique.model_copy(update=update), **changes}
    )


def render(manifest: Manifest, params: Params, problem: str = "") -> html.HtmlElement:
    page = render_data_report(summarize_manifest(manifest, params.link), problem)
    return html.document_fromstring(page)


def table_after(page: html.HtmlElement, heading: str) -> list[list[str]]:
    """Return the texts of the first table after a heading, without the names of its columns."""
    (table,) = page.xpath(f"//*[self::h2 or self::h3][.='{heading}']/following::table[1]")
    return [[cell.text_content().strip() for cell in row] for row in table.xpath(".//tbody/tr")]


@pytest.mark.slow
def test_the_report_shows_all_job_outcomes_and_is_self_contained(
    application: Path, params: Params, tmp_path: Path
) -> None:
    folders = ApplicationFolders(
        *(application / name for name in ("source", "analysis_md", "analysis"))
    )
    context = LinkContext("ansel", folders, params.link)
    counts = link(application / "mondrian.db", context, params.image, tmp_path, tmp_path)
    manifest = Manifest(tmp_path / MANIFEST_FILE)
    text = render_data_report(summarize_manifest(manifest, params.link))
    page = html.document_fromstring(text)
    reasons = [b.text_content() for b in page.xpath("//figure//div[@class='row']/b")]
    numbers = map(int, page.xpath("//figure//span[@class='value']/text()"))
    rejected = dict(zip(reasons, numbers, strict=True))
    assert rejected == counts["rejected"]
    assert sum(rejected.values()) + counts["linked"] == counts["finished"]
    flags = [h.removeprefix("flag-") for h in page.xpath("//h3[starts-with(@id, 'flag-')]/@id")]
    assert set(counts["suspicions"]) == set(flags)
    split = split_records(manifest.records(), params.prepare)
    for page_text in (text, render_split_report(manifest, split)):
        images = html.document_fromstring(page_text).xpath("//img/@src")
        assert len(images) > 25
        assert len(page_text) < 3_000_000
        assert re.findall(r"(?:src|href)=\"(?!data:|#)", page_text) == []
        assert "http" not in re.sub(r"base64,[\w+/=]+", "", page_text)
        for url in images:
            content = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
            with Image.open(io.BytesIO(content)) as image:
                assert max(image.size) <= 240
                assert not image.getexif()


def test_names_and_texts_are_escaped_and_a_missing_photo_is_reported(
    params: Params, tmp_path: Path
) -> None:
    records = []
    for i in range(40):
        entry = record(i, f"p{i}")
        script = {"image_description": "<script>alert(1)</script>"}
        changes = {
            "suspicions": ("repeated_advice",) if i == 0 else (),
            "job_id": "<i>job",
            "critique": entry.critique.model_copy(update=script),
            "notes": ("<u>note",),
        }
        photo = {"path": f"<b>{i}.jpg", "copy_kind": "<s>kind", "group": f"{i // 2}"}
        records.append(change(entry, photo, **changes))
    rejected = [{"job_id": "<em>", "reason": "no_text", "detail": "<s class=x>"}]
    manifest = write(tmp_path / "m.json", records, rejected=rejected)
    settings = params.prepare.model_copy(update={"min_test": 4})
    split = split_records(manifest.records(), settings)
    text = render_data_report(summarize_manifest(manifest, params.link), "<h1>problem")
    text += render_split_report(manifest, split, "<h1>problem")
    raws = (
        "<script>",
        "<b>0.jpg",
        "<i>job",
        "<u>note",
        "<s>kind",
        "<em>",
        "<s class=x>",
        "<h1>problem",
    )
    for raw in raws:
        assert raw not in text
        assert raw.replace("<", "&lt;").replace(">", "&gt;") in text
    assert "not readable" in text


def test_equal_scores_are_counted_with_their_flags_and_mean(params: Params, tmp_path: Path) -> None:
    template = {"suspicions": ("template_scores",), "reason": RejectionReason.TEMPLATE_SCORES}
    unscored = {"suspicions": ("unscored",), "scored": False}
    used = [
        with_scores(record(0, "a"), (8, 7, 9, 6, 7, 8, 7), 7.4),
        with_scores(record(1, "b"), (1, 2, 3, 4, 5, 6, 7), 4.5),
        with_scores(record(2, "c"), (5,) * 7, 5, **unscored),
    ]
    left_out = [
        with_scores(record(i, f"{i}"), (8, 7, 9, 6, 7, 8, 7), 7.4, **template) for i in (3, 4)
    ]
    page = render(write(tmp_path / "m.json", used, left_out), params)
    rows = table_after(page, "Critiques with equal scores")
    assert rows == [["3 (75 %)", "1", "8, 7, 9, 6, 7, 8, 7", "7.4", "7.43", "template_scores"]]
    assert "4 critiques have 2 different sets of scores" in page.text_content()
    assert "Text only: 1 of the pairs" in page.text_content()


def test_the_overall_score_is_shown_against_its_mean(params: Params, tmp_path: Path) -> None:
    off_mean = {"suspicions": ("overall_off_mean",), "reason": RejectionReason.OVERALL_OFF_MEAN}
    used = [with_scores(record(i, f"{i}"), (i,) * 7, i) for i in range(3)]
    used.append(with_scores(record(3, "3"), (5,) * 7, 5.1))
    left_out = [with_scores(record(4, "4"), (5,) * 7, 8.0, **off_mean)]
    manifest = write(tmp_path / "m.json", used, left_out)
    link_params = params.link.model_copy(update={"overall_tolerance": 0.1})
    page = html.document_fromstring(render_data_report(summarize_manifest(manifest, link_params)))
    rows = table_after(page, "Overall score against the mean")
    assert [(row[0].split()[1], row[1], row[2]) for row in rows] == [
        ("0.05", "3", "3"),
        ("0.1", "4", "4"),  # the tolerance
        ("0.15", "4", "4"),
        ("0.5", "4", "4"),
        ("1", "4", "4"),
        ("critiques", "5", "4"),
    ]
    dots = page.xpath("//circle")
    assert [dot.get("class") for dot in dots] == [None, *["used"] * 4]
    assert dots[0].get("cx") == "62.5"  # 5 on an axis from 0 to 8
    assert dots[0].get("cy") == "0.0"


def test_a_mean_of_more_than_the_seven_is_used_if_it_is_closer(
    params: Params, tmp_path: Path
) -> None:
    used = [
        with_scores(record(0, "a"), (6,) * 7, 7, extra_scores=(10.0, 10.0, 10.0)),  # of all: 7.2
        with_scores(record(1, "b"), (6,) * 7, 6, extra_scores=(9.0,)),
    ]
    page = render(write(tmp_path / "m.json", used), params)
    rows = table_after(page, "Overall score against the mean")
    assert rows[0][:2] == ["by 0.05 at most", "1"]
    assert rows[2][:2] == ["by 0.5 at most", "2"]
    assert "for 1 of the critiques it is that of all stored dimensions" in page.text_content()


def test_copies_are_grouped_by_kind(params: Params, tmp_path: Path) -> None:
    def photo(i: int, group: str, kind: str = "", sha: int | None = None) -> ManifestRecord:
        sha256 = f"{i if sha is None else sha:064x}"
        return change(record(i, group), {"copy_kind": kind, "sha256": sha256})

    used = [
        photo(2, "a", "same bytes", sha=0),
        photo(0, "a"),
        photo(1, "a", "cropped"),
        photo(3, "b", "cropped"),
        photo(4, "b"),
        photo(5, "b", "mirrored"),
        photo(6, "c"),
    ]
    left_out = [
        change(photo(7, "d"), {}, reason=RejectionReason.SHARED_TEXT, suspicions=("shared_text",)),
        change(photo(8, "d"), {}, reason=RejectionReason.SHARED_TEXT, suspicions=("shared_text",)),
    ]
    page = render(write(tmp_path / "m.json", used, left_out), params)
    assert table_after(page, "Near-duplicate photos") == [
        ["cropped", "2", "2"],
        ["mirrored", "1", "1"],
        ["near-duplicate", "1", "1"],  # link does not say how it differs
        ["same bytes", "1", "1"],
    ]
    cards = page.xpath("//h2[@id='duplicates']/following::div[@class='card'][figure or div]")
    tags = [card.xpath("string(.//span)") for card in cards[:3]]
    assert sorted(tags) == ["left out", "used", "used"]
    captions = [caption.text_content() for caption in page.xpath("//figcaption")]
    assert {"2.jpg; same bytes: 0.jpg", "1.jpg (cropped)", "5.jpg (mirrored)"} <= set(captions)


def test_photos_of_the_same_name_are_shown_with_their_folders(
    params: Params, tmp_path: Path
) -> None:
    flag = {"suspicions": ("shared_text",)}
    paths = [f"/photos/DCIM/{i}APPLE/IMG_1.JPG" for i in range(6)]
    used = [change(record(i, f"{i}"), {"path": path}, **flag) for i, path in enumerate(paths)]
    rejected = [
        {"job_id": "line-2", "photo": paths[0], "reason": "no_text", "detail": "empty"},
        {"job_id": "line-3", "photo": "a.jpg", "reason": "image_missing", "detail": "no 'a.jpg'"},
    ]
    page = render(write(tmp_path / "m.json", used, rejected=rejected), params)
    flagged = page.xpath("//h2[@id='flags']/following::figcaption")
    captions = [caption.text_content() for caption in flagged]
    assert captions == [f"{i}APPLE/IMG_1.JPG" for i in range(4)]
    assert page.xpath("string(//h3[@id='flag-shared_text'])") == "shared_text: the first 4 of 6"
    assert [item.text_content().strip() for item in page.xpath("//ul[@class='jobs']/li")] == [
        "line-3: no 'a.jpg'",
        "line-2 (0APPLE/IMG_1.JPG): empty",
    ]
    split = split_records(write(tmp_path / "m.json", used).records(), params.prepare)
    text = render_split_report(write(tmp_path / "m.json", used), split, "too few")
    captions = html.document_fromstring(text).xpath("//figcaption")
    assert {c.text_content() for c in captions} == {f"{i}APPLE/IMG_1.JPG" for i in range(6)}


def test_what_was_assumed_is_counted(params: Params, tmp_path: Path) -> None:
    used = [
        change(record(0, "a"), {}, notes=("text read as cp1252",)),
        change(record(1, "b"), {"match_kind": "other_spelling"}, notes=("text read as cp1252",)),
    ]
    left_out = [
        change(
            record(2, "c"),
            {},
            notes=("text read as cp1252", "broken color profile ignored"),
            text_from="analysis_md",
            reason=RejectionReason.SHARED_TEXT,
            suspicions=("shared_text",),
        )
    ]
    page = render(write(tmp_path / "m.json", used, left_out), params)
    assert table_after(page, "Assumptions") == [
        ["text read as cp1252", "2", "1"],
        ["broken color profile ignored", "0", "1"],
    ]
    assert table_after(page, "How the photo was found") == [
        ["as_stored", "1", "1"],
        ["other_spelling", "1", "0"],
    ]
    assert table_after(page, "Where the text was found") == [
        ["analysis_markdown", "2", "0"],
        ["analysis_md", "0", "1"],
    ]


def test_a_switch_is_shown_with_its_values_and_its_price(params: Params, tmp_path: Path) -> None:
    flagged = {"suspicions": ("template_scores",), "reason": RejectionReason.TEMPLATE_SCORES}
    manifest = write(tmp_path / "m.json", [record(0, "a")], [change(record(1, "b"), {}, **flagged)])
    first, last = table_after(render(manifest, params), "What other settings would add")
    assert first[:3] == ["link.template_scores: text_only or keep", "+1", "+1"]
    assert "constant scores" in first[3]
    assert last[:2] == ["all of them", "+1"]


def test_the_report_goes_from_numbers_to_a_plot_to_examples_to_tables(
    params: Params, tmp_path: Path
) -> None:
    flagged = {"suspicions": ("template_scores",), "reason": RejectionReason.TEMPLATE_SCORES}
    used = [record(i, f"{i}") for i in range(8)]
    left_out = [change(record(i, f"{i}"), {}, **flagged) for i in (8, 9)]
    rejected = [{"job_id": "x", "reason": "no_text", "detail": ""}]
    page = render(write(tmp_path / "m.json", used, left_out, rejected), params)
    assert page.xpath("//h2/@id") == [
        "jobs",
        "pairs",
        "flags",
        "duplicates",
        "switches",
        "scores",
        "origin",
    ]
    numbers = [" ".join(dd.text_content().split()) for dd in page.xpath("//dd[@class='big']")]
    assert numbers == [
        "8 pairs of 11 finished jobs",
        "3 jobs 27 % of the finished jobs",
        "+2 pairs",
    ]
    assert not page.xpath("//dl[@class='headline']/preceding::*[self::h2 or self::figure]")
    assert "Most often template_scores 2, no_text 1." in page.xpath("string(//dl)")
    assert len(page.xpath("//h2[@id='pairs']/following-sibling::div[1]/div")) == 6
    assert "The first 6 of 8" in page.xpath("string(//h2[@id='pairs']/following::p[1])")
    levels = [int(heading.tag[1]) for heading in page.xpath("//h1 | //h2 | //h3 | //h4")]
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert all(th.get("scope") in ("col", "row") for th in page.xpath("//th"))


def test_the_bars_of_reasons_have_a_labelled_axis(params: Params, tmp_path: Path) -> None:
    reasons = ["no_text"] * 4 + ["truncated"]
    rejected = [{"job_id": "x", "reason": reason, "detail": ""} for reason in reasons]
    page = render(write(tmp_path / "m.json", [record(0, "a")], rejected=rejected), params)
    (plot,) = page.xpath("//h2[@id='jobs']/following-sibling::figure[1]")
    widths = [float(bar.get("width").rstrip("%")) for bar in plot.xpath(".//rect")]
    axis = plot.xpath(".//*[name()='text']")
    ticks = {text.text: float(text.get("x").rstrip("%")) for text in axis[:-1]}
    assert axis[-1].text == "jobs"
    assert ticks["0"] == 0
    assert widths == [ticks["4"], ticks["1"]]


def test_a_report_without_any_job_says_so(params: Params, tmp_path: Path) -> None:
    page = render(write(tmp_path / "m.json"), params, "no finished job\n  details")
    assert "0 pairs" in page.text_content()
    assert "no finished job of ansel" in page.text_content()
    assert [p.text_content() for p in page.xpath("//div[@role='alert']/p")] == [
        "no finished job",
        "details",
    ]


def test_a_report_of_many_jobs_stays_small(params: Params, tmp_path: Path) -> None:
    def many(count: int, size: int) -> str:
        used = [
            change(record(i % 50, f"{i % 9}"), {"path": f"{i}{'n' * size}.jpg"}, job_id="j" * size)
            for i in range(count)
        ]
        used = [change(r, {}, notes=(f"{i}{'n' * size}",)) for i, r in enumerate(used)]
        rejected = [
            {"job_id": "x" * size, "reason": reason, "detail": "y" * size}
            for reason in ("no_text", "truncated", "image_missing")
            for _ in range(count)
        ]
        manifest = write(tmp_path / "m.json", used, rejected=rejected)
        return render_data_report(summarize_manifest(manifest, params.link))

    first, second = many(40, 5000), many(160, 5000)
    assert len(second) < len(first) + 6_000
    assert len(first) < 250_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing.browser() as chromium:
        yield chromium


def hostile_manifest(folder: Path) -> Manifest:
    """Write a manifest with long names, ids and details, all reasons and some copies."""
    long = "A_very-long" + "x" * 240
    used = [
        change(
            record(i, f"{i // 2}"),
            {"path": f"/{long}/{long}{i}.jpg", "match_kind": "another_folder_or_spelling_of_it"},
            job_id=long,
            text_from="llm_outputs." + "advisor" * 20,
            notes=(long * 3,),
        )
        for i in range(30)
    ]
    flags = ("template_scores", "overall_off_mean", "repeated_advice", "shared_text")
    left_out = [
        change(entry, {}, suspicions=flags, reason=RejectionReason(flags[i % 4]))
        for i, entry in enumerate(used)
    ]
    words = {"image_description": "w" * 900}
    critique = left_out[0].critique.model_copy(update=words)
    left_out[0] = change(left_out[0], {}, critique=critique)
    rejected = [
        {"job_id": long, "reason": str(reason), "detail": f"no '{long}'"}
        for reason in RejectionReason
    ]
    return write(folder / "m.json", used, left_out, rejected)


def render_pages(application: Path, params: Params, folder: Path) -> dict[str, str]:
    """Render both pages of the sample, of hostile names, of one job and of none."""
    names = ("source", "analysis_md", "analysis")
    folders = ApplicationFolders(*(application / name for name in names))
    context = LinkContext("ansel", folders, params.link)
    link(application / "mondrian.db", context, params.image, folder, folder)
    manifests = {
        "sample": Manifest(folder / MANIFEST_FILE),
        "hostile names": hostile_manifest(folder),
        "one job": write(folder / "one.json", [record(0, "a")]),
        "no job": write(folder / "none.json"),
    }
    pages = {}
    for name, manifest in manifests.items():
        problem = "" if name == "sample" else f"{name} {'x' * 900}"
        summary = summarize_manifest(manifest, params.link)
        split = split_records(manifest.records(), params.prepare)
        pages[f"data of {name}"] = render_data_report(summary, problem)
        pages[f"split of {name}"] = render_split_report(manifest, split, problem)
    return pages


def assert_page_fits(page: Page) -> None:
    """Assert that nothing is outside the window, no word is broken and no text is faint."""
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert browsing.overflow_width(page) == 0
    outside = """(nodes) => nodes
      .filter((node) => node.getBoundingClientRect().right > innerWidth)
      .map((node) => node.textContent.slice(0, 80))"""
    blocks = page.locator("table, figure, .row > *, .record, p, li, h3, figcaption")
    assert blocks.evaluate_all(outside) == []
    words = page.evaluate(BROKEN_WORDS_SCRIPT)
    assert words["seen"] > 30
    assert [word for word in words["broken"] if "www" not in word] == []
    assert page.evaluate(browsing.CONTRAST_SCRIPT)["faint"] == []


@pytest.mark.slow
def test_the_pages_fit_a_phone_a_desktop_and_paper_without_broken_words(
    browser: Browser, application: Path, params: Params, tmp_path: Path
) -> None:
    for name, text in render_pages(application, params, tmp_path).items():
        path = tmp_path / f"{name}.html"
        path.write_text(text)
        for width, scheme, media in (
            (1280, "light", "screen"),
            (390, "dark", "screen"),
            (320, "light", "screen"),
            (690, "dark", "print"),  # A4 without margins
        ):
            window: dict[str, Any] = {"viewport": {"width": width, "height": 900}}
            with browser.new_context(**window) as tab:
                page = tab.new_page()
                page.emulate_media(color_scheme=scheme, media=media)  # type: ignore[arg-type]
                log = browsing.PageLog()
                log.watch(page)
                page.goto(path.as_uri())
                assert_page_fits(page)
                assert log.errors == []
                assert {url.split(":")[0] for url in log.requests} <= {"file", "data"}
