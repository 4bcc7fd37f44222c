"""Pairs for DPO and ORPO: each once, of one photograph, never of equal texts, never held out."""

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
from mondrian.critique.prompt import prompt_hash, row_messages
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.preference_pairs import RatedCritique, find_pairs
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from mondrian.serving.feedback.export import load_rated_critiques
from mondrian.storage.jobs import JobStore
from tests.conftest import ROOT
from tests.reviewing import corrected, open_store, say, served

PLAIN = RatedCritique("a", "p", "0.jpg", "A")


def why(*voices: RatedCritique) -> tuple[list[tuple[str, str, str]], dict[str, int]]:
    pairs, counts = find_pairs(voices)
    return [(pair.reason, pair.chosen, pair.rejected) for pair in pairs], counts


def test_a_correction_is_better_than_what_was_served() -> None:
    one = replace(PLAIN, verdict="corrected", corrected="C")
    assert why(one) == ([("corrected", "C", "A")], {"corrected": 1})
    assert why(replace(one, corrected="A"))[1] == {"equal_texts": 1}
    assert why(replace(one, verdict=""))[0] == []  # taken back


def test_thumbs_and_acceptance_make_pairs_of_one_photograph() -> None:
    up = replace(PLAIN, thumbs=1)
    down = RatedCritique("b", "p", "0.jpg", "B", thumbs=-1)
    taken = RatedCritique("c", "p", "0.jpg", "T", verdict="accepted")
    elsewhere = replace(down, job="d", photo="q", critique="D")
    found, counts = why(up, down, taken, elsewhere)
    assert found == [("thumbs", "A", "B"), ("accepted", "T", "B")]
    assert counts == {"thumbs": 1, "accepted": 1}
    both = replace(up, verdict="accepted")
    assert why(both, down)[1] == {"thumbs": 1, "twice": 1}
    torn = replace(down, verdict="accepted")  # accepted and disliked: neither good nor bad
    assert why(up, torn)[0] == []
    assert why(torn, down)[0] == []


def test_equal_texts_and_contradictions_are_no_pairs() -> None:
    up, down = replace(PLAIN, thumbs=1), RatedCritique("b", "p", "0.jpg", "B", thumbs=-1)
    assert why(up, replace(down, critique="A"))[1] == {"equal_texts": 1}
    again = [replace(up, job="c", critique="B"), replace(down, job="d", critique="A")]
    found, counts = why(up, down, *again)
    assert found == []
    assert counts == {"equal_texts": 2, "contradictory": 2}


@pytest.fixture
def store(tmp_path: Path, photos: list[Image.Image]) -> JobStore:
    (tmp_path / "uploads").mkdir()
    for i, photo in enumerate(photos):
        photo.save(tmp_path / "uploads" / f"{i}.jpg")
    return open_store(tmp_path / "jobs.db")


def critique_of(i: int) -> Critique:
    return write_critique("ansel", draw_scene(5, i))


@pytest.fixture
def judged(store: JobStore) -> JobStore:
    """A correction of photograph 0, thumbs up and down of 1, one that is gone, one unjudged."""
    first = served(
        store, critique_of(0), "uploads/0.jpg", model_used="fine_tuned", adapter_version="v2"
    )
    new = serialize_critique(corrected(critique_of(0), Lighting=0.5))
    say(store, first, critique_of(0), verdict="corrected", critique=new, who="Ana")
    for i, thumbs in ((1, 1), (2, -1)):
        row = served(store, critique_of(i), "uploads/1.jpg", kind="shadow" if i == 2 else "upload")
        say(store, row, critique_of(i), thumbs=thumbs)
    gone = served(store, critique_of(3), "uploads/gone.jpg")
    say(store, gone, critique_of(3), verdict="corrected", critique=new)
    served(store, critique_of(4), "uploads/4.jpg")
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
    whole: list[dict[str, Any]] = (
        json.loads(text) if rows.suffix == ".json" else [json.loads(x) for x in text.splitlines()]
    )
    return whole


def test_rows_have_the_prompt_and_the_picture_of_training(
    judged: JobStore, tmp_path: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run(judged, tmp_path / "out")
    told = capsys.readouterr().out
    assert "4 judged critiques → 2 pairs of 2 photos: corrected 1 · thumbs 1" in told
    assert "left out: photograph_gone 1" in told
    assert "no photograph was held out" in told
    by = {row["provenance"]["why"]: row for row in rows}
    row = by["corrected"]
    answers = [row[name][0]["content"][0]["text"] for name in ("chosen", "rejected")]
    assert answers == [
        serialize_critique(corrected(critique_of(0), Lighting=0.5)),
        serialize_critique(critique_of(0)),
    ]
    system, user, _ = row_messages(params.persona("ansel"), "")
    assert row["prompt"][0]["content"][0]["text"] == system["content"]
    kinds = [part["type"] for part in row["prompt"][1]["content"]]
    assert kinds.count("image") == 1
    assert "".join(p.get("text", "") for p in row["prompt"][1]["content"]) in user["content"]
    with Image.open(tmp_path / "uploads" / "0.jpg") as sent, Image.open(row["images"][0]) as kept:
        size = resize_to_fit(sent, params.image.min_pixels, params.image.max_pixels).size
        assert kept.size == size
    told_by = row["provenance"]
    assert (told_by["chosen_by"], told_by["chosen_version"], told_by["who"]) == (
        "fine_tuned",
        "v2",
        "Ana",
    )
    assert by["thumbs"]["chosen"][0]["content"][0]["text"] == serialize_critique(critique_of(1))


def test_other_trainers_have_their_layouts(judged: JobStore, tmp_path: Path) -> None:
    row = run(judged, tmp_path / "factory", "--format", "llama-factory")[0]
    assert [m["from"] for m in row["conversations"]] == ["system", "human"]
    assert row["conversations"][1]["value"].count("<image>") == len(row["images"]) == 1
    assert {row["chosen"]["from"], row["rejected"]["from"]} == {"gpt"}
    info = json.loads((tmp_path / "factory" / "dataset_info.json").read_text())
    named = info["preferences_ansel"]
    assert named["ranking"] is True
    assert set(named["columns"].values()) <= set(row)
    row = run(judged, tmp_path / "swift", "--format", "ms-swift")[0]
    assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][2]["content"] != row["rejected_response"]


def test_no_pair_shows_a_photograph_that_is_held_out(
    judged: JobStore,
    tmp_path: Path,
    photos: list[Image.Image],
    params: Params,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = params.image
    held = tmp_path / "held" / "images" / "0.png"
    held.parent.mkdir(parents=True)
    turned = photos[1].rotate(90, expand=True)  # a copy that no hash of bytes would know
    resize_to_fit(turned, image.min_pixels, image.max_pixels).save(held)
    persona = params.persona("ansel")
    row = {
        "messages": row_messages(persona, serialize_critique(critique_of(1))),
        "images": [str(held)],
        "id": "ansel/x",
        "photo": "x",
        "photo_group": "x",
        "prompt_hash": prompt_hash(persona),
    }
    val = tmp_path / "held" / "training_data_ansel_val.json"
    val.write_text(json.dumps([row]))
    rows = run(judged, tmp_path / "out", "--exclude_photos_of", val)
    assert [row["provenance"]["why"] for row in rows] == ["corrected"]
    told = capsys.readouterr().out
    assert "held_out 1 · " in told or "held_out 1\n" in told
    assert "no photograph was held out" not in told


def test_nothing_to_pair_is_one_clear_line(store: JobStore, tmp_path: Path) -> None:
    served(store, critique_of(0), "uploads/0.jpg")
    with pytest.raises(DataError, match="0 judged critiques → 0 pairs"):
        run(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for db, told in ((tmp_path / "none.db", "does not exist"), (tmp_path / "x.db", "no table")):
        if db.name == "x.db":
            db.touch()
        with pytest.raises(DataError, match=told):
            main(["--db", str(db), "--advisor", "ansel", "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "none.db").exists()


@pytest.mark.slow
def test_the_rows_are_a_table_that_datasets_reads(judged: JobStore, tmp_path: Path) -> None:
    run(judged, tmp_path / "out")
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
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=120)
    assert done.returncode == 0, done.stderr


def test_counts_are_of_what_was_judged(judged: JobStore, params: Params) -> None:
    counts: Counter[str] = Counter()
    found = list(load_rated_critiques(str(judged.engine.url.database), "ansel", params, counts))
    assert (len(found), counts["judged"]) == (4, 4)
    assert (
        list(load_rated_critiques(str(judged.engine.url.database), "okeefe", params, counts)) == []
    )
