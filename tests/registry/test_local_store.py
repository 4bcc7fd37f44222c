"""Versions on a serving machine: integrity, history, pruning; version numbers and names."""

import json
import os
import random
from pathlib import Path

import pytest
import yaml

from mondrian.core.errors import ReleaseError
from mondrian.registry.local_store import (
    CONTROL_LINK,
    HistoryEntry,
    LocalStore,
    append_history,
    check_integrity,
    read_history,
    read_local_record,
    select_retained,
)
from mondrian.registry.pull import activate_previous
from mondrian.registry.release import add_artifact
from mondrian.registry.release_record import Release, read_record
from mondrian.registry.version import Version, check_name, parse_new_version, parse_version
from tests.conftest import ROOT
from tests.releasing import write_release

V1, V2 = parse_version("v1"), parse_version("v2")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Return a store in which v1 was active before v2."""
    local_store = LocalStore(tmp_path / "serving" / "ansel", "ansel")
    install_and_activate(local_store, V1)
    install_and_activate(local_store, V2, str(V1))
    return local_store


def install_and_activate(store: LocalStore, version: Version, *before: str) -> None:
    folder = store.version_folder(version)
    if not folder.exists():
        write_release(folder, str(version))
    store.activate(version, (folder / "release.json").read_bytes(), "pull", before)


def read_release(store: LocalStore, version: Version) -> Release:
    return read_local_record(store, version)[1]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("v2", "v2.0.0"),
        ("2.1", "v2.1.0"),
        ("v2.1.3", "v2.1.3"),
        ("0", "v0.0.0"),
    ],
)
def test_a_version_may_be_abbreviated(text: str, version: str) -> None:
    assert str(parse_version(text)) == version


@pytest.mark.parametrize(
    "text",
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
def test_text_that_is_not_a_version_is_refused(text: str) -> None:
    with pytest.raises(ReleaseError, match="is not a version; give one such as v2"):
        parse_version(text)


def test_a_new_version_must_be_higher() -> None:
    known = [parse_version(v) for v in ("v1", "v1.9", "v1.10")]
    assert str(parse_new_version("ansel", "v2", known)) == "v2.0.0"
    with pytest.raises(ReleaseError, match="v1.9.0 exists; the next free .* v1.10.1 or v2.0.0"):
        parse_new_version("ansel", "v1.9", known)
    with pytest.raises(ReleaseError, match="v1.2.0 is below v1.10.0, which exists"):
        parse_new_version("ansel", "v1.2", known)


@pytest.mark.parametrize("name", ["ansel.adams", "ansel_", "-a", "a/b", "", "å", "a b", "ansel\n"])
def test_a_name_that_gto_cannot_tag_is_refused(name: str) -> None:
    with pytest.raises(ReleaseError, match="cannot be part of a tag: use letters, digits"):
        check_name(name)


def test_a_change_of_any_byte_of_a_version_is_detected(store: LocalStore) -> None:
    release, folder = read_release(store, V2), store.current_link
    checked = 0
    for released in release.files:
        file = folder / released.name
        content = file.read_bytes()
        with file.open("r+b", buffering=0) as opened:
            for offset in range(len(content)):
                for bit in (1, 128):
                    os.pwrite(opened.fileno(), bytes([content[offset] ^ bit]), offset)
                    with pytest.raises(ReleaseError, match=f"damaged: {released.name} has sha256"):
                        check_integrity(folder, release)
                os.pwrite(opened.fileno(), content[offset : offset + 1], offset)
                checked += 1
    check_integrity(folder, release)
    assert checked == release.size


def test_a_change_of_any_byte_of_the_record_is_detected(store: LocalStore) -> None:
    file = store.current_link / "release.json"
    content = file.read_bytes()
    for i in range(len(content)):
        file.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        with pytest.raises(ReleaseError, match="is not the one that was pulled"):
            read_local_record(store, V2)


def test_what_systems_put_into_a_store_damages_no_version(store: LocalStore) -> None:
    release = read_release(store, V2)
    names = (".DS_Store", "Thumbs.db", "desktop.ini", ".nfs000000001", "._recipe.json")
    for folder in (store.folder, store.folder / "versions", store.current_link):
        for name in names:
            (folder / name).write_bytes(b"x")
    (store.folder / "versions" / f"._{store.advisor}@v1.0.0").touch()
    check_integrity(store.current_link, release)
    store.prune(V2)
    assert read_local_record(store, V2)[1] == release
    assert (store.folder / "versions/.DS_Store").exists()


@pytest.mark.parametrize("size", [0, 1, 20])
def test_a_truncated_file_is_named_with_its_size(store: LocalStore, size: int) -> None:
    os.truncate(store.current_link / "recipe.json", size)
    with pytest.raises(ReleaseError, match=f"recipe.json has {size} bytes, 22 were released"):
        check_integrity(store.current_link, read_release(store, V2))


def test_a_folder_must_have_exactly_the_released_files(store: LocalStore) -> None:
    release = read_release(store, V2)
    (store.current_link / "extra.py").write_text("")
    with pytest.raises(ReleaseError, match=r"damaged: extra.py is not part of it"):
        check_integrity(store.current_link, release)
    (store.current_link / "extra.py").unlink()
    file = store.current_link / "recipe.json"
    file.replace(store.folder / "elsewhere.json")
    with pytest.raises(ReleaseError, match=r"recipe.json is missing"):
        check_integrity(store.current_link, release)
    file.symlink_to(store.folder / "elsewhere.json")
    with pytest.raises(ReleaseError, match=r"recipe.json is not a regular file"):
        check_integrity(store.current_link, release)


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
def test_a_record_cannot_name_a_file_outside_its_folder(store: LocalStore, name: str) -> None:
    record = json.loads((store.current_link / "release.json").read_text())
    record["files"].append(record["files"][0] | {"name": name})
    with pytest.raises(ReleaseError, match="is damaged, or of another version of Mondrian"):
        read_record(json.dumps(record).encode(), "ansel", V2, "v2.0.0.json")


@pytest.mark.parametrize("path", ["../other", "/etc", "models/../../x", "-x", "a//b"])
def test_a_record_cannot_name_a_folder_outside_the_repository(store: LocalStore, path: str) -> None:
    record = json.loads((store.current_link / "release.json").read_text()) | {"path": path}
    with pytest.raises(ReleaseError, match="is damaged, or of another version of Mondrian"):
        read_record(json.dumps(record).encode(), "ansel", V2, "v2.0.0.json")


def test_a_record_must_be_of_the_requested_version(store: LocalStore) -> None:
    content = (store.current_link / "release.json").read_bytes()
    with pytest.raises(ReleaseError, match="v1.0.0.json is of ansel@v2.0.0"):
        read_record(content, "ansel", V1, "v1.0.0.json")


def test_activation_replaces_the_link_and_extends_the_history(store: LocalStore) -> None:
    assert store.active_version() == V2
    assert os.readlink(store.current_link) == "versions/ansel@v2.0.0"
    assert [entry.version for entry in store.entries()] == ["v1.0.0", "v2.0.0"]


def test_a_history_cut_short_anywhere_can_be_read_and_extended(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    entries = [history_entry(f"v{i}.0.0") for i in range(3)]
    for entry in entries[:2]:
        append_history(path, entry)
    content = path.read_bytes()
    first_line_end = content.index(b"\n")
    for size in range(len(content)):
        path.write_bytes(content[:size])
        append_history(path, entries[2])
        history = read_history(path)
        assert history[-1] == entries[2]
        assert (entries[0] in history) == (size >= first_line_end)  # the newline is not needed


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "[]",
        "{}",
        "1" * 5000,
        '{"activated_at": 1}',
        "\xff",
        '{"activated_at":1,"version":"v1","record":"","action":"","before":[]}',
    ],
)
def test_a_line_that_is_not_an_entry_is_skipped(tmp_path: Path, line: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(line + "\n", encoding="latin-1")
    assert read_history(path) == []


def history_entry(version: str, *before: str) -> HistoryEntry:
    return HistoryEntry(
        activated_at="t", version=version, record="0" * 64, action="pull", before=before
    )


def test_the_latest_and_the_previous_versions_are_retained() -> None:
    entries = [history_entry("a"), history_entry("b", "a"), history_entry("c", "b", "a")]
    entries.append(history_entry("d", "c", "b"))
    assert select_retained("d", entries) == {"b", "c", "d"}
    after_three_rollbacks = [*entries, history_entry("a")]
    assert select_retained("a", after_three_rollbacks) == {"a", "c", "d"}


def test_pruning_removes_old_versions_only(store: LocalStore) -> None:
    for version in ("v3", "v4"):
        install_and_activate(store, parse_version(version), str(store.active_version()))
    (store.folder / "versions" / "notes").mkdir()
    (store.folder / "versions" / "okeefe@v1.0.0").mkdir()
    store.prune(parse_version("v4"))
    names = {path.name for path in (store.folder / "versions").iterdir()}
    assert names == {"ansel@v2.0.0", "ansel@v3.0.0", "ansel@v4.0.0", "notes", "okeefe@v1.0.0"}
    (store.folder / CONTROL_LINK).symlink_to("versions/ansel@v2.0.0")  # the control of a rollout
    install_and_activate(store, parse_version("v5"), "v4.0.0", "v3.0.0")
    store.prune(parse_version("v5"))
    remaining = {path.name for path in (store.folder / "versions").iterdir()}
    assert remaining == names | {"ansel@v5.0.0"}


def test_an_artifact_is_added_to_dvc_yaml_and_the_rest_is_unchanged() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    bare = text.split("\n# Versions: mondrian release")[0].rstrip() + "\n"
    once = add_artifact(bare, "ansel")
    assert once.startswith(bare)
    assert add_artifact(once, "ansel") == once
    twice = add_artifact(once, "okeefe")
    assert [line for line in once.splitlines() if line not in twice.splitlines()] == []
    pipeline = yaml.safe_load(twice)
    assert pipeline["stages"] == yaml.safe_load(text)["stages"]
    assert set(pipeline["artifacts"]) == {"ansel", "okeefe"}
    assert pipeline["artifacts"]["okeefe"]["path"] == "models/${base.name}-lora-okeefe"
    assert pipeline["artifacts"]["okeefe"]["type"] == "model"


@pytest.mark.parametrize("artifacts", ["artifacts: {other: {path: x}}\n", "artifacts: # none\n"])
def test_an_artifact_joins_others_or_is_refused(artifacts: str) -> None:
    text = "stages:\n  train: {outs: [models/a]}\n" + artifacts
    if "{" in artifacts:
        with pytest.raises(ReleaseError, match="written in a form that cannot be extended"):
            add_artifact(text, "ansel")
    else:
        pipeline = yaml.safe_load(add_artifact(text, "ansel"))
        assert pipeline["artifacts"]["ansel"]["path"] == "models/a"


def test_a_rollback_always_activates_the_previous_version(tmp_path: Path) -> None:
    rng = random.Random(3)
    store = LocalStore(tmp_path / "ansel", "ansel")
    stack: list[str] = []
    for _ in range(60):
        if rng.random() < 0.3 and len(stack) > 1:
            stack.pop()
            assert str(activate_previous(store).version) == stack[-1]
        else:
            version = parse_version(f"v{rng.randrange(6)}")
            if str(version) in stack[-1:]:
                continue
            stack = [v for v in stack if v != str(version)]
            install_and_activate(store, version, *reversed(stack))
            stack = [*stack, str(version)][-3:]
        assert str(store.active_version()) == stack[-1]
        store.prune(parse_version(stack[-1]))
