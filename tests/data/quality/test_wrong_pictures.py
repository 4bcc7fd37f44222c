import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from mondrian.core.params import Params
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.quality import wrong_pictures
from mondrian.data.quality.scene_likeness import SceneLikeness, SceneText, count_words
from mondrian.data.quality.wrong_pictures import (
    FileText,
    cluster_scenes,
    find_foreign,
    read_batches,
)
from tests.data.described_scenes import comment, describe, scenes, write_scene_text
from tests.data.link_runs import MakeDb, run_link

JUDGED = range(0, 64, 2)  # the other scenes set the scale


def make_text(scene: int, rng: Random, photo: str = "file", advisor: str = "") -> SceneText:
    return SceneText(advisor, photo, count_words(write_scene_text(scenes()[scene], rng)))


@pytest.fixture(scope="module")
def likeness() -> SceneLikeness:
    rng = Random(1)
    background = [make_text(i, rng, f"photo-{i}", a) for i in range(1, 64, 2) for a in ("", "b")]
    return SceneLikeness(background)


def count_rejected(likeness: SceneLikeness, sets: Sequence[Sequence[int]]) -> float:
    """Return the fraction of texts that are rejected in sets of scenes of one file."""
    rng = Random(2)
    rejected = 0
    for described in sets:
        texts = [make_text(scene, rng) for scene in described]
        rejected += len(find_foreign(cluster_scenes(likeness, texts), (), [""] * len(texts)))
    return rejected / sum(map(len, sets))


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_descriptions_of_one_photo_in_other_words_are_kept(
    likeness: SceneLikeness, size: int
) -> None:
    assert count_rejected(likeness, [[scene] * size for scene in JUDGED]) <= 0.07


@pytest.mark.parametrize(("size", "minimum"), [(2, 0.85), (3, 0.95), (5, 0.98), (10, 0.99)])
def test_descriptions_of_different_scenes_are_rejected(
    likeness: SceneLikeness, size: int, minimum: float
) -> None:
    rng = Random(3)
    assert count_rejected(likeness, [rng.sample(JUDGED, size) for _ in range(40)]) >= minimum


def test_of_three_true_and_four_other_descriptions_nobody_knows_the_true_ones(
    likeness: SceneLikeness,
) -> None:
    rng = Random(4)
    samples = [rng.sample(JUDGED, 5) for _ in range(20)]
    assert count_rejected(likeness, [[s[0]] * 3 + s[1:] for s in samples]) >= 0.97
    assert count_rejected(likeness, [[s[0]] * 3 + [s[1]] * 4 for s in samples]) >= 0.95


def test_two_advisors_are_compared_with_pairs_of_the_same_two(likeness: SceneLikeness) -> None:
    rng = Random(5)

    def agree(first: int, second: int) -> bool:
        texts = [make_text(first, rng), make_text(second, rng, advisor="b")]
        return len(set(cluster_scenes(likeness, texts))) == 1

    assert sum(agree(scene, scene) for scene in JUDGED) >= 29
    assert sum(agree(a, b) for a, b in zip(JUDGED, JUDGED[1:], strict=False)) <= 4


@pytest.mark.parametrize(
    ("scenes_of_texts", "reviewed", "foreign"),
    [
        ([1, 1, 1], [], set()),
        ([1, 2], [], {0, 1}),
        ([1, 1, 2], [], {0, 1, 2}),
        ([1, 1, 1, 2], [], {0, 1, 2, 3}),
        ([1, 1, 1, 1, 2], [], {4}),  # four fifths
        ([1, 1, 1, 2, 2], [], {0, 1, 2, 3, 4}),
        ([1, 1, 1, 1, 2], [4], {0, 1, 2, 3}),  # the reviewer has seen the photo
        ([1, 2, 3], [0, 1], {2}),
    ],
)
def test_only_a_review_or_a_large_majority_tells_the_true_texts(
    scenes_of_texts: list[int], reviewed: list[int], foreign: set[int]
) -> None:
    assert find_foreign(scenes_of_texts, reviewed, [""] * len(scenes_of_texts)) == foreign


@pytest.mark.parametrize(
    ("scenes_of_texts", "advisors", "foreign"),
    [
        ([1] * 9 + [2], [""] * 9 + ["b"], set(range(10))),  # all uploads of one were overwritten
        ([1] * 9 + [2], ["b"] + [""] * 9, {9}),
        ([1] * 8 + [2, 1], [""] * 8 + ["b", "b"], {8}),
    ],
)
def test_texts_by_one_advisor_alone_do_not_outvote_another_one(
    scenes_of_texts: list[int], advisors: list[str], foreign: set[int]
) -> None:
    assert find_foreign(scenes_of_texts, [], advisors) == foreign


@pytest.mark.parametrize("num_texts", [2, 4, 5, 6])
def test_no_text_of_a_file_with_many_is_left_unjudged(
    monkeypatch: pytest.MonkeyPatch, num_texts: int
) -> None:
    monkeypatch.setattr(wrong_pictures, "_MAX_TEXTS", 4)
    texts = [FileText("a", "", str(i), False, "{}") for i in range(num_texts)]
    judged = list(read_batches(texts))
    assert all(2 <= len(batch) <= 4 for batch in judged)
    assert {text.words for batch in judged for text in batch} == set(map(str, range(num_texts)))
    assert len(judged[-1]) == min(4, num_texts)


def rewrite(critique: Critique, scene: int, seed: int, filename: str, **row: str) -> dict[str, str]:
    """Return a row with a critique of a scene."""
    rng = Random(seed)
    parts = []
    for dimension in critique.dimensions:
        remark, advice = comment(scenes()[scene], rng)[:900], f"{dimension.name}: crop by {seed}."
        score = {"score": rng.randint(3, 9), "comment": remark, "recommendation": advice}
        parts.append(dimension.model_copy(update=score))
    mean = round(sum(part.score for part in parts) / 7, 1)
    changes = {"image_description": describe(scenes()[scene], rng), "overall_score": mean}
    changed = critique.model_copy(update=changes | {"dimensions": tuple(parts)})
    return {"filename": filename, "analysis_markdown": serialize_critique(changed), **row}


def test_an_upload_overwritten_by_another_photo_is_recognized_by_two_texts(
    make_db: MakeDb, source: Path, critique: Critique, params: Params
) -> None:
    for name in ("upload-1.jpg", "upload-2.jpg"):
        (source / name).write_bytes((source / "5.jpg").read_bytes())
    rows = [rewrite(critique, i, i, filename=f"{i}.jpg") for i in range(5)]
    rows += [rewrite(critique, 10 + i, 20 + i, filename=f"upload-{i}.jpg") for i in (1, 2)]
    rows += [rewrite(critique, 0, 99, filename="0.jpg")]
    linked = run_link(make_db(*rows), params)
    assert linked.reasons == {"job-5": "wrong_picture", "job-6": "wrong_picture"}


def test_near_duplicates_may_be_described_differently(
    make_db: MakeDb, source: Path, critique: Critique, params: Params, photos: list[Image.Image]
) -> None:
    photos[0].save(source / "again.jpg", quality=60)
    names = ("0.jpg", "again.jpg", "1.jpg", "2.jpg")
    rows = [rewrite(critique, i, i, filename=name) for i, name in enumerate(names)]
    linked = run_link(make_db(*rows), params)
    assert linked.reasons == {}
    assert len({record.photo.group for record in linked.records}) == 3


@pytest.mark.parametrize("num_photos", [0, 3])
def test_descriptions_decide_if_all_comments_are_the_same(
    make_db: MakeDb, source: Path, critique: Critique, params: Params, num_photos: int
) -> None:
    descriptions = {
        "0.jpg": [
            "A white lighthouse stands on a rocky cliff above the stormy sea.",
            "The lighthouse, white against storm clouds, on its cliff of rock over the sea.",
            "On a rocky cliff a white lighthouse faces stormy waves.",
        ],
        "4.jpg": [
            "A portrait of an old woman with a red scarf looking at the camera.",
            "Three children play football in a narrow street at noon.",
            "A bowl of oranges on a wooden table by a window.",
        ],
    }
    descriptions |= {
        f"{i + 1}.jpg": [text]
        for i, text in enumerate(
            ("A dog sleeps in the grass.", "A steam train on a bridge.", "Boats in a harbor.")
        )
        if i < num_photos
    }
    texts = [(name, text) for name, group in descriptions.items() for text in group]
    rows = []
    for i, (name, text) in enumerate(texts):
        row = rewrite(critique, 0, 7, filename=name)
        scored = json.loads(row["analysis_markdown"]) | {"image_description": text}
        scored["dimensions"][0]["score"] = i
        rows.append(row | {"analysis_markdown": json.dumps(scored)})
    linked = run_link(make_db(*rows), params, overall_off_mean="keep")
    assert linked.reasons == dict.fromkeys(("job-3", "job-4", "job-5"), "wrong_picture")


def test_another_advisor_shows_that_a_single_text_is_about_another_photo(
    make_db: MakeDb, source: Path, critique: Critique, params: Params
) -> None:
    (source / "copy.jpg").write_bytes((source / "0.jpg").read_bytes())
    rows = [rewrite(critique, i, i, filename=f"{i}.jpg") for i in range(4)]
    others = [
        rewrite(critique, scene, 50 + i, filename=name, advisor="weston")
        for i, (scene, name) in enumerate(
            [(20, "copy.jpg"), (1, "1.jpg"), (2, "2.jpg"), (30, "4.jpg"), (31, "5.jpg")]
        )
    ]
    assert run_link(make_db(*rows), params).reasons == {}
    linked = run_link(make_db(*rows, *others, name="with_others.db"), params)
    assert linked.reasons == {"job-0": "wrong_picture"}


def test_a_description_that_says_nothing_contradicts_nothing(
    make_db: MakeDb, source: Path, critique: Critique, params: Params
) -> None:
    rows = [rewrite(critique, i, i, filename=f"{i}.jpg") for i in range(4)]
    row = rewrite(critique, 0, 50, filename="0.jpg")
    empty = json.loads(row["analysis_markdown"]) | {"image_description": "A photo."}
    for dimension, name in zip(empty["dimensions"], "abcdefg", strict=True):
        dimension |= {"comment": "Good.", "recommendation": f"More {name}."}
    rows.append(row | {"analysis_markdown": json.dumps(empty)})
    assert run_link(make_db(*rows), params).reasons == {}


def test_unreviewed_answers_served_here_are_no_evidence(
    make_db: MakeDb, source: Path, critique: Critique, params: Params
) -> None:
    rows = [rewrite(critique, i, i, filename=f"{i}.jpg") for i in range(4)]
    answer = rewrite(critique, 20, 50, filename="0.jpg", advisor="weston", mode="lora")
    assert run_link(make_db(*rows, answer), params).reasons == {}
