"""The pages of label without a browser: states, errors, two tabs, faults of photos and disk."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from mondrian.cli import label as cli
from mondrian.core.errors import MondrianError
from mondrian.core.params import Params
from mondrian.critique.schema import DIMENSIONS, Critique
from mondrian.inference.photo_files import PhotoListing
from mondrian.labeling.critique_list import CritiqueList
from mondrian.labeling.label_app import LabelPages
from mondrian.labeling.local_server import listen
from mondrian.labeling.progress_log import ProgressLog
from mondrian.labeling.session import LabelingSession, LabelPhoto, list_photos
from tests.conftest import ROOT
from tests.labeling.local_page import required_fields
from tests.waiting import wait_for

JSON = {"accept": "application/json"}


class Label:
    """A session of a folder with a client of its pages."""

    def __init__(self, folder: Path, params: Params, advisor: str = "ansel") -> None:
        self.critiques = CritiqueList(folder / "critiques.jsonl", advisor)
        self.listing = PhotoListing([folder], folder / "none")
        photos = list_photos(self.listing, folder.resolve(), self.critiques)
        progress = ProgressLog(self.critiques.hidden_file("unfinished"), advisor)
        self.session = LabelingSession(photos, self.critiques, progress, params.link)
        skipped = [(file.name, file.describe()) for file in self.listing.skipped]
        pages = LabelPages(self.session, "Me", skipped, ["mondrian init --list x"])
        self.client = TestClient(pages.build_app(), "http://127.0.0.1", follow_redirects=False)
        self.ids = {photo.name: photo.id for photo in photos}

    def photo(self, name: str) -> LabelPhoto:
        return self.session.photos[self.ids[name]]

    def post(
        self, name: str, action: str, fields: dict[str, str], tab: str = "t", **kw: Any
    ) -> Any:
        data = {**fields, "action": action, "tab": tab, "seen": kw.pop("seen", "")}
        return self.client.post(f"/critique/{self.ids[name]}", data=data, **kw)

    def page(self, name: str) -> str:
        return self.client.get(f"/critique/{self.ids[name]}").text


@pytest.fixture
def label(folder: Path, params: Params) -> Iterator[Label]:
    started = Label(folder, params)
    yield started
    started.session.close()


@pytest.fixture
def fields(critique: Critique) -> dict[str, str]:
    return required_fields(critique)


def test_a_finished_critique_is_in_the_list_and_the_next_photo_follows(
    label: Label, fields: dict[str, str]
) -> None:
    response = label.post("a.jpg", "finish", fields)
    assert response.headers["location"].startswith(f"/critique/{label.ids['b.jpg']}?saved=")
    entry = label.critiques.read()["a.jpg"].content
    assert entry is not None
    assert (entry["photo"], entry["advisor"]) == ("a.jpg", "ansel")
    assert "technical_notes" not in entry["critique"]
    assert label.session.counts() == {"done": 1, "open": 2}
    assert "a.jpg is in the list." in label.client.get(response.headers["location"]).text


def test_the_page_says_the_range_of_scores_once_and_to_screen_readers(label: Label) -> None:
    page = label.page("a.jpg")
    assert page.count("Scores are from 0 to 10.") == 1
    assert page.count(", score from 0 to 10") == len(DIMENSIONS) + 1  # overall


def test_an_unfinished_critique_is_kept_and_never_in_the_list(
    label: Label, fields: dict[str, str], folder: Path, params: Params
) -> None:
    del fields["dimensions.3.comment"]
    response = label.post("a.jpg", "finish", {**fields, "dimensions.2.score": "12"})
    assert response.status_code == 422
    assert "Not finished: 2 fields need something" in response.text
    assert "It is 12; it must be from 0 to 10" in response.text
    assert not label.critiques.path.exists()
    again = Label(folder, params)  # as after a restart
    assert again.session.counts() == {"started": 1, "open": 2}
    assert fields["image_description"] in again.page("a.jpg")
    again.session.close()


def test_an_edited_critique_replaces_its_line(label: Label, fields: dict[str, str]) -> None:
    label.post("a.jpg", "finish", fields)
    first = label.critiques.read()["a.jpg"].content
    changed = {**fields, "image_description": "A lake, seen again."}
    label.post("a.jpg", "keep", changed)
    assert "in the list, changes are not yet" in label.page("a.jpg")
    assert label.critiques.read()["a.jpg"].content == first
    label.post("a.jpg", "finish", changed)
    content = label.critiques.read()["a.jpg"].content
    assert content is not None
    assert content["critique"]["image_description"] == "A lake, seen again."
    assert len(label.critiques.path.read_text().splitlines()) == 1
    assert "changes are not yet" not in label.page("a.jpg")


def test_a_skipped_photo_keeps_its_text_and_can_be_taken_up_again(
    label: Label, fields: dict[str, str]
) -> None:
    text = {"image_description": "A lake."}
    label.post("a.jpg", "skip", text)
    assert label.session.counts() == {"open": 2, "skipped": 1}
    assert "A lake." in label.page("a.jpg")
    label.post("a.jpg", "keep", {"image_description": "A lake at noon."})
    assert label.session.counts() == {"started": 1, "open": 2}
    for name in label.ids:
        response = label.post(name, "skip", {})
    assert response.headers["location"] == "/"
    assert "No photo is open." in label.client.get("/").text


def test_another_tab_does_not_overwrite_what_it_has_not_seen(label: Label) -> None:
    assert label.post("a.jpg", "keep", {"image_description": "one"}, "first").status_code == 303
    late = label.post("a.jpg", "keep", {"image_description": "two"}, "second", headers=JSON)
    assert (late.status_code, "another tab" in late.json()["error"]) == (409, True)
    seen = label.post("a.jpg", "keep", {"image_description": "two"}, "second", seen="first")
    assert seen.status_code == 303
    assert "two" in label.page("a.jpg")


def test_every_file_is_accounted_for(
    folder: Path, photos: list[Image.Image], params: Params
) -> None:
    shutil.copy(folder / "a.jpg", folder / "copy.jpg")
    (folder / "notes.txt").write_text("x")
    (folder / ".critiques.jsonl.k2x9").write_text("{")  # of a label that was killed
    content = (folder / "b.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    Image.new("RGB", (400, 300), "gray").save(folder / "blank.png")
    (folder / "link.jpg").symlink_to(Path(__file__).parent.parent / "core" / "rendered.heic")
    label = Label(folder, params)
    faults = label.session.images.faults
    wait_for(lambda: len(faults) == 2)
    assert {fault.split(":")[0] for fault in faults.values()} == {"image_unreadable", "image_blank"}
    assert label.session.counts() == {"open": 3, "unreadable": 2}
    reasons = {Path(file.name).name: file.reason for file in label.listing.skipped}
    assert reasons == {
        "copy.jpg": "copy",
        "notes.txt": "not_a_photo",
        "link.jpg": "image_outside_source",
    }
    page = label.client.get("/").text
    assert "image_unreadable: " in page
    assert "notes.txt: not_a_photo" in page
    assert "image_blank: " in label.page("blank.png")
    assert label.post("blank.png", "skip", {}).status_code == 422
    label.session.close()


def test_photos_are_sent_upright_and_broken_ones_are_explained(label: Label, folder: Path) -> None:
    for query in ("", "?size=full", "?size=thumb"):
        response = label.client.get(f"/photo/{label.ids['a.jpg']}{query}")
        assert response.headers["content-type"] == "image/jpeg"
        assert response.headers["cache-control"].startswith("private")
    (folder / "b.jpg").write_bytes(b"broken since")
    assert label.client.get(f"/photo/{label.ids['b.jpg']}").status_code == 422
    assert label.client.get(f"/photo/{label.ids['b.jpg']}?size=huge").status_code == 404
    assert label.client.get("/photo/0000").status_code == 404


def test_a_critique_of_another_program_is_left_alone(
    label: Label, folder: Path, fields: dict[str, str], params: Params
) -> None:
    line = '{"photo": "a.jpg", "text": "prose"}\n'
    (folder / "critiques.jsonl").write_text(line)
    assert "line 1 of" in label.page("a.jpg")
    assert label.post("a.jpg", "finish", fields).status_code == 422
    label.post("b.jpg", "finish", fields)
    lines = (folder / "critiques.jsonl").read_text().splitlines()
    assert lines[0] == line.strip()
    assert json.loads(lines[1])["photo"] == "b.jpg"
    other = Label(folder, params, "okeefe")
    assert other.session.counts() == {"done": 1, "open": 2}  # a line without an advisor is for all
    other.session.close()


def test_what_cannot_be_saved_is_said(
    label: Label, folder: Path, fields: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file where the folder was")
    response = label.post("a.jpg", "keep", {"image_description": "x"}, headers=JSON)
    assert response.status_code == 503
    assert response.json()["error"].startswith("not saved, ")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 400),
        ({"origin": "http://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://127.0.0.1"}, 303),
    ],
)
def test_other_sites_cannot_write(label: Label, headers: dict[str, str], status: int) -> None:
    response = label.post("a.jpg", "keep", {"image_description": "x"}, headers=headers)
    assert response.status_code == status
    assert (label.session.counts() == {"open": 3}) == (status != 303)


@pytest.mark.parametrize("data", [{}, {"action": "publish"}, {"image_description": "x"}])
def test_a_form_without_its_action_changes_nothing(label: Label, data: dict[str, str]) -> None:
    label.post("a.jpg", "keep", {"image_description": "Fog"}, tab="")
    response = label.client.post(f"/critique/{label.ids['a.jpg']}", data=data)
    assert response.status_code == 400
    assert "Fog" in label.page("a.jpg")


def test_a_form_with_a_file_is_refused(label: Label) -> None:
    data, files = {"action": "keep"}, {"image_description": ("a.txt", b"hello")}
    response = label.client.post(f"/critique/{label.ids['a.jpg']}", data=data, files=files)
    assert response.status_code == 400
    assert label.session.counts() == {"open": 3}


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_does_not_exist_is_refused(port: int) -> None:
    with pytest.raises(MondrianError, match=f"--port is {port}; it must be from 0 to 65535"):
        listen(port)


def test_a_body_that_is_too_large_is_refused(label: Label) -> None:
    fields = {"image_description": "x" * 300_000}
    assert label.post("a.jpg", "keep", fields, headers=JSON).status_code == 413
    page = label.post("a.jpg", "keep", fields, headers={"accept": "text/html"}).text
    assert "The body has" in page
    assert "photo is too large" not in page


def test_a_start_removes_what_a_kill_during_a_save_left_next_to_the_list(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_file, unfinished = folder / "critiques.jsonl", folder / ".critiques.jsonl.unfinished"
    killed = "import os, sys; from pathlib import Path; from mondrian.core import files\n"
    killed += "with files.open_atomic_file(Path(sys.argv[1])) as file: os._exit(9)"
    for path in (list_file, unfinished):
        subprocess.run([sys.executable, "-c", killed, str(path)], cwd=ROOT, check=False)
    before = set(folder.iterdir())
    foreign = {folder / ".critiques.jsonl.original", folder / ".other.jsonl.a1b2c3d4"}
    for path in foreign:
        path.write_text("text")
    monkeypatch.setattr(cli, "run_local_app", lambda _app, listener, *_: listener.close())
    params = f"--params={ROOT / 'params.yaml'}"
    cli.main([str(folder), "--advisor=ansel", "--no-browser", "--port=0", params])
    after = set(folder.iterdir()) - {folder / ".critiques.jsonl.lock"}
    assert after < before | foreign
    assert len(before - after) == 2
    assert foreign <= after
