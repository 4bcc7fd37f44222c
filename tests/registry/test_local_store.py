"""Versions on a serving machine: whole or not, what served, what stays; and their names."""

import json
import os
import random
from pathlib import Path

import pytest
import yaml

from mondrian.core.errors import ReleaseError
from mondrian.registry.dvc_artifacts import add_artifact
from mondrian.registry.history import HistoryEntry, append, read_history, select_retained
from mondrian.registry.local_store import CONTROL_LINK, Shelf, check_integrity, read_local_record
from mondrian.registry.release_record import Release, read_record
from mondrian.registry.version import Version, check_name, parse_new_version, parse_version
from tests.conftest import ROOT
from tests.releasing import some_release

V1, V2 = parse_version("v1"), parse_version("v2")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """v1 served, v2 serves."""
    made = Shelf(tmp_path / "serving" / "ansel", "ansel")
    before: tuple[str, ...] = ()
    for version in (V1, V2):
        some_release(made.version_dir(version), str(version))
        record = (made.version_dir(version) / "release.json").read_bytes()
        made.activate(version, record, "pull", before)
        before = (str(version),)
    return made


def release_of(shelf: Shelf, version: Version) -> Release:
    return read_local_record(shelf, version)[1]


@pytest.mark.parametrize(
    ("asked", "version"),
    [
        ("v2", "v2.0.0"),
        ("2.1", "v2.1.0"),
        ("v2.1.3", "v2.1.3"),
        ("0", "v0.0.0"),
    ],
)
def test_a_version_may_be_given_short(asked: str, version: str) -> None:
    assert str(parse_version(asked)) == version


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "v",
        "two",
        "v2.",
        "v1.2.3.4",
        "v01",
        "-1",
        "v2-rc1",
        "v²",
        "v1 ",
        "../v1",
        "latest",
        "v" + "9" * 30,
    ],
)
def test_what_is_no_version_is_named(asked: str) -> None:
    with pytest.raises(ReleaseError, match="is no version; give one such as v2"):
        parse_version(asked)


def test_a_version_is_new_and_higher() -> None:
    known = [parse_version(v) for v in ("v1", "v1.9", "v1.10")]
    assert str(parse_new_version("ansel", "v2", known)) == "v2.0.0"
    with pytest.raises(ReleaseError, match="v1.9.0 exists; the next free .* v1.10.1 or v2.0.0"):
        parse_new_version("ansel", "v1.9", known)
    with pytest.raises(ReleaseError, match="v1.2.0 is below v1.10.0, which exists"):
        parse_new_version("ansel", "v1.2", known)


@pytest.mark.parametrize("name", ["ansel.adams", "ansel_", "-a", "a/b", "", "å", "a b", "ansel\n"])
def test_a_name_that_gto_cannot_tag_is_refused(name: str) -> None:
    with pytest.raises(ReleaseError, match="cannot be part of a tag: letters, digits"):
        check_name(name)


def test_no_byte_of_a_version_can_be_another(shelf: Shelf) -> None:
    release, folder = release_of(shelf, V2), shelf.current_link
    checked = 0
    for piece in release.files:
        file = folder / piece.name
        whole = file.read_bytes()
        with file.open("r+b", buffering=0) as changing:
            for place in range(len(whole)):
                for bit in (1, 128):
                    os.pwrite(changing.fileno(), bytes([whole[place] ^ bit]), place)
                    with pytest.raises(ReleaseError, match=f"damaged: {piece.name} has sha256"):
                        check_integrity(folder, release)
                os.pwrite(changing.fileno(), whole[place : place + 1], place)
                checked += 1
    check_integrity(folder, release)
    assert checked == release.size


def test_no_byte_of_its_record_can_be_another(shelf: Shelf) -> None:
    file = shelf.current_link / "release.json"
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ReleaseError, match="is not the one that was pulled"):
            read_local_record(shelf, V2)


@pytest.mark.parametrize("size", [0, 1, 20])
def test_a_file_that_was_cut_is_named_with_its_size(shelf: Shelf, size: int) -> None:
    os.truncate(shelf.current_link / "recipe.json", size)
    with pytest.raises(ReleaseError, match=f"recipe.json has {size} bytes, 22 were released"):
        check_integrity(shelf.current_link, release_of(shelf, V2))


def test_a_folder_holds_what_was_released_and_nothing_else(shelf: Shelf) -> None:
    release = release_of(shelf, V2)
    (shelf.current_link / "extra.py").write_text("")
    with pytest.raises(ReleaseError, match=r"damaged: extra.py is no part of it"):
        check_integrity(shelf.current_link, release)
    (shelf.current_link / "extra.py").unlink()
    file = shelf.current_link / "recipe.json"
    file.replace(shelf.folder / "elsewhere.json")
    with pytest.raises(ReleaseError, match=r"recipe.json is missing"):
        check_integrity(shelf.current_link, release)
    file.symlink_to(shelf.folder / "elsewhere.json")
    with pytest.raises(ReleaseError, match=r"recipe.json is no plain file"):
        check_integrity(shelf.current_link, release)


@pytest.mark.parametrize(
    "name",
    [
        "../recipe.json",
        "/etc/passwd",
        "a/b.json",
        "",
        ".hidden",
        "..",
        "release.json",
        "RELEASE.JSON",
        "Recipe.json",
    ],
)
def test_a_record_names_no_file_elsewhere(shelf: Shelf, name: str) -> None:
    told = json.loads((shelf.current_link / "release.json").read_text())
    told["files"].append(told["files"][0] | {"name": name})
    with pytest.raises(ReleaseError, match="is damaged, or of another version of Mondrian"):
        read_record(json.dumps(told).encode(), "ansel", V2, "v2.0.0.json")


@pytest.mark.parametrize("path", ["../other", "/etc", "models/../../x", "-x", "a//b"])
def test_a_record_names_no_folder_elsewhere(shelf: Shelf, path: str) -> None:
    told = json.loads((shelf.current_link / "release.json").read_text()) | {"path": path}
    with pytest.raises(ReleaseError, match="is damaged, or of another version of Mondrian"):
        read_record(json.dumps(told).encode(), "ansel", V2, "v2.0.0.json")


def test_a_record_is_of_the_version_that_is_asked_for(shelf: Shelf) -> None:
    content = (shelf.current_link / "release.json").read_bytes()
    with pytest.raises(ReleaseError, match="v1.0.0.json is of ansel@v2.0.0"):
        read_record(content, "ansel", V1, "v1.0.0.json")


def test_a_link_is_replaced_at_once(shelf: Shelf) -> None:
    assert shelf.serving_version() == V2
    assert os.readlink(shelf.current_link) == "versions/ansel@v2.0.0"
    assert [entry.version for entry in shelf.entries()] == ["v1.0.0", "v2.0.0"]


def test_a_journal_that_was_torn_anywhere_is_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    entries = [HistoryEntry("t", f"v{i}.0.0", "0" * 64, "pull", ()) for i in range(3)]
    for entry in entries[:2]:
        append(path, entry)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        append(path, entries[2])
        found = read_history(path)
        assert found[-1] == entries[2]
        assert (entries[0] in found) == (cut >= first - 1)  # whole without its end of line too


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "[]",
        "{}",
        "1" * 5000,
        '{"at": 1}',
        "\xff",
        '{"at":1,"version":"v1","record":"","how":"","before":[]}',
    ],
)
def test_a_line_that_is_no_entry_is_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(line + "\n", encoding="latin-1")
    assert read_history(path) == []


def test_versions_that_served_last_and_before_stay() -> None:
    def entry(version: str, *before: str) -> HistoryEntry:
        return HistoryEntry("t", version, "0" * 64, "pull", before)

    entries = [entry("a"), entry("b", "a"), entry("c", "b", "a"), entry("d", "c", "b")]
    assert select_retained("d", entries) == {"b", "c", "d"}
    assert select_retained("a", [*entries, entry("a")]) == {"a", "c", "d"}  # after three roll-backs


def test_pruning_takes_old_versions_and_nothing_else(shelf: Shelf) -> None:
    for version in ("v3", "v4"):
        some_release(shelf.version_dir(parse_version(version)), f"{version}.0.0")
        record = (shelf.version_dir(parse_version(version)) / "release.json").read_bytes()
        shelf.activate(parse_version(version), record, "pull", (str(shelf.serving_version()),))
    (shelf.folder / "versions" / "notes").mkdir()
    (shelf.folder / "versions" / "okeefe@v1.0.0").mkdir()
    shelf.prune(parse_version("v4"))
    names = {path.name for path in (shelf.folder / "versions").iterdir()}
    assert names == {"ansel@v2.0.0", "ansel@v3.0.0", "ansel@v4.0.0", "notes", "okeefe@v1.0.0"}
    (shelf.folder / CONTROL_LINK).symlink_to(
        "versions/ansel@v2.0.0"
    )  # a service answers with it still
    some_release(shelf.version_dir(parse_version("v5")), "v5.0.0")
    record = (shelf.version_dir(parse_version("v5")) / "release.json").read_bytes()
    shelf.activate(parse_version("v5"), record, "pull", ("v4.0.0", "v3.0.0"))
    shelf.prune(parse_version("v5"))
    kept_here = {path.name for path in (shelf.folder / "versions").iterdir()}
    assert kept_here == names | {"ansel@v5.0.0"}


def test_an_entry_is_added_to_dvc_yaml_and_all_else_stays() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    bare = text.split("\n# Versions: mondrian release")[0].rstrip() + "\n"
    once = add_artifact(bare, "ansel")
    assert once.startswith(bare)
    assert add_artifact(once, "ansel") == once
    twice = add_artifact(once, "okeefe")
    assert [line for line in once.splitlines() if line not in twice.splitlines()] == []
    found = yaml.safe_load(twice)
    assert found["stages"] == yaml.safe_load(text)["stages"]
    assert set(found["artifacts"]) == {"ansel", "okeefe"}
    assert found["artifacts"]["okeefe"]["path"] == "models/${base.name}-lora-okeefe"
    assert found["artifacts"]["okeefe"]["type"] == "model"


@pytest.mark.parametrize("artifacts", ["artifacts: {other: {path: x}}\n", "artifacts: # none\n"])
def test_an_entry_joins_others_or_is_refused(artifacts: str) -> None:
    text = "stages:\n  train: {outs: [models/a]}\n" + artifacts
    if "{" in artifacts:
        with pytest.raises(ReleaseError, match="written in a way that cannot be added to"):
            add_artifact(text, "ansel")
    else:
        assert (
            yaml.safe_load(add_artifact(text, "ansel"))["artifacts"]["ansel"]["path"] == "models/a"
        )


def test_a_random_history_never_rolls_back_to_what_was_not_before(tmp_path: Path) -> None:
    from mondrian.registry.rollback import roll_back

    rng = random.Random(3)
    shelf = Shelf(tmp_path / "ansel", "ansel")
    stack: list[str] = []
    for _ in range(60):
        if rng.random() < 0.3 and len(stack) > 1:
            stack.pop()
            assert str(roll_back(shelf).version) == stack[-1]
        else:
            version = parse_version(f"v{rng.randrange(6)}")
            if str(version) in stack[-1:]:
                continue
            if not shelf.version_dir(version).exists():
                some_release(shelf.version_dir(version), str(version))
            record = (shelf.version_dir(version) / "release.json").read_bytes()
            stack = [v for v in stack if v != str(version)]
            shelf.activate(version, record, "pull", tuple(reversed(stack)))
            stack = [*stack, str(version)][-3:]
        assert str(shelf.serving_version()) == stack[-1]
        shelf.prune(parse_version(stack[-1]))
