"""Pairs for DPO and ORPO: each once, of one photo, never of equal texts, never held out."""

import json
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mondrian.cli.preferences import main
from mondrian.core.errors import DataError
from mondrian.core.images import resize_to_fit
from mondrian.core.params import Params
from mondrian.critique.preference_rows import (
    PreferenceRow,
    preferences_path,
    read_preference_rows,
)
from mondrian.critique.prompt import build_row_messages, prompt_hash
from mondrian.critique.rows import row_path
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.preference_export import PairSources, collect_pairs
from mondrian.data.preferences import RatedCritique, find_pairs
from mondrian.data.rated_critiques import load_rated_critiques
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique
from mondrian.storage.feedback import add_vote, load_votes
from mondrian.storage.jobs import JobStore
from tests.conftest import ROOT, run_stage
from tests.reviewing import add_completed_job, open_store, with_scores, write_feedback
from tests.waiting import PATIENCE

PLAIN = RatedCritique("a", "p", "0.jpg", "A")


def list_pairs(*critiques: RatedCritique) -> tuple[list[tuple[str, str, str]], dict[str, int]]:
    pairs, counts = find_pairs(critiques)
    return [(pair.reason, pair.chosen, pair.rejected) for pair in pairs], counts


def test_a_correction_is_better_than_the_served_critique() -> None:
    correction = replace(PLAIN, verdict="corrected", corrected="C")
    assert list_pairs(correction) == ([("corrected", "C", "A")], {})
    assert list_pairs(replace(correction, corrected="A"))[1] == {"equal_texts": 1}
    assert list_pairs(replace(correction, verdict=""))[0] == []  # taken back


def test_thumbs_and_acceptance_give_pairs_of_one_photo() -> None:
    up = replace(PLAIN, thumbs=1)
    down = RatedCritique("b", "p", "0.jpg", "B", thumbs=-1)
    accepted = RatedCritique("c", "p", "0.jpg", "T", verdict="accepted")
    other_photo = replace(down, job="d", photo="q", critique="D")
    pairs, counts = list_pairs(up, down, accepted, other_photo)
    assert pairs == [("thumbs", "A", "B"), ("accepted", "T", "B")]
    assert counts == {}
    up_and_accepted = replace(up, verdict="accepted")
    assert list_pairs(up_and_accepted, down)[1] == {"twice": 1}
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
    flags = {
        "--db": path,
        "--advisor": "ansel",
        "--data": path.parent,
        "--output_dir": output,
        "--cache_dir": path.parent / "cache",
    }
    main([str(word) for flag in flags.items() for word in flag] + [*map(str, more)])
    lines = preferences_path(output, "ansel").read_text().splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return rows


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


def test_rows_are_read_as_they_were_written(rated: JobStore, tmp_path: Path) -> None:
    lines = run(rated, tmp_path / "out")
    rows = read_preference_rows(preferences_path(tmp_path / "out", "ansel"))
    assert [row.id for row in rows] == [line["id"] for line in lines]
    assert [row.rejected for row in rows] == [
        line["rejected"][0]["content"][0]["text"] for line in lines
    ]
    assert {row.messages[1]["content"].count("<image>") for row in rows} == {1}
    assert all(row.prompt_hash and row.photo == row.photo_group for row in rows)


@pytest.mark.parametrize("damage", ["{", "[]", '{"prompt": []}', '"chosen": 1'])
def test_a_damaged_line_is_named(rated: JobStore, tmp_path: Path, damage: str) -> None:
    run(rated, tmp_path / "out")
    path = preferences_path(tmp_path / "out", "ansel")
    good = path.read_text().splitlines()[0]
    path.write_text(f"{good}\n{damage}\n")
    with pytest.raises(DataError, match=r"line 2 is not a preference row"):
        read_preference_rows(path)
    path.write_text(good.replace("overall_score", "overall"))
    with pytest.raises(DataError, match=r"line 1 is not a preference row"):
        read_preference_rows(path)
    path.write_bytes(good.encode("utf-16"))
    with pytest.raises(DataError, match=r"preferences_ansel\.jsonl is not UTF-8 .*dvc repro"):
        read_preference_rows(path)


def test_a_truncated_database_is_named(rated: JobStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = (tmp_path / "jobs.db").read_bytes()
    (tmp_path / "cut.db").write_bytes(content[: len(content) // 2])
    folders = ApplicationFolders(tmp_path, tmp_path, tmp_path)
    with pytest.raises(DataError, match=rf"^{tmp_path}/cut\.db .*malformed"):
        list(load_rated_critiques(str(tmp_path / "cut.db"), "ansel", folders, Counter()))


def test_feedback_that_another_program_damaged_gives_no_pair(
    rated: JobStore, tmp_path: Path
) -> None:
    assert len(run(rated, tmp_path / "out")) == 2
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        connection.execute("UPDATE mondrian_feedback SET thumbs = 'up' WHERE thumbs = 1")
        connection.execute("UPDATE jobs SET thumbs = 0")
        connection.commit()
    rows = run(rated, tmp_path / "out")
    assert [row["provenance"]["why"] for row in rows] == ["corrected"]


@pytest.mark.parametrize("damaged", ['{"a": 1}', "cut {"])
def test_a_damaged_correction_leaves_out_its_job(
    rated: JobStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: str
) -> None:
    rated.close()
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        connection.execute(
            "UPDATE mondrian_feedback SET critique = ? WHERE critique IS NOT NULL", [damaged]
        )
        connection.execute("UPDATE mondrian_feedback SET who = x'ff'")
        connection.commit()
    rows = run(rated, tmp_path / "out")
    assert "corrected" not in [row["provenance"]["why"] for row in rows]
    assert "no_critique" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "column"),
    [("jobs", "llm_outputs"), ("jobs", "id"), ("mondrian_feedback", "critique")],
)
def test_a_text_that_is_not_utf8_leaves_out_its_job_only(
    rated: JobStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    table: str,
    column: str,
) -> None:
    rated.close()
    photo = "filename" if table == "jobs" else "photo_sha256"
    condition = f"{photo} = 'uploads/0.jpg'"
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        text = f"CAST({column} || x'ff' AS TEXT)"
        if column == "id":  # of a job with thumbs in its own row
            connection.execute(f"UPDATE jobs SET thumbs = 1 WHERE {condition}")
        connection.execute(f"UPDATE {table} SET {column} = {text} WHERE {condition}")
        connection.commit()
    rows = run(rated, tmp_path / "out")
    assert [row["provenance"]["why"] for row in rows] == ["thumbs"]
    output = capsys.readouterr().out
    assert "4 rated critiques → 1 pairs" in output
    assert "left out: not_utf8 1 · photo_missing 1" in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format", "trl"], "--format was removed; rows have one form now"),
        (["--format=ms-swift"], "--format was removed"),
        (["--exclude_photos_of", "a", "b"], "--exclude_photos_of was removed; give the folder"),
    ],
)
def test_a_flag_of_an_earlier_version_says_what_replaced_it(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--db", "a", "--advisor", "ansel", "--output_dir", "b", *flags])
    assert message in capsys.readouterr().err


def write_prepared(
    folder: Path,
    params: Params,
    photos: dict[str, Image.Image],
    times: dict[str, str] | None = None,
) -> Path:
    """Write prepared rows of a photo for each part, rotated: no hash of bytes knows the copy.

    times  by part, when its photo was taken
    """
    persona = params.persona("ansel")
    (folder / "images").mkdir(parents=True)
    for i, (part, photo) in enumerate(photos.items()):
        image = folder / f"images/{i}.png"
        rotated = photo.rotate(90, expand=True)
        resize_to_fit(rotated, params.image.min_pixels, params.image.max_pixels).save(image)
        row = {
            "messages": build_row_messages(persona, serialize_critique(make_critique(1))),
            "images": [str(image)],
            "id": f"ansel/{part}",
            "photo": part,
            "photo_group": f"group of {part}",
            "captured": (times or {}).get(part, ""),
            "prompt_hash": prompt_hash(persona),
        }
        row_path(folder, "ansel", part).write_text(json.dumps([row]))
    return folder


def test_an_export_has_no_pair_of_a_photo_like_one_of_val_or_test(
    rated: JobStore,
    tmp_path: Path,
    photos: list[Image.Image],
    params: Params,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepared = tmp_path / "prepared"
    parts = {"train": photos[0], "val": photos[4], "test": photos[1]}
    write_prepared(prepared, params, parts)
    rows = run(rated, tmp_path / "out", "--prepared_dir", prepared)
    assert [row["photo_group"] for row in rows] == ["group of train"]
    output = capsys.readouterr().out
    assert "held_out 1\n" in output
    assert "no photo was held out" not in output
    other = write_prepared(tmp_path / "other", params, {"train": photos[5], "val": photos[0]})
    rows = run(rated, tmp_path / "out", "--prepared_dir", other)
    assert [row["provenance"]["why"] for row in rows] == ["thumbs"]


def test_a_pair_of_a_walk_of_val_or_test_is_not_trained_on(
    store: JobStore, tmp_path: Path, photos: list[Image.Image], params: Params
) -> None:
    """The photos themselves are in no split: their critiques were rated, and are no rows."""
    db = str(store.engine.url.database)
    minutes = {0: "10:40", 1: "15:20", 2: "22:00", 3: "11:30"}  # 3 follows 0 on the walk of val
    for i, minute in minutes.items():
        exposure = json.dumps({"time": f"2026-05-01 {minute}"})
        row = add_completed_job(store, make_critique(i), f"uploads/{i}.jpg", exposure=exposure)
        new = serialize_critique(with_scores(make_critique(i), Lighting=0.5))
        write_feedback(store, row, make_critique(i), verdict="corrected", critique=new)
    parts = {"train": render(draw_scene(5, 9), 320, 256), "val": photos[4], "test": photos[5]}
    times = {"val": "2026-05-01T10:00:00", "test": "2026-05-01T15:00:00"}
    write_prepared(tmp_path / "prepared", params, parts, times)
    folders = ApplicationFolders(tmp_path, tmp_path, tmp_path)

    def list_groups(session_minutes: int) -> dict[str, str]:
        counts: Counter[str] = Counter()
        paths = (tmp_path / "prepared", tmp_path / "cache")
        sources = PairSources("ansel", folders, *paths, session_minutes)
        critiques = load_rated_critiques(db, "ansel", folders, counts)
        pairs = collect_pairs(critiques, sources, params.image, counts)
        assert counts["held_out"] == 4 - len(pairs.pairs)
        groups = {pair.filename: pairs.splits[pair.filename].group for pair in pairs.pairs}
        return {Path(name).stem: group for name, group in groups.items()}

    groups = list_groups(60)
    assert groups.keys() == {"0", "2", "3"}
    assert groups["0"] == groups["3"] == "group of val"
    assert groups["2"] != "group of val"
    ungrouped = list_groups(0)
    assert len(ungrouped) == 4
    assert "group of val" not in ungrouped.values()


def test_a_database_without_pairs_is_one_clear_line(store: JobStore, tmp_path: Path) -> None:
    add_completed_job(store, make_critique(0), "uploads/0.jpg")
    with pytest.raises(DataError, match=r"0 rated critiques → 0 pairs from 0 photos; a pair needs"):
        run(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("CREATE TABLE jobs (id, filename, advisor, status)")
    with closing(sqlite3.connect(tmp_path / "y.db")) as connection:
        connection.execute("CREATE TABLE mondrian_feedback (job, advisor)")
    before = (tmp_path / "x.db").read_bytes()
    for db, message in (
        (tmp_path / "none.db", "does not exist"),
        (tmp_path / "x.db", "no table mondrian_feedback; start a service"),
        (tmp_path / "y.db", "/y.db has no table jobs: it is not a database of the service; give"),
    ):
        with pytest.raises(DataError, match=message):
            main(["--db", str(db), "--advisor", "ansel", "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "none.db").exists()
    assert (tmp_path / "x.db").read_bytes() == before  # it is only read


def write_params(folder: Path, method: str) -> Path:
    """Write params.yaml for a database and photos in the folder."""
    text = (ROOT / "params.yaml").read_text().replace("method: sft ", f"method: {method} ")
    text = text.replace("db_path: data/sample/mondrian/mondrian.db", f"db_path: {folder}/jobs.db")
    text = re.sub(r"(source|analysis|html)_dir: data/\S+", rf"\1_dir: {folder}", text)
    (folder / "params.yaml").write_text(text)
    return folder / "params.yaml"


def run_preferences_stage(folder: Path, method: str) -> tuple[str, list[PreferenceRow], Any]:
    """Run the stage; return its output, rows and counts."""
    run = run_stage(
        "preferences",
        *("--advisor", "ansel"),
        *("--prepared_dir", folder / "prepared"),
        *("--output_dir", folder / "pairs"),
        *("--metrics", folder / "preferences.json"),
        *("--cache_dir", folder / "cache"),
        *("--params", write_params(folder, method)),
    )
    assert run.returncode == 0, run.stderr
    rows = read_preference_rows(preferences_path(folder / "pairs", "ansel"))
    return run.stdout, rows, json.loads((folder / "preferences.json").read_text())


def test_the_stage_counts_every_pair_and_only_reads_the_database(
    rated: JobStore, tmp_path: Path, photos: list[Image.Image], params: Params
) -> None:
    write_prepared(tmp_path / "prepared", params, {"train": photos[5], "val": photos[0]})
    rated.engine.dispose()
    before = (tmp_path / "jobs.db").read_bytes()
    output, rows, counts = run_preferences_stage(tmp_path, "orpo")
    assert "preferences ansel: 4 rated critiques → 2 pairs from 2 photos" in output
    assert "1 to train on, 1 of val photos to measure preferences" in output
    assert {row.photo_group == "group of val" for row in rows} == {True, False}
    assert counts == {
        "rated": 4,
        "train": 1,
        "val": 1,
        "pairs": {"corrected": 1, "thumbs": 1},
        "left_out": {"photo_missing": 1},
    }
    assert (tmp_path / "jobs.db").read_bytes() == before
    output, rows, counts = run_preferences_stage(tmp_path, "sft")
    assert output == "preferences ansel: no pairs, as train.method is sft\n"
    assert rows == []
    assert (counts["rated"], counts["train"]) == (0, 0)
    assert not list((tmp_path / "pairs").rglob("*.png"))


@pytest.mark.slow
def test_a_source_without_feedback_has_no_pairs(tmp_path: Path, params: Params) -> None:
    """A list, and a database that no service has used."""
    (tmp_path / "jobs.db").write_text('{"photo": "a.jpg", "critique": "x"}\n')
    assert run_preferences_stage(tmp_path, "orpo")[1] == []
    (tmp_path / "jobs.db").unlink()
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        connection.execute("CREATE TABLE jobs (id, filename, advisor, status)")
    output, rows, _ = run_preferences_stage(tmp_path, "orpo")
    assert rows == []
    assert "0 rated critiques → 0 pairs" in output


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


def find_folders(folder: Path) -> ApplicationFolders:
    return ApplicationFolders(folder, folder, folder)


def test_only_rated_critiques_are_counted(rated: JobStore, tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    critiques = list(
        load_rated_critiques(
            str(rated.engine.url.database), "ansel", find_folders(tmp_path), counts
        )
    )
    assert (len(critiques), counts["judged"]) == (4, 4)
    assert (
        list(
            load_rated_critiques(
                str(rated.engine.url.database), "okeefe", find_folders(tmp_path), counts
            )
        )
        == []
    )


def test_a_blind_vote_gives_a_pair_and_an_equal_one_is_counted(
    store: JobStore, tmp_path: Path
) -> None:
    jobs = [add_completed_job(store, make_critique(i), f"uploads/{i // 2}.jpg") for i in range(6)]
    for i, choice in ((0, "right"), (2, "equal"), (4, "left")):
        assert add_vote(store.engine, "ansel", jobs[i : i + 2], choice)
        assert not add_vote(store.engine, "ansel", jobs[i : i + 2], "left")  # it is not blind now
    assert add_vote(store.engine, "okeefe", jobs[:2], "left")
    store.restart(jobs[5]["id"])  # a vote is about the texts that were seen
    counts: Counter[str] = Counter()
    db = str(store.engine.url.database)
    pairs, _ = find_pairs(load_rated_critiques(db, "ansel", find_folders(tmp_path), counts))
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
