"""The report's counts of what settings would add are what link then does."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mondrian.core.params import Params
from mondrian.critique.rejection import RejectionReason
from mondrian.critique.schema import serialize_critique
from mondrian.data.manifest import ManifestRecord, RejectedJob
from mondrian.data.quality.switches import (
    Switch,
    SwitchCounter,
    SwitchCounts,
    allowing_values,
    format_switches,
    list_switches,
)
from mondrian.sample.corruptions import (
    EXAMPLE_OVERALL,
    EXAMPLE_SCORES,
    build_example_prompt,
    replace_scores,
)
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.data.link_runs import run_link
from tests.data.manifest_records import record


def left_out(i: int, photo: str, *flags: str, text: int | None = None) -> ManifestRecord:
    details = {"suspicions": flags, "reason": RejectionReason(flags[0])}
    return record(i, photo, text).model_copy(update=details)


def count(
    params: Params,
    used: Iterable[ManifestRecord],
    others: Iterable[ManifestRecord],
    rejected: Iterable[RejectedJob] = (),
    **rules: Any,
) -> SwitchCounts:
    counter = SwitchCounter(params.link.model_copy(update=rules))
    for entry in others:
        counter.add_left_out(entry)
    for entry in used:
        counter.add_used(entry)
    for job in rejected:
        counter.add_rejected(job)
    return counter.count()


def by_label(counts: SwitchCounts) -> dict[str, tuple[int, int]]:
    return {switch.label: (switch.alone, switch.combined) for switch in counts.switches}


RECORDS = (
    left_out(1, "a", "template_scores"),
    left_out(2, "a", "template_scores", text=1),  # the same text about the same photo: one pair
    left_out(3, "b", "template_scores"),
    left_out(4, "c", "template_scores", "shared_text"),  # needs both
    left_out(5, "d", "shared_text", text=4),
    left_out(6, "e", "made_by_adapter", text=0),  # a pair with this text and photo is used
    left_out(7, "f", "repeated_advice", "overall_off_mean"),
)
USED = (record(0, "e"),)


def test_a_record_counts_for_a_switch_that_alone_makes_it_a_pair(params: Params) -> None:
    counts = count(params, USED, RECORDS)
    assert by_label(counts) == {
        "template_scores: text_only or keep": (2, 3),
        "shared_text: keep": (1, 2),
        "repeated_advice: keep": (0, 1),
        "overall_off_mean: keep": (0, 1),
    }
    assert counts.together == 5


def test_a_switch_that_is_on_is_no_switch(params: Params) -> None:
    counts = count(params, USED, RECORDS[3:], template_scores="text_only")
    assert by_label(counts)["shared_text: keep"] == (2, 2)
    assert "template_scores" not in str(counts)


def test_jobs_that_a_setting_left_unexamined_are_an_upper_limit(params: Params) -> None:
    details = (
        "no 'a.jpg' in source; only a thumbnail, which link.thumbnails: use accepts",
        "no 'b.jpg' in source; only a thumbnail, which link.thumbnails: use accepts",
        "no 'link.jpg' in source",
    )
    rejected = [
        RejectedJob(job_id="x", reason=RejectionReason.IMAGE_MISSING, detail=detail)
        for detail in details
    ]
    assert count(params, (), (), rejected).up_to == {"thumbnails: use": 2}


def test_every_switch_has_a_value_that_uses_its_records(params: Params) -> None:
    assert allowing_values("template_scores") == ["text_only", "keep"]
    assert allowing_values("shared_text") == ["keep"]
    assert {name for name, _ in list_switches(params.link)} >= {"made_by_adapter", "wrong_picture"}


def test_the_counts_are_what_link_does_with_these_settings(
    make_db: Callable[..., Path], params: Params, photos: list[Image.Image], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for i, photo in enumerate(photos):
        photo.save(source / f"{i}.jpg")
    photos[0].save(source / "copy.jpg", quality=60)
    template, adapter = {"prompt": build_example_prompt()}, {"mode": "lora"}
    rows = [
        ("0.jpg", 0, template),
        ("copy.jpg", 0, template),
        ("1.jpg", 1, template | adapter),
        ("2.jpg", 2, adapter),
        ("3.jpg", 3, {}),
        ("3.jpg", 3, adapter),
        ("4.jpg", 4, {}),
        ("5.jpg", 4, {}),
        ("5.jpg", 4, adapter),
    ]
    jobs = []
    for filename, text, details in rows:
        critique = write_critique("ansel", draw_scene(5, text))
        if "prompt" in details:
            critique = replace_scores(critique, EXAMPLE_SCORES, EXAMPLE_OVERALL)
        stored = {"filename": filename, "analysis_markdown": serialize_critique(critique)}
        jobs.append(stored | details)
    path = make_db(*jobs)
    linked = run_link(path, params)
    counts = count(params, linked.records, linked.left_out)
    assert by_label(counts) == {
        "shared_text: keep": (2, 2),
        "template_scores: text_only or keep": (1, 2),
        "made_by_adapter: keep": (1, 2),
    }
    for switch in counts.switches:
        for value in switch.values:
            settings = run_link(path, params, **{switch.name: value})
            assert len(settings.records) == len(linked.records) + switch.alone
    everything = dict(list_switches(params.link))
    assert len(run_link(path, params, **everything).records) == 1 + counts.together == 6


def test_the_printed_line_fits_a_terminal_and_names_setting_value_and_pairs() -> None:
    names = ("template_scores", "made_by_adapter", "wrong_picture", "repeated_advice", "unscored")
    switches = [
        Switch(name, tuple(allowing_values(name)), 100_000 - i, 1) for i, name in enumerate(names)
    ]
    (line,) = format_switches(SwitchCounts(switches, 400_000, {}))
    start = "  more pairs if params.yaml has link."
    assert line == f"{start}template_scores: text_only +100000 · 4 more; all +400000"
    few = [Switch("shared_text", ("keep",), 14, 14), Switch("unscored", ("text_only",), 3, 3)]
    (line,) = format_switches(SwitchCounts(few, 17, {}))
    assert line == f"{start}shared_text: keep +14 · unscored: text_only +3; all +17"
    assert len(line) <= 100
    assert format_switches(SwitchCounts([], 0, {})) == []
    both = [Switch("unscored", ("keep",), 5, 5), Switch("unscored", ("text_only",), 3, 3)]
    assert format_switches(SwitchCounts(both, 5, {})) == [f"{start}unscored: keep +5"]
    alone = SwitchCounts([Switch("shared_text", ("keep",), 4, 4)], 4, {})
    assert format_switches(alone) == [f"{start}shared_text: keep +4"]


def test_settings_that_add_pairs_only_together_are_named() -> None:
    pair = [Switch("shared_text", ("keep",), 0, 4), Switch("dimension_twice", ("keep",), 0, 4)]
    assert format_switches(SwitchCounts(pair, 4, {})) == [
        "  4 more pairs only by several settings: link.shared_text · dimension_twice"
    ]
    names = ("template_scores", "made_by_adapter", "wrong_picture", "repeated_advice", "unscored")
    many = SwitchCounts([Switch(name, ("keep",), 0, 4) for name in names], 4, {})
    (line,) = format_switches(many)
    assert line.endswith("link.template_scores · made_by_adapter · 3 more")
    assert len(line) <= 100
    (line,) = format_switches(SwitchCounts([Switch("unscored", ("keep",), 5, 9), *pair], 9, {}))
    assert line == "  more pairs if params.yaml has link.unscored: keep +5; every setting +9"


def test_no_printed_line_without_a_pair(params: Params) -> None:
    assert format_switches(count(params, USED, ())) == []


@pytest.mark.parametrize("reason", [RejectionReason.DUPLICATE, RejectionReason.IMAGE_AMBIGUOUS])
def test_a_record_that_no_switch_left_out_counts_for_none(
    params: Params, reason: RejectionReason
) -> None:
    entry = record(1, "a").model_copy(update={"reason": reason})
    assert count(params, (), [entry]) == SwitchCounts([], 0, {})
