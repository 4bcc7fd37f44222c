import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from mondrian.cli import init
from mondrian.core.errors import DataError, ParamsError
from mondrian.core.params import load_params
from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.data.sources import open_source
from tests.conftest import ROOT
from tests.presets import PRESETS, flatten

SHIPPED = (ROOT / "params.yaml").read_text()
BASES = ("qwen3-vl-4b", "qwen3-vl-4b-4bit", "tiny")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def run(path: Path, *flags: object) -> None:
    init.main(["--params", str(path), *map(str, flags)])


def test_the_presets_of_all_bases_have_the_same_keys() -> None:
    assert tuple(PRESETS) == BASES
    keys = [dict(flatten(PRESETS[base])).keys() for base in BASES]
    assert keys[0] == keys[1] == keys[2]


def test_the_comments_of_params_yaml_give_the_values_of_the_4b() -> None:
    comments = {}
    names: list[str] = []  # keys from the top level to the current line
    above = ""
    for line in SHIPPED.splitlines():
        if match := re.match(r"((?:  ){0,2})(\w+):", line):
            names[len(match[1]) // 2 :] = [match[2]]
            if value := re.search(r"for the 4B: ([\w./-]*\w)", above + line):
                comments[".".join(names)] = yaml.safe_load(value[1])
            above = ""
        elif line.startswith("  #"):
            above += line
    assert comments == dict(flatten(PRESETS["qwen3-vl-4b"]))
    assert PRESETS["qwen3-vl-4b-4bit"]["base"]["source"] in SHIPPED


def test_tiny_is_what_the_project_ships(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(path, "--base", "tiny")
    assert "already has these values" in capsys.readouterr().out
    assert path.read_text() == SHIPPED


@pytest.mark.parametrize("base", BASES[:2])
def test_a_base_is_written_in_the_form_that_dvc_leaves_and_tiny_takes_it_back(
    path: Path, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(path, "--base", base, "--yes")
    assert "+  max_pixels: 786432 " in capsys.readouterr().out
    params = load_params(path)
    assert params.base.source == PRESETS[base]["base"]["source"]
    assert (params.train.learning_rate, params.evaluate.gates.overhead) == (2e-4, 0.1)
    written = path.read_text()
    run(path, "--base", base)
    apply_overrides(path, ["train.epochs=4"])
    assert path.read_text() == written.replace("epochs: 3 ", "epochs: 4 ")
    run(path, "--base", "tiny", "--yes")
    assert path.read_text() == SHIPPED


def test_a_database_gives_advisors_and_folders_and_asks_for_personas(
    path: Path, make_db: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    database = make_db({}, {"advisor": "weston"}, name="my photos.db")
    run(path, "--db", database, "--yes")
    output = capsys.readouterr().out
    assert "finished jobs of ansel 1, weston 1" in output
    assert "personas of weston: empty; write a few sentences" in output
    written = path.read_text()
    params = yaml.safe_load(written)
    assert params["advisors"] == ["ansel", "weston"]
    assert params["personas"]["weston"] == ""
    assert params["application"]["db_path"] == "my photos.db"  # DVC runs in the folder of params
    run(path, "--db", database)
    assert "already has these values" in capsys.readouterr().out
    apply_overrides(path, ["train.epochs=5"])
    assert path.read_text() == written


def test_paths_outside_the_project_are_absolute(
    path: Path, make_db: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "project").mkdir()
    path = path.rename(tmp_path / "project/params.yaml")
    run(path, "--db", make_db({}), "--yes")
    assert load_params(path).application.source_dir == str(tmp_path / "source")


def test_photos_next_to_the_outputs_of_the_pipeline_are_refused(
    path: Path, make_db: Callable[..., Path], tmp_path: Path
) -> None:
    database = make_db({})
    with pytest.raises(DataError, match="contains outputs of the pipeline.*data/photos"):
        run(path, "--db", database, "--source_dir", tmp_path, "--yes")
    assert path.read_text() == SHIPPED


@pytest.mark.parametrize(("answer", "is_written"), [("y", True), ("", False), (None, False)])
def test_nothing_is_written_without_a_yes(
    path: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None, is_written: bool
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: answer is not None, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    if is_written:
        run(path, "--base", "qwen3-vl-4b")
    else:
        with pytest.raises(ParamsError, match=r"params\.yaml is unchanged"):
            run(path, "--base", "qwen3-vl-4b")
    assert (path.read_text() != SHIPPED) == is_written


def test_an_edit_made_while_init_waits_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def edit_and_confirm(prompt: str) -> str:
        path.write_text(SHIPPED + "# mine\n")
        return "y"

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", edit_and_confirm)
    with pytest.raises(ParamsError, match="changed meanwhile; run mondrian init again"):
        run(path, "--base", "qwen3-vl-4b")
    assert path.read_text() == SHIPPED + "# mine\n"


def test_the_link_the_mode_and_the_line_ends_of_the_file_stay(path: Path, tmp_path: Path) -> None:
    run(path, "--base", "qwen3-vl-4b", "--yes")
    written = path.read_bytes()
    path.write_bytes(SHIPPED.replace("\n", "\r\n").encode())
    path.chmod(0o600)
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    run(link, "--base", "qwen3-vl-4b", "--yes")
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == written.replace(b"\n", b"\r\n")


def test_a_file_that_is_not_writable_is_not_replaced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write any file
    with pytest.raises(ParamsError, match="is not writable"):
        run(path, "--base", "qwen3-vl-4b", "--yes")
    assert path.read_text() == SHIPPED


@pytest.mark.parametrize(
    "advisor",
    ["a/b", "../etc", "é", "x: y", "a\0b", "a\x1b[2J", "all", "a.b", "Ansel Adams", "o'keeffe"],
)
def test_an_advisor_that_params_yaml_cannot_name_is_refused(
    path: Path, make_db: Callable[..., Path], advisor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    database = make_db({"advisor": advisor}, {})
    choice = ["--advisor", advisor] if advisor == "all" else []
    with pytest.raises(DataError, match=r"finished jobs: \d.*--advisor") as error:
        run(path, "--db", database, "--yes", *choice)
    assert repr(advisor) in str(error.value)
    assert (path.read_text(), capsys.readouterr().out) == (SHIPPED, "")
    run(path, "--db", database, "--yes", "--advisor", "ansel")
    assert yaml.safe_load(path.read_text())["advisors"] == ["ansel"]


@pytest.mark.parametrize("flag", ["--source_dir", "--advisor"])
def test_flags_of_a_source_need_one(
    path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(path, "--base", "tiny", flag, "x")
    assert "need --db or --list" in capsys.readouterr().err


def test_the_csv_template_is_a_list_of_one_valid_critique(path: Path, tmp_path: Path) -> None:
    template = tmp_path / "photos/critiques.csv"
    run(path, "--csv_template", template)
    with open_source(template) as source:
        (job,) = source.iter_finished("ansel")
    parsed = parse_critique(job.text)
    assert isinstance(parsed, ParsedCritique)
    assert parsed.repairs == ("score_as_text",)  # as in any CSV
    with pytest.raises(DataError, match="exists; give another path"):
        run(path, "--csv_template", template)
    run(path, "--list", template.parent, "--yes")
    assert load_params(path).application.html_dir == "photos"
