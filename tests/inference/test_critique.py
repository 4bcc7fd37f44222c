"""mondrian critique on mondrian-tiny: every file, killed runs, both arms, sidecars, versions."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from PIL import Image

from mondrian.cli.critique import main
from mondrian.core.errors import AdapterError, DataError, MondrianError
from mondrian.core.images import read_photo, resize_to_fit
from mondrian.core.params import Params
from mondrian.critique.prompt import build_row_messages
from mondrian.model.adapter import load
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.generate import generate
from mondrian.model.vlm import encode_image, tokenize_prompt
from mondrian.sample.photos import write_photo, write_raw
from tests.conftest import ROOT, assert_one_error
from tests.waiting import PATIENCE, wait_for

NUM_PHOTOS = 10
NUM_FILES = NUM_PHOTOS + 1  # of photos; one is a copy
OUTPUTS = ("critiques.jsonl", "critiques.csv", "gallery.html")


def write_broken(folder: Path) -> None:
    """Write ten files that cannot be critiqued."""
    photo = (folder / "IMG_01.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(photo[: len(photo) // 2])
    (folder / "header.jpg").write_bytes(photo[:200])
    (folder / "empty.jpg").touch()
    (folder / "zeros.jpg").write_bytes(bytes(5000))
    (folder / "text.jpg").write_text("not a photo")
    (folder / "notes.txt").write_text("notes")
    (folder / "movie.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    Image.new("RGB", (640, 480), "gray").save(folder / "blank.png")
    Image.new("RGB", (40, 40), "gray").save(folder / "tiny.png")
    write_raw(folder / "IMG_02.jpg", folder / "raw.dng")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("critique") / "photos"
    (folder / "more").mkdir(parents=True)
    for i in range(NUM_PHOTOS):
        write_photo((11, i, folder / ("more" if i % 3 == 0 else "") / f"IMG_{i:02}.jpg"))
    shutil.copy(folder / "IMG_01.jpg", folder / "more" / "IMG_copy.jpg")
    write_broken(folder)
    return folder


@pytest.fixture(scope="module")
def params_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings with small batches, so that a run can be killed between two."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["evaluate"]["batch_size"] = 2
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def make_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mondrian", "critique", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        make_command(*arguments, "--advisor", "ansel"),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
    )


@pytest.fixture(scope="module")
def adapter(adapters: Path) -> Path:
    return adapters / "mondrian-tiny-lora-ansel"


@pytest.fixture(scope="module")
def complete(folder: Path, adapter: Path, params_file: Path) -> Path:
    """The output of a run that was not interrupted."""
    output = folder.parent / "complete"
    done = run(folder, "--adapter", adapter, "--output", output, "--params", params_file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"10 files skipped: {output}/gallery.html")
    return output


def read_table(output: Path) -> list[dict[str, str]]:
    with (output / "critiques.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_file_is_critiqued_or_skipped_with_a_reason(folder: Path, complete: Path) -> None:
    rows = read_table(complete)
    files = {str(path) for path in folder.rglob("*") if path.is_file()}
    assert {row["photo"] for row in rows} == files
    assert len(rows) == NUM_FILES + 10
    scores = [float(row["overall_score"]) for row in rows if row["overall_score"]]
    assert len(scores) == NUM_FILES
    assert scores == sorted(scores, reverse=True)
    reasons = {Path(row["photo"]).name: row["skipped"].split(":")[0] for row in rows[NUM_FILES:]}
    assert reasons == {
        "blank.png": "image_blank",
        "cut.jpg": "image_unreadable",
        "empty.jpg": "image_unreadable",
        "header.jpg": "image_unreadable",
        "movie.mp4": "not_a_photo",
        "notes.txt": "not_a_photo",
        "raw.dng": "image_raw",
        "text.jpg": "image_unreadable",
        "tiny.png": "image_too_small",
        "zeros.jpg": "image_unreadable",
    }


@pytest.mark.slow
def test_critiques_are_those_of_evaluation(
    complete: Path, adapter: Path, params: Params, base_vlm: Any
) -> None:
    """The image is loaded, encoded and asked alone, not in batches."""
    limits = (params.image.min_pixels, params.image.max_pixels)
    messages = build_row_messages(params.persona("ansel"), "")[:-1]
    size, max_tokens = base_vlm.model.config.text_config.vocab_size, params.evaluate.max_new_tokens
    grammar = CritiqueGrammar(base_vlm.processor.tokenizer, size, max_tokens)
    load(base_vlm.model, base_vlm.hash, adapter)
    for line in (complete / "critiques.jsonl").read_text().splitlines()[:2]:
        record = json.loads(line)
        image = resize_to_fit(read_photo(Path(record["photo"])), *limits)
        features = encode_image(base_vlm, image)
        prompt = tokenize_prompt(base_vlm, messages, features)
        answer = generate(base_vlm, [prompt], [features], SamplingParams(max_tokens, 1, grammar))
        assert json.loads(answer[0].text) == record["critique"]


@pytest.mark.slow
def test_a_killed_run_continues_and_ends_with_the_same_files(
    folder: Path, adapter: Path, params_file: Path, complete: Path, tmp_path: Path
) -> None:
    output = folder.parent / "killed"
    arguments = (folder, "--adapter", adapter, "--output", output, "--params", params_file)
    log = output / "critiques.jsonl"
    with subprocess.Popen(make_command(*arguments, "--advisor", "ansel"), cwd=ROOT) as process:
        wait_for(lambda: log.exists() and log.read_bytes().count(b"\n") >= 3)
        process.kill()
    assert not (output / "gallery.html").exists()
    finished = log.read_bytes().count(b"\n")
    assert finished < NUM_PHOTOS
    log.write_bytes(log.read_bytes()[:-40])  # and its last line was not written completely
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert f" {NUM_PHOTOS - finished + 1} new critiques" in done.stdout
    for name in OUTPUTS:
        assert (output / name).read_bytes() == (complete / name).read_bytes(), name
    again = run(*arguments)
    assert " 0 new critiques" in again.stdout
    for name in OUTPUTS:
        assert (output / name).read_bytes() == (complete / name).read_bytes(), name


@pytest.mark.slow
def test_compare_asks_only_the_base_and_sidecars_are_written_next_to_photos(
    folder: Path, adapter: Path, params_file: Path, complete: Path, tmp_path: Path
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(folder, photos)
    shutil.copytree(complete, output)
    (photos / "IMG_04.xmp").write_text("<damaged")
    before = {p: p.read_bytes() for p in photos.rglob("*") if p.is_file()}
    arguments = (photos, "--adapter", adapter, "--output", output, "--params", params_file)
    done = run(*arguments, "--compare", "--sidecar")
    assert done.returncode == 0, done.stderr
    assert f" {NUM_PHOTOS} new critiques" in done.stdout
    assert f"{NUM_FILES - 1} XMP sidecars" in done.stdout
    assert "IMG_04.xmp: not XML" in done.stdout
    assert {p: p.read_bytes() for p in before} == before
    sidecars = {p for p in photos.rglob("*.xmp")}
    assert len(sidecars) == NUM_FILES
    assert sidecars == {p.with_suffix(".xmp") for p in photos.rglob("IMG_*.jpg")}
    records = [json.loads(line) for line in (output / "critiques.jsonl").read_text().splitlines()]
    assert [record["arm"] for record in records] == ["fine_tuned", "base"] * NUM_PHOTOS
    assert {record["adapter"] for record in records if record["arm"] == "base"} == {""}
    rows = read_table(output)
    assert sum(bool(row["base overall_score"]) for row in rows) == NUM_FILES
    assert sum(row["skipped"].startswith("sidecar") for row in rows) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["stages"], r"no photo to critique: .*evaluate\.py \(not_a_photo\), .* more\)"),
        (["stages", "--output", "README.md"], "README.md, which is a file; give a folder"),
        (["stages", "--compare"], "leave out --base"),
    ],
)
def test_a_mistake_is_explained_before_a_model_is_loaded(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(MondrianError, match=message):
        main(["--output", str(tmp_path), "--advisor", "ansel", "--base", *arguments])


def test_a_folder_that_is_no_adapter_is_explained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="has no recipe.json"):
        main([str(folder), f"--adapter={folder}", "--advisor=ansel", f"--output={tmp_path}"])


@pytest.mark.slow
def test_an_error_is_one_line() -> None:
    assert_one_error(run("stages", "--version", "v9"), "ansel@v9.0.0 is not in", "mondrian pull")


def test_two_runs_do_not_write_into_one_folder(folder: Path, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(DataError, match="another run writes"):
        main([str(folder), "--base", "--advisor=ansel", f"--output={tmp_path}"])
