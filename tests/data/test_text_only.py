"""Critiques whose text is used and whose scores are not, from link to the prepared rows."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lxml import html
from PIL import Image

from mondrian.core.errors import DataError
from mondrian.core.files import file_hash
from mondrian.core.params import Params
from mondrian.critique.rows import read_rows, row_path
from mondrian.critique.schema import FILLER_SCORE, Critique, serialize_critique
from mondrian.data.link import format_link_summary
from mondrian.data.manifest import Manifest, ManifestRecord
from mondrian.data.prepare import format_split_summary, write_split
from mondrian.data.report.split_report import render_split_report
from mondrian.data.split import split_records
from mondrian.sample.corruptions import (
    EXAMPLE_OVERALL,
    EXAMPLE_SCORES,
    build_example_prompt,
    replace_scores,
)
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.data.link_runs import run_link
from tests.data.manifest_records import PREPARE, make_records, record, split, write_records
from tests.reviewing import add_completed_job, open_store, write_feedback

MakeDb = Callable[..., Path]
FILLERS = (FILLER_SCORE,) * 7


def make_critique(i: int) -> Critique:
    return write_critique("ansel", draw_scene(5, i))


def write_unscored(critique: Critique) -> str:
    return re.sub(r'"score": [\d.]+, ', "", serialize_critique(critique))


def write_template(critique: Critique) -> str:
    return serialize_critique(replace_scores(critique, EXAMPLE_SCORES, EXAMPLE_OVERALL))


@pytest.fixture
def mixed_db(make_db: MakeDb, source: Path) -> Path:
    """A scored critique, one without scores, one with template scores, and a table."""
    texts = [
        serialize_critique(make_critique(0)),
        write_unscored(make_critique(1)),
        write_template(make_critique(2)),
        "| Aspect | Comment |\n|---|---|\n| Light | It is soft. |",
    ]
    rows = [{"filename": f"{i}.jpg", "analysis_markdown": text} for i, text in enumerate(texts)]
    return make_db(*(row | {"prompt": build_example_prompt()} for row in rows))


def test_a_text_without_scores_is_left_out_and_counted(mixed_db: Path, params: Params) -> None:
    linked = run_link(mixed_db, params)
    assert linked.reasons == {
        "job-1": "unscored",
        "job-2": "template_scores",
        "job-3": "unscored",
    }
    assert [(r.job_id, r.reason) for r in linked.left_out] == [
        ("job-1", "unscored"),
        ("job-2", "template_scores"),
    ]
    assert [record.scored for record in linked.left_out] == [False, True]
    assert linked.counts["suspicions"] == {"template_scores": 1, "unscored": 1}
    assert linked.counts["text_only"] == 0


def test_text_only_uses_the_text_without_the_scores(mixed_db: Path, params: Params) -> None:
    rules = {"unscored": "text_only", "template_scores": "text_only"}
    linked = run_link(mixed_db, params, **rules)
    assert linked.reasons == {"job-3": "unscored"}  # a table is no critique
    assert [(r.job_id, r.scored) for r in linked.records] == [
        ("job-0", True),
        ("job-1", False),
        ("job-2", False),
    ]
    assert linked.records[1].critique == make_critique(1).with_filler_scores()
    assert linked.records[2].critique.scores() == EXAMPLE_SCORES  # the manifest keeps what it found
    assert linked.counts["text_only"] == 2
    summary = format_link_summary("ansel", linked.counts)
    assert "text only, scores neither learned nor judged: 2 pairs" in summary
    records = run_link(mixed_db, params, template_scores="keep").records
    assert [(r.job_id, r.scored) for r in records] == [("job-0", True), ("job-2", True)]


def test_filler_scores_are_no_template(make_db: MakeDb, source: Path, params: Params) -> None:
    prompt = build_example_prompt()
    fives = re.sub(r'score": [\d.]+', 'score": 5', prompt)
    row = {"filename": "0.jpg", "analysis_markdown": write_unscored(make_critique(0))}
    linked = run_link(make_db(row | {"prompt": fives}), params, unscored="text_only")
    assert linked.records[0].suspicions == ("unscored",)


def test_of_one_text_with_and_without_scores_the_scored_one_is_used(
    make_db: MakeDb, source: Path, params: Params
) -> None:
    texts = [write_unscored(make_critique(0)), serialize_critique(make_critique(0))]
    path = make_db(*({"filename": "0.jpg", "analysis_markdown": text} for text in texts))
    linked = run_link(path, params, unscored="text_only")
    assert linked.reasons == {"job-0": "duplicate"}
    assert linked.records[0].scored


def test_a_person_can_confirm_scores_or_give_missing_ones(
    tmp_path: Path, photos: list[Image.Image], params: Params
) -> None:
    (tmp_path / "source").mkdir()
    for i in (0, 1):
        photos[i].save(tmp_path / "source" / f"{i}.jpg")
    store = open_store(tmp_path / "mondrian.db")
    template = replace_scores(make_critique(0), EXAMPLE_SCORES, EXAMPLE_OVERALL)
    row = add_completed_job(store, template, "0.jpg", prompt=build_example_prompt())
    write_feedback(store, row, template, verdict="accepted", critique=None, who="Ana")
    answer = json.dumps({"response": write_unscored(make_critique(1))})
    row = add_completed_job(store, make_critique(1), "1.jpg", llm_outputs=answer)
    text = serialize_critique(make_critique(1))
    write_feedback(store, row, None, verdict="corrected", critique=text, who="Ana")
    rules = {"unscored": "text_only", "template_scores": "text_only"}
    linked = run_link(tmp_path / "mondrian.db", params, **rules)
    accepted, corrected = sorted(linked.records, key=lambda r: r.photo.path)
    assert (accepted.scored, accepted.suspicions) == (True, ("template_scores",))
    assert (corrected.scored, corrected.critique) == (True, make_critique(1))


def without_scores(item: ManifestRecord, scores: tuple[float, ...] = FILLERS) -> ManifestRecord:
    critique = replace_scores(item.critique, scores, scores[0])
    return item.model_copy(update={"critique": critique, "scored": False})


def test_no_row_depends_on_scores_that_are_not_used(
    tmp_path: Path, params: Params, photos: list[Image.Image]
) -> None:
    settings = PREPARE.model_copy(update={"min_train": 1, "min_val": 1, "test_fraction": 0.0})
    files = []
    vectors: dict[str, tuple[float, ...]] = {
        "a": EXAMPLE_SCORES,
        "b": (0.0, 10.0, 2.5, 3.0, 9.9, 1.0, 7.0),
    }
    for name, scores in vectors.items():
        records = [with_photo(record(i, f"photo-{i}"), photos[i], tmp_path) for i in range(6)]
        records[1:3] = [without_scores(r, scores) for r in records[1:3]]
        write_records(tmp_path / f"{name}.json", records)
        manifest, folder = Manifest(tmp_path / f"{name}.json"), tmp_path / "rows"
        result = split_records(manifest.records(), settings)
        write_split(manifest, result, "You are Ansel.", params.image, folder)
        paths = [row_path(folder, "ansel", part) for part in ("train", "val")]
        files.append([path.read_bytes() for path in paths])
    assert files[0] == files[1]
    rows = [row for path in paths for row in read_rows(path)]
    assert sorted(row.id for row in rows if not row.scored) == ["ansel/job-1", "ansel/job-2"]
    for row in rows:
        scores = row.reference_critique().scores()
        assert (scores == FILLERS) == (not row.scored)
    assert b'"scored": false' in b"".join(files[0])


def with_photo(item: ManifestRecord, image: Image.Image, folder: Path) -> ManifestRecord:
    path = folder / item.photo.path
    image.save(path)
    photo = item.photo.model_copy(update={"path": str(path), "sha256": file_hash(path)})
    return item.model_copy(update={"photo": photo})


def mix(count: int, scored_each: int) -> list[ManifestRecord]:
    """Return records of which one in `scored_each` has scores; the others have misleading ones."""
    tens = (10.0,) * 7
    records = make_records(count)
    return [r if i % scored_each == 0 else without_scores(r, tens) for i, r in enumerate(records)]


@pytest.mark.parametrize("scored_each", [2, 4])
def test_critiques_without_scores_are_spread_evenly_over_the_splits(scored_each: int) -> None:
    for seed in range(5):
        result = split(mix(120, scored_each), seed=seed, folds=4, min_val=5)
        counts = result.counts()
        sizes = [counts[part]["photo_groups"] for part in ("train", "val", "test")]
        assert sizes == [84, 24, 12]
        share = 1 - 1 / scored_each
        for part in ("train", "val", "test"):
            expected = share * counts[part]["critiques"]
            assert abs(counts[part]["text_only"] - expected) <= 2, part
        parts, folds = np.array(result.parts), np.array(result.folds, float)
        unscored = np.isnan(result.all_scores[:, -1])
        by_fold = [(unscored & (folds == fold) & (parts != "test")).sum() for fold in range(4)]
        assert max(by_fold) - min(by_fold) <= 2


def test_unused_scores_change_neither_the_balance_nor_the_counts() -> None:
    results = []
    for scores in (FILLERS, (10.0,) * 7):
        records = mix(120, 3)
        records = [r if r.scored else without_scores(r, scores) for r in records]
        results.append(split(records))
    assert results[0].parts == results[1].parts
    counts = results[0].counts()
    assert counts == results[1].counts()
    scored = [r.critique.overall_score for r in mix(120, 3) if r.scored]
    assert len(np.concatenate([results[0].scores(part) for part in ("train", "val", "test")])) == 40
    assert counts["val"]["overall_mean"] == pytest.approx(np.mean(scored), abs=0.4)


def test_a_group_with_some_scores_counts_with_those() -> None:
    records = [*make_records(60), without_scores(record(60, "photo-0"), (10.0,) * 7)]
    result = split(records)
    assert result.parts[:60] == split(make_records(60)).parts
    assert result.parts[60] == result.parts[0]


def test_too_few_photos_with_scores_are_an_error_with_the_numbers() -> None:
    message = r"too few photos with scores: val has 3, at least 8 needed; no verdict on scores"
    with pytest.raises(DataError, match=message):
        split(mix(120, 8))
    with pytest.raises(DataError, match="train has 0, at least 1 needed; val has 0"):
        split([without_scores(r) for r in make_records(60)])
    line = format_split_summary(split(mix(120, 8), min_val=3), "ansel")
    assert re.search(r"; text only, without scores: 7\d train, 21 val, 1\d test$", line)


@pytest.mark.parametrize("scored", [0, 40])
def test_a_split_without_any_score_has_a_report(tmp_path: Path, scored: int) -> None:
    records = [r if i < scored else without_scores(r) for i, r in enumerate(make_records(60))]
    write_records(tmp_path / "manifest.json", records)
    manifest = Manifest(tmp_path / "manifest.json")
    page = html.document_fromstring(
        render_split_report(manifest, split_records(records, PREPARE), "too few")
    )
    mean_cells = page.xpath("//td[@class='number'][contains(., '±') or . = '–']/text()")
    assert len(mean_cells) == 3
    assert (mean_cells == ["–"] * 3) == (scored == 0)
