"""Pairs for DPO and ORPO: each once, of one photo, never of equal texts, never held out."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mondrian.cli.preferences import main
from mondrian.core.errors import DataError
from mondrian.core.images import resize_to_fit
from mondrian.core.params import Params
from mondrian.critique.prompt import build_row_messages, prompt_hash
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.preferences import RatedCritique, find_pairs
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from mondrian.serving.feedback.export import load_rated_critiques
from mondrian.storage.feedback import add_vote, load_votes
from mondrian.storage.jobs import JobStore
from tests.conftest import ROOT
from tests.reviewing import add_completed_job, open_store, with_scores, write_feedback
from tests.waiting import PATIENCE

PLAIN = RatedCritique("a", "p", "0.jpg", "A")


def list_pairs(*critiques: RatedCritique) -> tuple[list[tuple[str, str, str]], dict[str, int]]:
    pairs, counts = find_pairs(critiques)
    return [(pair.reason, pair.chosen, pair.rejected) for pair in pairs], counts


def test_a_correction_is_better_than_the_served_critique() -> None:
    correction = replace(PLAIN, verdict="corrected", corrected="C")
    assert list_pairs(correction) == ([("corrected", "C", "A")], {"corrected": 1})
    assert list_pairs(replace(correction, corrected="A"))[1] == {"equal_texts": 1}
    assert list_pairs(replace(correction, verdict=""))[0] == []  # taken back


def test_thumbs_and_acceptance_give_pairs_of_one_photo() -> None:
    up = replace(PLAIN, thumbs=1)
    down = RatedCritique("b", "p", "0.jpg", "B", thumbs=-1)
    accepted = RatedCritique("c", "p", "0.jpg", "T", verdict="accepted")
    other_photo = replace(down, job="d", photo="q", critique="D")
    pairs, counts = list_pairs(up, down, accepted, other_photo)
    assert pairs == [("thumbs", "A", "B"), ("accepted", "T", "B")]
    assert counts == {"thumbs": 1, "accepted": 1}
    up_and_accepted = replace(up, verdict="accepted")
    assert list_pairs(up_and_accepted, down)[1] == {"thumbs": 1, "twice": 1}
    mixed = replace(down, verdict="accepted")  # accepted and disliked: neither good nor bad
    assert list_pairs(up, mixed)[0] == []
    assert list_pairs(mixed, down)[0] == []


def test_equal_texts_and_contradictions_give_no_pairs() -> None:
    up, down = replace(PLAIN, thumbs=1), RatedCritique("b", "p", "0.jpg", "B", thumbs=-1)
    assert list_pairs(up, replace(down, critique="A"))[1] == {"equal_texts": 1}
    reversed_ratings = [replace(up, job="c", critique="B"), replace(down, job="d", critique="A")]
    pairs, counts = list_pairs(up, down, *reversed_ratings)
    assert pairs == []
    assert counts == {"equal_texts": 2, "contradictory": 2}


@pytest.fixture
def store(tmp_path: Path, photos: list[Image.Image]) -> JobStore:
    (tmp_path / "uploads").mkdir()
    for i, photo in enumerate(photos):
        photo.save(tmp_path / "uploads" / f"{i}.jpg")
    return open_store(tmp_path / "jobs.db")


def make_critique(i: int) -> Critique:
    return write_critique("ansel", draw_scene(5, i))


@pytest.fixture
def rated(store: JobStore) -> JobStore:
    """A correction of photo 0, thumbs up and down for 1, a missing photo, an unrated critique."""
    first = add_completed_job(
        store, make_critique(0), "uploads/0.jpg", model_used="fine_tuned", adapter_version="v2"
    )
    new = serialize_critique(with_scores(make_critique(0), Lighting=0.5))
    write_feedback(store, first, make_critique(0), verdict="corrected", critique=new, who="Ana")
    for i, thumbs in ((1, 1), (2, -1)):
        row = add_completed_job(
            store, make_critique(i), "uploads/1.jpg", kind="shadow" if i == 2 else "upload"
        )
        write_feedback(store, row, make_critique(i), thumbs=thumbs)
    missing = add_completed_job(store, make_critique(3), "uploads/gone.jpg")
    write_feedback(store, missing, make_critique(3), verdict="corrected", critique=new)
    add_completed_job(store, make_critique(4), "uploads/4.jpg")
    return store


def run(store: JobStore, output: Path, *more: object) -> list[dict[str, Any]]:
    path = Path(str(store.engine.url.database))
    main(
        [
            "--db",
            str(path),
            "--advisor",
            "ansel",
            "--data",
            str(path.parent),
            "--output_dir",
            str(output),
            "--cache_dir",
            str(path.parent / "cache"),
            *map(str, more),
        ]
    )
    (rows,) = output.glob("preferences_ansel.json*")
    text = rows.read_text()
    parsed: list[dict[str, Any]] = (
        json.loads(text) if rows.suffix == ".json" else [json.loads(x) for x in text.splitlines()]
    )
    return parsed


def test_rows_have_the_prompt_and_the_image_of_training(
    rated: JobStore, tmp_path: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run(rated, tmp_path / "out")
    output = capsys.readouterr().out
    assert "4 rated critiques → 2 pairs from 2 photos: corrected 1 · thumbs 1" in output
    assert "left out: photo_missing 1" in output
    assert "no photo was held out" in output
    row_by_reason = {row["provenance"]["why"]: row for row in rows}
    row = row_by_reason["corrected"]
    answers = [row[name][0]["content"][0]["text"] for name in ("chosen", "rejected")]
    assert answers == [
        serialize_critique(with_scores(make_critique(0), Lighting=0.5)),
        serialize_critique(make_critique(0)),
    ]
    system, user, _ = build_row_messages(params.persona("ansel"), "")
    assert row["prompt"][0]["content"][0]["text"] == system["content"]
    kinds = [part["type"] for part in row["prompt"][1]["content"]]
    assert kinds.count("image") == 1
    assert "".join(p.get("text", "") for p in row["prompt"][1]["content"]) in user["content"]
    with Image.open(tmp_path / "uploads" / "0.jpg") as photo, Image.open(row["images"][0]) as image:
        size = resize_to_fit(photo, params.image.min_pixels, params.image.max_pixels).size
        assert image.size == size
    provenance = row["provenance"]
    assert (provenance["chosen_by"], provenance["chosen_version"], provenance["who"]) == (
        "fine_tuned",
        "v2",
        "Ana",
    )
    assert row_by_reason["thumbs"]["chosen"][0]["content"][0]["text"] == serialize_critique(
        make_critique(1)
    )


def test_each_trainer_has_its_layout(rated: JobStore, tmp_path: Path) -> None:
    row = run(rated, tmp_path / "factory", "--format", "llama-factory")[0]
    assert [m["from"] for m in row["conversations"]] == ["system", "human"]
    assert row["conversations"][1]["value"].count("<image>") == len(row["images"]) == 1
    assert {row["chosen"]["from"], row["rejected"]["from"]} == {"gpt"}
    info = json.loads((tmp_path / "factory" / "dataset_info.json").read_text())
    dataset = info["preferences_ansel"]
    assert dataset["ranking"] is True
    assert set(dataset["columns"].values()) <= set(row)
    row = run(rated, tmp_path / "swift", "--format", "ms-swift")[0]
    assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][2]["content"] != row["rejected_response"]


def test_no_pair_has_a_near_duplicate_of_a_held_out_photo(
    rated: JobStore,
    tmp_path: Path,
    photos: list[Image.Image],
    params: Params,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = params.image
    held_out = tmp_path / "held_out" / "images" / "0.png"
    held_out.parent.mkdir(parents=True)
    rotated = photos[1].rotate(90, expand=True)  # a copy that no hash of bytes would know
    resize_to_fit(rotated, image.min_pixels, image.max_pixels).save(held_out)
    persona = params.persona("ansel")
    row = {
        "messages": build_row_messages(persona, serialize_critique(make_critique(1))),
        "images": [str(held_out)],
        "id": "ansel/x",
        "photo": "x",
        "photo_group": "x",
        "prompt_hash": prompt_hash(persona),
    }
    val = tmp_path / "held_out" / "training_data_ansel_val.json"
    val.write_text(json.dumps([row]))
    rows = run(rated, tmp_path / "out", "--exclude_photos_of", val)
    assert [row["provenance"]["why"] for row in rows] == ["corrected"]
    output = capsys.readouterr().out
    assert "held_out 1 · " in output or "held_out 1\n" in output
    assert "no photo was held out" not in output


def test_a_database_without_pairs_is_one_clear_line(store: JobStore, tmp_path: Path) -> None:
    add_completed_job(store, make_critique(0), "uploads/0.jpg")
    with pytest.raises(DataError, match="0 rated critiques → 0 pairs"):
        run(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for db, message in ((tmp_path / "none.db", "does not exist"), (tmp_path / "x.db", "no table")):
        if db.name == "x.db":
            db.touch()
        with pytest.raises(DataError, match=message):
            main(["--db", str(db), "--advisor", "ansel", "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "none.db").exists()


@pytest.mark.slow
def test_the_datasets_library_reads_the_rows(rated: JobStore, tmp_path: Path) -> None:
    run(rated, tmp_path / "out")
    code = (
        "import sys; from datasets import Image, List, load_dataset\n"
        "rows = load_dataset('json', data_files=sys.argv[1], cache_dir=sys.argv[2])['train']\n"
        "rows = rows.cast_column('images', List(Image()))\n"
        "assert {'prompt', 'chosen', 'rejected', 'images'} <= set(rows.column_names)\n"
        "assert rows[0]['images'][0].size[0] >= 32\n"
        "assert [m['role'] for m in rows[1]['prompt']] == ['system', 'user']\n"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(tmp_path / "out" / "preferences_ansel.jsonl"),
        str(tmp_path / "datasets"),
    ]
    env = {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    process = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=PATIENCE
    )
    assert process.returncode == 0, process.stderr


def test_only_rated_critiques_are_counted(rated: JobStore, params: Params) -> None:
    counts: Counter[str] = Counter()
    critiques = list(load_rated_critiques(str(rated.engine.url.database), "ansel", params, counts))
    assert (len(critiques), counts["judged"]) == (4, 4)
    assert (
        list(load_rated_critiques(str(rated.engine.url.database), "okeefe", params, counts)) == []
    )


def test_a_blind_vote_gives_a_pair_and_an_equal_one_is_counted(
    store: JobStore, params: Params
) -> None:
    jobs = [add_completed_job(store, make_critique(i), f"uploads/{i // 2}.jpg") for i in range(6)]
    for i, choice in ((0, "right"), (2, "equal"), (4, "left")):
        assert add_vote(store.engine, "ansel", jobs[i : i + 2], choice)
        assert not add_vote(store.engine, "ansel", jobs[i : i + 2], "left")  # it is not blind now
    assert add_vote(store.engine, "okeefe", jobs[:2], "left")
    store.restart(jobs[5]["id"])  # a vote is about the texts that were seen
    counts: Counter[str] = Counter()
    db = str(store.engine.url.database)
    pairs, _ = find_pairs(load_rated_critiques(db, "ansel", params, counts))
    texts = [serialize_critique(make_critique(i)) for i in (1, 0)]
    assert [(pair.reason, pair.chosen, pair.rejected) for pair in pairs] == [("vote", *texts)]
    assert counts["equal_votes"] == 1
    assert [vote["choice"] for vote in load_votes(store.engine, [jobs[4]["id"]])] == []
    store.delete_inactive()
    assert load_votes(store.engine, [job["id"] for job in jobs]) == []


def test_a_vote_against_the_thumbs_gives_no_pair() -> None:
    up = replace(PLAIN, thumbs=1)
    down = RatedCritique("b", "p", "0.jpg", "B", thumbs=-1, preferred_to=("a",))
    assert list_pairs(up, down) == ([], {"contradictory": 2})
