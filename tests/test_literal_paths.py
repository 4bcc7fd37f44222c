"""Paths are literal: no shell expands them, nothing decodes them."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from PIL import Image

from mondrian.critique.schema import serialize_critique
from mondrian.data.sources import open_source
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from mondrian.storage.engine import open_engine
from tests.clone import make_clone

NAMES = ["it's", 'a "b"', "$HOME", "`id`", "what?", "no#1", "p%20q", "a;b&c|d", "[x]*{y}", "müller"]
ADVISOR = "Ansel-Adams_2"


def write_database(path: Path, *rows: tuple[str, str, str, str, str]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE jobs (id, filename, advisor, status, analysis_markdown)")
        connection.executemany("INSERT INTO jobs VALUES (?, ?, ?, ?, ?)", rows)
        connection.commit()


@pytest.mark.parametrize("name", NAMES)
def test_a_database_of_any_name_is_read_and_opened(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.db"
    write_database(path, ("1", "a.jpg", ADVISOR, "done", "text"))
    with open_source(path) as jobs:
        assert [job.id for job in jobs.iter_finished(ADVISOR)] == ["1"]
    open_engine(str(path)).dispose()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
def test_dvc_links_photos_of_any_name(tmp_path: Path, photos: list[Image.Image]) -> None:
    application = tmp_path / " ".join([*NAMES, "${advisors}"])
    source = application / "source #1"
    source.mkdir(parents=True)
    rows = []
    for i, photo in enumerate(photos):
        photo.save(source / f"{NAMES[i]}.jpg")
        text = serialize_critique(write_critique("ansel", draw_scene(5, i)))
        rows.append((f"job-{i}", f"{NAMES[i]}.jpg", ADVISOR, "done", text))
    write_database(application / "mondrian?.db", *rows)
    clone = make_clone(tmp_path)
    path = clone.folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["advisors"], params["personas"] = [ADVISOR], {ADVISOR: "You are Ansel Adams."}
    folders = dict.fromkeys(("source_dir", "analysis_dir", "html_dir"), str(source))
    params["application"] = {"db_path": str(application / "mondrian?.db"), **folders}
    path.write_text(yaml.safe_dump(params))
    clone.run("dvc", "repro", f"link@{ADVISOR}")
    assert clone.metrics(ADVISOR, "link")["linked"] == len(photos)
    assert "up to date" in clone.run("dvc", "status", f"link@{ADVISOR}")
    photos[0].rotate(180).save(source / f"{NAMES[0]}.jpg")
    assert "modified" in clone.run("dvc", "status", f"link@{ADVISOR}")
