"""The report page: its order, its numbers, and how it fits a window and paper."""

from pathlib import Path
from typing import Any

import pytest
from lxml import html

from mondrian.core.params import Params
from mondrian.critique.schema import Critique
from mondrian.evaluation.forest_plot import build_forest_plot
from mondrian.evaluation.key_metrics import build_key_metrics
from mondrian.evaluation.report import render_report
from mondrian.evaluation.timing import compute_timing
from mondrian.evaluation.verdict import build_evaluation
from tests import browsing
from tests.evaluation.answers import answer_record, critique_text, make_report


def render(report: dict[str, Any], params: Params) -> html.HtmlElement:
    metrics = build_evaluation(report, params.evaluate)
    return html.document_fromstring(render_report(report, metrics, compute_timing(report, 0.3)))


def test_the_page_shows_photos_worst_first_with_critiques(
    critique: Critique, params: Params
) -> None:
    report = make_report(critique, base=3, tuned=0.7)
    bad = answer_record(critique_text(critique, [10.0] * 7))
    report["photographs"][7]["fine_tuned_constrained"] = bad
    page = render(report, params)
    assert [caption.text for caption in page.xpath("//section//figcaption")][0] == "ansel/7"
    errors = [float(text) for text in page.xpath("//h3/span[@class='tuned']/text()")]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == 20
    assert len(page.xpath("//polygon[@class]")) == 20 * 3  # without the grid
    assert "photo not available" in page.text_content()
    tables = page.xpath("//section[@aria-labelledby]//table")
    assert [len(table.xpath("./tbody/tr")) for table in tables] == [7] * 20
    assert len(page.xpath("//details[@open]")) == 6
    first = tables[0].xpath("./tbody/tr[1]/td")
    difference = 10 - float(first[0].xpath("string(b)"))
    assert first[2].xpath("string(b)") == "10"
    assert float(first[2].xpath("string(small)")) == pytest.approx(difference)


def test_the_page_begins_with_verdict_and_key_numbers_and_ends_with_tables(
    critique: Critique, params: Params
) -> None:
    report = make_report(critique, base=3, tuned=0.7)
    evaluation = build_evaluation(report, params.evaluate)
    key_metrics = build_key_metrics(report, evaluation, params.evaluate.gates)
    page = render(report, params)
    assert page.xpath("string(//h1)") == "ansel: BETTER"
    order = page.xpath("//h1 | //dl[@class='headline'] | //figure[svg or div] | //h2")
    assert [element.get("id") or element.tag for element in order][:6] == [
        "h1",
        "dl",
        "differences",
        "figure",
        "photos",
        "figure",
    ]
    assert page.xpath("//h2/@id") == ["differences", "photos", "tables"]
    assert not page.xpath("//h2[@id='photos']/preceding::table")
    numbers = [dd.text_content().split() for dd in page.xpath("//dd[@class='big']")]
    mae, base, constant = (f"{key_metrics[key]:.2f}" for key in ("mae", "mae_base", "mae_constant"))
    assert numbers[0] == [base, "→", mae, "constant", constant]
    quality = [f"{key_metrics[key]:.2f}" for key in ("quality_base", "quality")]
    assert numbers[1][:3] == [quality[0], "→", quality[1]]
    assert numbers[2] == ["100.0", "%", "20", "of", "20", "answers"]
    levels = [int(heading.tag[1]) for heading in page.xpath("//h1 | //h2 | //h3 | //h4")]
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert all(th.get("scope") in ("col", "row") for th in page.xpath("//th"))
    assert all(image.get("alt") for image in page.xpath("//img"))


def test_failed_gates_are_named_below_the_verdict(critique: Critique, params: Params) -> None:
    page = render(make_report(critique, base=0.5, tuned=3), params)
    lines = page.xpath("//h1/following-sibling::p[@class='failed'][following::dl]/text()")
    assert any(line.startswith("Failed gate: index_low is -") for line in lines)


def test_the_forest_plot_has_a_labelled_axis_and_the_intervals_of_the_table(
    critique: Critique, params: Params
) -> None:
    report = make_report(critique, base=3, tuned=0.7)
    evaluation = build_evaluation(report, params.evaluate)
    page = render(report, params)
    labels = page.xpath("//figure//*[@class='label'][name()='text']/text()")
    assert labels == [
        "gain in quality index, points of 100",
        "reduction of score error, points of 10",
    ]
    for panel in build_forest_plot(evaluation):
        ticks = dict((text, x) for x, text in panel.axis.ticks())
        assert ticks["0"] == panel.axis.percent(0)
        assert all(0 <= x <= 100 for x in ticks.values())
        for row in panel.rows:
            assert row.interval is not None
            low, high = row.interval
            assert 0 <= low < row.mean < high <= 100
            assert (row.sign == "above") == (low > panel.axis.percent(0))
    required = [
        row.label
        for panel in build_forest_plot(evaluation)
        for row in panel.rows
        if row.is_required
    ]
    assert len(required) == 4
    assert len(page.xpath("//figure//circle")) == len(page.xpath("//figure//circle[@class]")) + 4


def test_too_few_photos_for_an_interval_are_drawn_without_one(
    critique: Critique, params: Params
) -> None:
    page = render(make_report(critique, base=3, tuned=0.7, count=4), params)
    assert page.xpath("//line[@class='range']") == []
    assert "too few photos for an interval" in page.xpath("string(//figure)")


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 20])  # without and with intervals
def test_the_page_fits_a_phone_a_desktop_and_paper(
    critique: Critique, params: Params, tmp_path: Path, count: int
) -> None:
    report = make_report(critique, base=3, tuned=0.7, count=count)
    text = html.tostring(render(report, params), encoding="unicode", doctype="<!doctype html>")
    path = tmp_path / "report.html"
    path.write_text(text)
    with browsing.browser() as browser:
        for width, scheme, media in (
            (1280, "light", "screen"),
            (1280, "dark", "screen"),
            (390, "dark", "screen"),
            (690, "dark", "print"),  # A4 without margins
        ):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme, media=media)  # type: ignore[arg-type]
            log = browsing.PageLog()
            log.watch(page)
            page.goto(path.as_uri())
            assert browsing.overflow_width(page) == 0
            clipped = "(n) => n.filter((t) => t.scrollWidth > t.parentElement.clientWidth).length"
            assert page.locator("table").evaluate_all(clipped) == 0
            assert page.evaluate(browsing.CONTRAST_SCRIPT)["faint"] == []
            plot = page.locator(".mark").first.bounding_box()
            assert plot is not None
            assert plot["width"] > (300 if width == 390 else width / 3)
            used = page.locator("figure.plot").bounding_box()
            assert used is not None
            assert used["width"] > width * 0.9
            ink = page.evaluate("getComputedStyle(document.body).color")
            assert (ink == "rgb(236, 234, 228)") == (scheme == "dark" and media == "screen")
            assert log.errors == []
            assert {url.split(":")[0] for url in log.requests} <= {"file", "data"}
