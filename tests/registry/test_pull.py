"""Pulling: what serves is always a whole, verified version, whatever comes or goes wrong."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mondrian.core.errors import AdapterError, MondrianError, ReleaseError
from mondrian.core.params import Params
from mondrian.registry.download import Source
from mondrian.registry.local_store import Shelf
from mondrian.registry.pull import VersionSelector, pull
from mondrian.registry.rollback import roll_back
from mondrian.registry.version import parse_version
from tests.releasing import (
    Mac,
    Project,
    Trusting,
    copy_of,
    make_adapters,
    make_project,
    make_released,
)

pytestmark = pytest.mark.slow
VERSIONS = ("v1.0.0", "v1.1.0", "v2.0.0", "v3.0.0")


@pytest.fixture(scope="module")
def released(tiny: Any, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with four versions, two of them with a stage, all in a DVC remote beside it."""
    folder = tmp_path_factory.mktemp("released")
    made = make_adapters(tiny, folder / "adapters", params, len(VERSIONS))
    return make_released(folder / "project", dict(zip(VERSIONS, made, strict=True)))


@pytest.fixture
def mac(released: Project, params: Params, tmp_path: Path) -> Mac:
    shelf = Shelf(tmp_path / "serving" / "ansel", "ansel")
    return Mac(shelf, Source(str(released.folder)), params)


@contextmanager
def changed(file: Path, content: bytes | None) -> Iterator[None]:
    """A file of a repository or its remote with other bytes, or gone, for a while."""
    before, mode = file.read_bytes(), file.stat().st_mode
    file.chmod(0o644)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        file.write_bytes(before)
        file.chmod(mode)


def stored(project: Project, version: str, name: str) -> Path:
    """The object of the DVC remote that holds a file of a version."""
    record = json.loads(
        project.run("git", "show", f"ansel@{version}:releases/ansel/{version}.json")
    )
    size = next(piece["size"] for piece in record["files"] if piece["name"] == name)
    wanted = next(piece["sha256"] for piece in record["files"] if piece["name"] == name)
    from mondrian.core.files import file_hash

    store = project.folder.parent / "store"
    found = [path for path in store.rglob("*") if path.is_file() and path.stat().st_size == size]
    return next(path for path in found if file_hash(path) == wanted)


def test_a_version_is_put_to_use_and_the_one_before_stays(mac: Mac) -> None:
    assert mac.pull("v1").previous_version is None
    done = mac.pull("2")
    assert mac.serves() == "v2.0.0"
    assert str(done.previous_version) == "v1.0.0"
    assert done.downloaded_bytes == done.release.size > 10_000
    assert mac.shelf.current_link.readlink() == Path("versions/ansel@v2.0.0")
    assert json.loads((mac.shelf.current_link / "release.json").read_text())["version"] == "v2.0.0"
    assert mac.left() == []


def test_the_version_of_a_stage_is_the_last_that_was_given_it(mac: Mac) -> None:
    done = pull(mac.shelf, VersionSelector(None, "prod"), mac.source, mac.params, Trusting())
    assert done.release.version == mac.serves() == "v2.0.0"
    with pytest.raises(ReleaseError, match="no version of ansel is dev .there is canary, prod.;"):
        pull(mac.shelf, VersionSelector(None, "dev"), mac.source, mac.params, Trusting())
    with pytest.raises(ReleaseError, match="no version v9.0.0 .it has v1.0.0, v1.1.0, v2"):
        mac.pull("v9")


def test_the_service_finds_what_was_pulled(mac: Mac) -> None:
    from mondrian.core.adapter_folder import adapter_version
    from mondrian.serving.engines.adapter_watcher import find_adapters
    from mondrian.serving.worker.adapters import _version

    release = mac.pull("v1").release
    assert find_adapters(mac.shelf.folder.parent) == (
        {"ansel": mac.shelf.current_link.resolve()},
        [],
    )
    assert _version(mac.shelf.current_link) == adapter_version(mac.shelf.current_link)
    assert release.adapter_version == _version(mac.shelf.current_link)


def test_a_whole_version_is_not_downloaded_again(mac: Mac) -> None:
    mac.pull("v1")
    mac.pull("v2")
    inode = (mac.shelf.version_dir(parse_version("v1")) / "recipe.json").stat().st_ino
    assert mac.pull("v1").downloaded_bytes == 0
    assert mac.serves() == "v1.0.0"
    assert (mac.shelf.current_link / "recipe.json").stat().st_ino == inode
    entries = mac.shelf.entries()
    assert mac.pull("v1").downloaded_bytes == 0
    assert mac.shelf.entries() == entries  # nothing changed, nothing is on record


@pytest.mark.parametrize("name", ["recipe.json", "adapter_model.safetensors", "release.json"])
def test_a_version_that_was_damaged_here_is_mended_where_it_lies(mac: Mac, name: str) -> None:
    mac.pull("v1")
    file = mac.shelf.current_link / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (mac.shelf.current_link / "more.bin").write_text("more")
    assert mac.pull("v1").downloaded_bytes > 0
    assert mac.serves() == "v1.0.0"
    assert not (mac.shelf.current_link / "more.bin").exists()


def test_three_versions_stay_on_the_disk(mac: Mac) -> None:
    for version in VERSIONS:
        mac.pull(version)
    names = {path.name for path in (mac.shelf.folder / "versions").iterdir()}
    assert names == {"ansel@v1.1.0", "ansel@v2.0.0", "ansel@v3.0.0"}


def test_rolling_back_goes_through_what_served_before(mac: Mac) -> None:
    with pytest.raises(ReleaseError, match="nothing serves in .*; mondrian pull ansel first"):
        roll_back(mac.shelf)
    for version in VERSIONS[:3]:
        mac.pull(version)
    assert str(roll_back(mac.shelf).version) == mac.serves() == "v1.1.0"
    assert str(roll_back(mac.shelf).version) == mac.serves() == "v1.0.0"
    with pytest.raises(ReleaseError, match="no version served before ansel@v1.0.0"):
        roll_back(mac.shelf)
    mac.pull("v3")
    assert str(roll_back(mac.shelf).version) == mac.serves() == "v1.0.0"


def test_a_damaged_version_is_not_rolled_back_to(mac: Mac) -> None:
    mac.pull("v1")
    mac.pull("v2")
    file = mac.shelf.version_dir(parse_version("v1")) / "recipe.json"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(
        ReleaseError, match="v1.0.0 is damaged: recipe.json has .* bytes.*serves on"
    ):
        roll_back(mac.shelf)
    assert mac.serves() == "v2.0.0"
    release = mac.shelf.version_dir(parse_version("v1")) / "release.json"
    release.write_bytes(release.read_bytes().replace(b"BETTER", b"WORSER"))
    with pytest.raises(ReleaseError, match="release.json is not the one that was pulled"):
        roll_back(mac.shelf)
    assert mac.serves() == "v2.0.0"


def test_the_journal_survives_a_torn_line_and_a_pull_that_never_switched(mac: Mac) -> None:
    mac.pull("v1")
    mac.pull("v2")
    with mac.shelf.history_path.open("a") as file:  # a pull of v3, killed before its switch
        line = mac.shelf.history_path.read_text().splitlines()[1]
        file.write(line.replace("v2.0.0", "v3.0.0").replace("v1.0.0", "v2.0.0") + "\n" + line[:40])
    assert str(roll_back(mac.shelf).version) == mac.serves() == "v1.0.0"
    mac.pull("v2")
    assert str(roll_back(mac.shelf).version) == "v1.0.0"


@pytest.mark.parametrize("how", ["flip", "cut", "longer", "empty", "gone"])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "recipe.json"])
def test_a_bad_object_in_the_remote_changes_nothing(
    released: Project, mac: Mac, name: str, how: str
) -> None:
    mac.pull("v1")
    file = stored(released, "v2.0.0", name)
    content = file.read_bytes()
    middle = len(content) // 2
    bad = {
        "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "cut": content[:-1],
        "longer": content + b"\0" * 10_000_000,
        "empty": b"",
        "gone": None,
    }[how]
    with changed(file, bad), pytest.raises(ReleaseError, match=f"ansel@v2.0.0.*{name}.*dvc push"):
        mac.pull("v2")
    assert mac.serves() == "v1.0.0"
    assert mac.left() == []
    assert not mac.shelf.version_dir(parse_version("v2")).exists()
    mac.pull("v2")
    assert mac.serves() == "v2.0.0"


def test_what_the_canary_refuses_does_not_serve(mac: Mac) -> None:
    mac.pull("v1")
    with pytest.raises(ReleaseError, match="changes nothing"):
        mac.pull("v2", fault="ansel@v2.0.0 changes nothing")
    assert mac.serves() == "v1.0.0"
    assert mac.left() == []


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ({"personas": {"ansel": "You are another.", "okeefe": "o"}}, "trained on another prompt"),
        ({"image": {"max_pixels": 40960}}, "trained with image .*20480.*40960"),
    ],
)
def test_a_checkout_that_asks_otherwise_refuses(mac: Mac, what: dict[str, Any], told: str) -> None:
    asks = mac.params.model_dump()
    for section, values in what.items():
        asks[section] |= values
    with pytest.raises(AdapterError, match=f"ansel@v1.0.0 was {told}"):
        Mac(mac.shelf, mac.source, Params.model_validate(asks)).pull("v1")
    assert mac.serves() is None


def test_two_pulls_of_an_advisor_keep_apart(mac: Mac) -> None:
    with mac.shelf.lock(), pytest.raises(ReleaseError, match="another pull or rollback of ansel"):
        mac.pull("v1")
    mac.pull("v1")


def test_a_tag_that_was_moved_is_noticed(released: Project, mac: Mac, tmp_path: Path) -> None:
    mac.pull("v1")
    other = copy_of(released, tmp_path / "project")
    (other.folder / "releases/ansel/v1.0.0.json").write_bytes(
        other.run("git", "show", "HEAD:releases/ansel/v2.0.0.json").replace("v2.0", "v1.0").encode()
    )
    other.run("git", "commit", "-qam", "bad")
    other.run("git", "tag", "-f", "-a", "-m", "moved", "ansel@v1.0.0")
    source = Source(str(other.folder), remote_url=str(released.folder.parent / "store"))
    moved = Mac(mac.shelf, source, mac.params)
    with pytest.raises(ReleaseError, match="here and whole, and another .* Who moved the tag"):
        moved.pull("v1")
    assert mac.serves() == "v1.0.0"


def test_a_disk_that_is_too_full_is_seen_before(mac: Mac, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mondrian.registry.pull.MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(ReleaseError, match="MB are free; make room"):
        mac.pull("v1")
    assert mac.left() == []


def test_git_and_dvc_remote_are_enough(released: Project, params: Params, tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    released.run("git", "clone", "-q", "--bare", released.folder, bare)
    shelf = Shelf(tmp_path / "serving" / "ansel", "ansel")
    store = shutil.copytree(released.folder.parent / "store", tmp_path / "moved")
    url = Mac(shelf, Source(f"file://{bare}", remote_url=str(store)), params)
    assert url.pull("v1").release.version == url.serves() == "v1.0.0"
    with pytest.raises(ReleaseError, match="has no DVC remote other .it has store."):
        Mac(shelf, Source(str(bare), remote="other"), params).pull("v2")
    with pytest.raises(MondrianError, match="git fetch: .*nowhere"):
        Mac(shelf, Source(str(tmp_path / "nowhere")), params).pull("v2")


def test_a_repository_without_a_remote_gives_what_its_cache_holds(
    released: Project, mac: Mac, tmp_path: Path
) -> None:
    alone = copy_of(released, tmp_path / "project")
    alone.run("dvc", "remote", "remove", "store")
    assert Mac(mac.shelf, Source(str(alone.folder)), mac.params).pull("v1").downloaded_bytes > 0


def test_a_bare_repository_that_names_no_remote_is_told_of_one(
    tiny: Any, params: Params, tmp_path: Path
) -> None:
    adapter = make_adapters(tiny, tmp_path / "adapters", params, 1)[0]
    project = make_project(tmp_path / "project", adapter)
    project.release("v1")
    project.run("git", "clone", "-q", "--bare", project.folder, tmp_path / "bare.git")
    shelf = Shelf(tmp_path / "serving" / "ansel", "ansel")
    source = Source(str(tmp_path / "bare.git"))
    with pytest.raises(ReleaseError, match="names no DVC remote; give --remote_url URL, or there"):
        Mac(shelf, source, params).pull("v1")
    project.run("dvc", "remote", "add", "-q", "--default", "--local", "store", tmp_path / "store")
    project.run("dvc", "push", "-q", "train@ansel")
    with_url = Source(str(tmp_path / "bare.git"), remote_url=str(tmp_path / "store"))
    assert Mac(shelf, with_url, params).pull("v1").downloaded_bytes > 0
