from pathlib import Path

import pytest

from mondrian.core.params import Params
from mondrian.critique.schema import serialize_critique
from mondrian.data.quality.constant_scores import (
    ScoredText,
    find_constant_scores,
    is_nearly_example,
)
from mondrian.sample.corruptions import EXAMPLE_SCORES, build_example_prompt, replace_scores
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.data.link_runs import MakeDb, run_link

CONSTANT = (8.0, 7.0, 8.0, 8.0, 7.0, 8.0, 8.0)


def make_texts(constant: int, others: int, photos: int = 99) -> list[ScoredText]:
    same = [ScoredText(CONSTANT, f"w{i}", f"p{i % photos}", False) for i in range(constant)]
    distinct = ((3.0, 4.0, float(i % 9), i // 9 / 10, 2.0, 2.0, 2.0) for i in range(others))
    return same + [ScoredText(s, f"o{i}", f"q{i}", False) for i, s in enumerate(distinct)]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (make_texts(5, 45), set()),  # a tenth
        (make_texts(5, 44), {CONSTANT}),
        (make_texts(4, 0), set()),  # too few to tell
        (make_texts(31, 0), {CONSTANT}),
        (make_texts(10, 90), set()),
        (make_texts(11, 89), {CONSTANT}),
        (make_texts(1, 3) * 40, set()),  # one text under many names
        (make_texts(12, 10, photos=1), set()),  # one photo: its critiques should agree
        (make_texts(12, 10, photos=2), {CONSTANT}),
    ],
)
def test_scores_are_constant_in_over_a_tenth_of_the_texts_and_in_five(
    texts: list[ScoredText], expected: set[tuple[float, ...]]
) -> None:
    assert find_constant_scores(texts) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({0: 9}, True),
        ({3: 5.5}, True),
        ({}, False),  # template_scores
        ({0: 9.5}, False),
        ({0: 9, 1: 8}, False),
    ],
)
def test_one_score_within_a_point_of_the_example(change: dict[int, float], expected: bool) -> None:
    scores = tuple(float(change.get(i, score)) for i, score in enumerate(EXAMPLE_SCORES))
    assert is_nearly_example(scores, [build_example_prompt()]) is expected
    assert not is_nearly_example(scores, ["Describe the photo."])


def test_a_copied_example_is_recognized_in_rows_without_a_prompt() -> None:
    example = tuple(map(float, EXAMPLE_SCORES))
    near = (9.0, *example[1:])
    copied = [ScoredText(example, f"w{i}", f"p{i}", True) for i in range(5)]
    texts = [*copied, ScoredText(near, "x", "x", False), *make_texts(0, 60)]
    assert find_constant_scores(texts) == {example, near}
    assert find_constant_scores(texts[1:]) == set()


def test_constant_scores_are_left_out_also_if_most_photos_are_missing(
    make_db: MakeDb, source: Path, params: Params
) -> None:
    critiques = [write_critique("ansel", draw_scene(5, i)) for i in range(9)]
    texts = [serialize_critique(replace_scores(c, (7, 7, 7, 8, 7, 7, 7), 7.1)) for c in critiques]
    texts[:2] = map(serialize_critique, critiques[:2])
    names = ["0.jpg", "1.jpg", "2.jpg", *(f"gone-{i}.jpg" for i in range(6))]
    rows = [{"filename": n, "analysis_markdown": t} for n, t in zip(names, texts, strict=True)]
    linked = run_link(make_db(*rows), params)
    assert linked.reasons["job-2"] == "constant_scores"
    assert {record.job_id for record in linked.records} == {"job-0", "job-1"}
    linked = run_link(make_db(*rows, name="again.db"), params, constant_scores="keep")
    assert linked.records[2].suspicions == ("constant_scores",)


def test_exact_and_near_example_scores_have_their_own_reasons(
    make_db: MakeDb, source: Path, params: Params
) -> None:
    near = (*EXAMPLE_SCORES[:6], EXAMPLE_SCORES[6] - 1)
    rows = []
    for i, scores in enumerate((EXAMPLE_SCORES, near, (1, 2, 3, 4, 5, 6, 7))):
        scored = replace_scores(write_critique("ansel", draw_scene(5, i)), scores, sum(scores) / 7)
        text, prompt = serialize_critique(scored), build_example_prompt()
        rows.append({"filename": f"{i}.jpg", "analysis_markdown": text, "prompt": prompt})
    expected = {"job-0": "template_scores", "job-1": "constant_scores"}
    assert run_link(make_db(*rows), params).reasons == expected
