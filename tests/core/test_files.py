import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mondrian.core.errors import DataError
from mondrian.core.files import (
    JUNK_PATTERNS,
    check_output_folder,
    files_hash,
    is_junk,
    open_atomic_folder,
    read_json,
    suggest_path,
    write_json,
    write_text,
)
from tests.conftest import ROOT
from tests.waiting import PATIENCE


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    write_json(path, {"linked": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"linked": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert json.loads(path.read_text()) == {"linked": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["counts.json"]


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    private, new = tmp_path / "private.jsonl", tmp_path / "new.jsonl"
    private.touch(mode=0o600)
    for path in (private, new):
        write_text(path, "text")
    assert [path.stat().st_mode & 0o777 for path in (private, new)] == [0o600, 0o644]


def test_a_folder_that_fails_halfway_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    with open_atomic_folder(folder, ["*"]) as staging:
        write_text(staging / "weights", "old")
    with pytest.raises(FileNotFoundError):  # noqa: PT012
        with open_atomic_folder(folder, ["*"]) as staging:
            (staging / "half").write_text("new")
            (staging / "missing" / "file").touch()
    assert (folder / "weights").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_a_missing_path_suggests_a_similar_one_or_names_the_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/mondrian.db").touch()
    suggestion = f"; there is {tmp_path}/photos/mondrian.db"
    assert suggest_path(tmp_path / "photos/mondrain.db") == suggestion
    assert suggest_path(tmp_path / "photo/mondrian.db") == f"; there is {tmp_path}/photos"
    assert suggest_path(tmp_path / "disk/mondrian.db") == f"; there is no {tmp_path}/disk"
    assert suggest_path(tmp_path / "photos/other") == ""
    assert suggest_path(tmp_path) == ""


def test_a_folder_is_replaced_completely(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    for name in ("first", "second"):
        with open_atomic_folder(folder, ["*"]) as staging:
            write_text(staging / name, name)
    assert [p.name for p in folder.iterdir()] == ["second"]


WRITE = """
import sys
from pathlib import Path
from mondrian.core.errors import run_command
from mondrian.core.files import open_atomic_folder, write_text
def main():
    with open_atomic_folder(Path(sys.argv[1]), ["*"]) as staging:
        write_text(staging / "weights", "x" * 3_000_000)
run_command(main)
"""


def test_a_full_disk_is_one_clear_line_and_the_old_folder_stays(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    with open_atomic_folder(folder, ["*"]) as staging:
        write_text(staging / "weights", "old")

    def fill_up() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    run = subprocess.run(
        [sys.executable, "-c", WRITE, folder],
        preexec_fn=fill_up,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
    )
    assert run.returncode == 1
    assert run.stderr.startswith(f"error: File too large: {folder}")
    assert run.stderr.count("\n") == 1
    assert (folder / "weights").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_a_missing_or_invalid_json_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(DataError, match="does not exist"):
        read_json(path)
    path.write_bytes(b"\xff{")
    with pytest.raises(DataError, match="is not JSON"):
        read_json(path)


def test_the_hash_of_a_folder_depends_on_names_and_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("same")
    first = files_hash(tmp_path, ["a", "b"])
    assert first == files_hash(tmp_path, ["b", "a"])
    assert first != files_hash(tmp_path, ["a"])
    (tmp_path / "b").write_text("other")
    assert first != files_hash(tmp_path, ["a", "b"])


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name, message in (("mine", "contains 'precious.txt'"), ("file", "is a file")):
        with pytest.raises(DataError, match=message):
            with open_atomic_folder(tmp_path / name, ["images", "training_data_*.json"]):
                pass
    assert (tmp_path / "mine" / "precious.txt").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "precious"


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with open_atomic_folder(tmp_path / "link", ["*"]) as staging:
        (staging / "rows").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "rows").read_text() == "new"


def test_a_run_killed_between_its_two_renames_is_repaired_by_the_next(tmp_path: Path) -> None:
    old = tmp_path / ".rows.abc.old"
    old.mkdir()
    (old / "a.json").write_text("old")
    rows = tmp_path / "rows"
    with open_atomic_folder(rows, ("*.json",)) as staging:
        assert (rows / "a.json").read_text() == "old"
        (staging / "a.json").write_text("new")
    assert (rows / "a.json").read_text() == "new"


def test_another_file_deep_in_the_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "rows" / "images").mkdir(parents=True)
    (tmp_path / "rows" / "images" / "mine.jpg").touch()
    with (
        pytest.raises(DataError, match=r"images/mine\.jpg"),
        open_atomic_folder(tmp_path / "rows", ("images/*.png", "*.json")),
    ):
        pass


JUNK = (
    ".DS_Store",
    "Thumbs.db",
    "thumbs.db",
    "desktop.ini",
    "Desktop.ini",
    "._weights",
    ".nfs0001",
)


@pytest.mark.parametrize("name", JUNK)
def test_what_systems_put_into_a_folder_stops_no_step(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "adapter"
    for content in ("old", "new"):
        with open_atomic_folder(folder, ["weights"]) as staging:
            write_text(staging / "weights", content)
        (folder / "sub").mkdir()
        for path in (folder / name, folder / "sub" / name):
            path.touch()
        check_output_folder(folder, ["weights"])
    assert (folder / "weights").read_text() == "new"
    (folder / "notes.txt").touch()
    with pytest.raises(DataError, match=r"contains 'notes.txt', which this step did not write"):
        check_output_folder(folder, ["weights"])


@pytest.mark.parametrize(
    "name", ["photo.jpg", "my.DS_Store.jpg", "desktop.ini.txt", "_a.jpg", ".a"]
)
def test_a_file_that_a_person_may_have_made_is_no_junk(name: str) -> None:
    assert not is_junk(name)


@pytest.mark.slow
def test_dvc_and_git_ignore_what_systems_put_into_folders(tmp_path: Path) -> None:
    for name in (".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "rows/images").mkdir(parents=True)
    (tmp_path / "rows/images/a.png").touch()
    run_dvc(tmp_path, "init", "-q", "--no-scm")
    run_dvc(tmp_path, "add", "-q", "rows")
    for name in (*JUNK, ".Trash-1000", "@eaDir", "__MACOSX"):
        assert is_junk(name)
        (tmp_path / "rows/images" / name).touch()
    assert run_dvc(tmp_path, "status", "rows.dvc") == "Data and pipelines are up to date.\n"
    (tmp_path / "rows/images/b.png").touch()
    assert "modified" in run_dvc(tmp_path, "status", "rows.dvc")
    (tmp_path / "rows/images/b.png").unlink()
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    status = ["git", "-C", str(tmp_path), "status", "--porcelain", "--untracked-files=all", "rows"]
    assert subprocess.run(status, capture_output=True, text=True).stdout == "?? rows/images/a.png\n"
    for file in (".dvcignore", ".gitignore"):  # each pattern of the code is there
        lines = {re.sub(r"\[(\w)\w\]", r"\1", line).lower() for line in read_lines(file)}
        assert set(JUNK_PATTERNS) <= lines


def run_dvc(folder: Path, *args: str) -> str:
    command = [sys.executable, "-m", "dvc", *args]
    run = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    return run.stdout


def read_lines(name: str) -> list[str]:
    return (ROOT / name).read_text().splitlines()
