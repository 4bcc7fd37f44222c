"""Pull and rollback: the active version is always complete and verified, whatever fails."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mondrian.core.adapter_folder import adapter_version
from mondrian.core.errors import AdapterError, MondrianError, ReleaseError
from mondrian.core.files import file_hash
from mondrian.core.params import Params
from mondrian.registry.download import VersionSource, fetch_tags
from mondrian.registry.local_store import LocalStore
from mondrian.registry.pull import VersionSelector, activate_previous, pull
from mondrian.registry.version import parse_version
from tests.releasing import (
    Mac,
    Project,
    copy_project,
    make_adapters,
    make_key,
    make_project,
    make_released,
    pass_smoke_test,
)

pytestmark = pytest.mark.slow
VERSIONS = ("v1.0.0", "v1.1.0", "v2.0.0", "v3.0.0")


@pytest.fixture(scope="module")
def released(tiny: Any, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Create a project with four versions, two of them with a stage, all in its DVC remote."""
    folder = tmp_path_factory.mktemp("released")
    adapters = make_adapters(tiny, folder / "adapters", params, len(VERSIONS))
    versions = dict(zip(VERSIONS, adapters, strict=True))
    keys = {}
    if shutil.which("ssh-keygen"):
        keys = {"v2.0.0": make_key(folder / "ann"), "v3.0.0": make_key(folder / "eve")}
    return make_released(folder / "project", versions, keys)


@pytest.fixture
def key(released: Project) -> Path:
    """Return the public key with which v2 is signed; v3 is by a stranger, v1 not signed."""
    public = released.folder.parent / "ann.pub"
    if not public.exists():
        pytest.skip("there is no ssh-keygen")
    return public


@pytest.fixture
def mac(released: Project, params: Params, tmp_path: Path) -> Mac:
    store = LocalStore(tmp_path / "serving" / "ansel", "ansel")
    return Mac(store, VersionSource(str(released.folder)), params)


@contextmanager
def changed(file: Path, content: bytes | None) -> Iterator[None]:
    """Replace or remove a file of a repository or its remote, and restore it on exit."""
    original, mode = file.read_bytes(), file.stat().st_mode
    file.chmod(0o644)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        file.write_bytes(original)
        file.chmod(mode)


def remote_object(project: Project, version: str, name: str) -> Path:
    """Return the object of a version's file in the DVC remote."""
    record = json.loads(
        project.run("git", "show", f"ansel@{version}:releases/ansel/{version}.json")
    )
    file = next(file for file in record["files"] if file["name"] == name)
    paths = [path for path in (project.folder.parent / "store").rglob("*") if path.is_file()]
    return next(path for path in paths if file_hash(path) == file["sha256"])


def test_a_pulled_version_is_activated_and_the_previous_is_reported(mac: Mac) -> None:
    assert mac.pull("v1").previous_version is None
    result = mac.pull("2")
    assert mac.active() == "v2.0.0"
    assert str(result.previous_version) == "v1.0.0"
    assert result.downloaded_bytes == result.release.size > 10_000
    assert mac.store.current_link.readlink() == Path("versions/ansel@v2.0.0")
    assert json.loads((mac.store.current_link / "release.json").read_text())["version"] == "v2.0.0"
    assert mac.leftovers() == []


def test_the_version_of_a_stage_is_the_last_that_was_promoted_to_it(mac: Mac) -> None:
    prod, dev = VersionSelector(None, "prod"), VersionSelector(None, "dev")
    result = pull(mac.store, prod, mac.source, mac.params, pass_smoke_test)
    assert result.release.version == mac.active() == "v2.0.0"
    with pytest.raises(ReleaseError, match="no version of ansel is dev .there is canary, prod.;"):
        pull(mac.store, dev, mac.source, mac.params, pass_smoke_test)
    with pytest.raises(ReleaseError, match="no version v9.0.0 .it has v1.0.0, v1.1.0, v2"):
        mac.pull("v9")


def test_a_repository_whose_head_names_a_branch_that_was_never_pushed(
    released: Project, tmp_path: Path
) -> None:
    bare = tmp_path / "share.git"
    released.run("git", "init", "-q", "--bare", bare)
    released.run("git", "-C", bare, "symbolic-ref", "HEAD", "refs/heads/other")
    released.run("git", "push", "-q", bare, "HEAD:refs/heads/main", "ansel@v1.0.0")
    fetch_tags(VersionSource(str(bare)), "ansel", tmp_path / "tags")
    assert released.run("git", "-C", tmp_path / "tags", "tag") == "ansel@v1.0.0\n"


def test_the_service_finds_the_pulled_version(mac: Mac) -> None:
    from mondrian.serving.engines.adapter_watcher import find_adapters
    from mondrian.serving.worker.adapters import _read_version

    release = mac.pull("v1").release
    assert find_adapters(mac.store.folder.parent) == (
        {"ansel": mac.store.current_link.resolve()},
        [],
    )
    assert _read_version(mac.store.current_link) == adapter_version(mac.store.current_link)
    assert release.adapter_version == _read_version(mac.store.current_link)


def test_an_intact_version_is_not_downloaded_again(mac: Mac) -> None:
    mac.pull("v1")
    mac.pull("v2")
    inode = (mac.store.version_folder(parse_version("v1")) / "recipe.json").stat().st_ino
    assert mac.pull("v1").downloaded_bytes == 0
    assert mac.active() == "v1.0.0"
    assert (mac.store.current_link / "recipe.json").stat().st_ino == inode
    entries = mac.store.entries()
    assert mac.pull("v1").downloaded_bytes == 0
    assert mac.store.entries() == entries  # nothing changed, so nothing is recorded


@pytest.mark.parametrize("name", ["recipe.json", "adapter_model.safetensors", "release.json"])
def test_a_version_damaged_on_disk_is_repaired_in_place(mac: Mac, name: str) -> None:
    mac.pull("v1")
    file = mac.store.current_link / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (mac.store.current_link / "more.bin").write_text("more")
    assert mac.pull("v1").downloaded_bytes > 0
    assert mac.active() == "v1.0.0"
    assert not (mac.store.current_link / "more.bin").exists()


def test_three_versions_are_retained_on_disk(mac: Mac) -> None:
    for version in VERSIONS:
        mac.pull(version)
    names = {path.name for path in (mac.store.folder / "versions").iterdir()}
    assert names == {"ansel@v1.1.0", "ansel@v2.0.0", "ansel@v3.0.0"}


def test_rollbacks_go_through_the_versions_that_were_active(mac: Mac) -> None:
    with pytest.raises(ReleaseError, match="no version is active in .*; mondrian pull ansel first"):
        activate_previous(mac.store)
    for version in VERSIONS[:3]:
        mac.pull(version)
    assert str(activate_previous(mac.store).version) == mac.active() == "v1.1.0"
    assert str(activate_previous(mac.store).version) == mac.active() == "v1.0.0"
    with pytest.raises(ReleaseError, match="no version was active before ansel@v1.0.0"):
        activate_previous(mac.store)
    mac.pull("v3")
    assert str(activate_previous(mac.store).version) == mac.active() == "v1.0.0"


def test_a_rollback_to_a_damaged_version_is_refused(mac: Mac) -> None:
    mac.pull("v1")
    mac.pull("v2")
    file = mac.store.version_folder(parse_version("v1")) / "recipe.json"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(
        ReleaseError, match="v1.0.0 is damaged: recipe.json has .* bytes.*stays active"
    ):
        activate_previous(mac.store)
    assert mac.active() == "v2.0.0"
    release = mac.store.version_folder(parse_version("v1")) / "release.json"
    release.write_bytes(release.read_bytes().replace(b"BETTER", b"WORSER"))
    with pytest.raises(ReleaseError, match="release.json is not the one that was pulled"):
        activate_previous(mac.store)
    assert mac.active() == "v2.0.0"


def test_the_history_survives_a_cut_line_and_a_pull_killed_before_activation(mac: Mac) -> None:
    mac.pull("v1")
    mac.pull("v2")
    with mac.store.history_path.open("a") as file:  # a pull of v3, killed before activation
        line = mac.store.history_path.read_text().splitlines()[1]
        file.write(line.replace("v2.0.0", "v3.0.0").replace("v1.0.0", "v2.0.0") + "\n" + line[:40])
    assert str(activate_previous(mac.store).version) == mac.active() == "v1.0.0"
    mac.pull("v2")
    assert str(activate_previous(mac.store).version) == "v1.0.0"


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "gone"])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "recipe.json"])
def test_a_bad_object_in_the_remote_changes_nothing(
    released: Project, mac: Mac, name: str, damage: str
) -> None:
    mac.pull("v1")
    file = remote_object(released, "v2.0.0", name)
    content = file.read_bytes()
    middle = len(content) // 2
    bad = {
        "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "cut": content[:-1],
        "longer": content + b"\0" * 10_000_000,
        "empty": b"",
        "gone": None,
    }[damage]
    with changed(file, bad), pytest.raises(ReleaseError, match=f"ansel@v2.0.0.*{name}.*dvc push"):
        mac.pull("v2")
    assert mac.active() == "v1.0.0"
    assert mac.leftovers() == []
    assert not mac.store.version_folder(parse_version("v2")).exists()
    mac.pull("v2")
    assert mac.active() == "v2.0.0"


def test_a_version_that_fails_the_smoke_test_is_not_activated(mac: Mac) -> None:
    mac.pull("v1")
    with pytest.raises(ReleaseError, match="changes nothing"):
        mac.pull("v2", fault="ansel@v2.0.0 changes nothing")
    assert mac.active() == "v1.0.0"
    assert mac.leftovers() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"personas": {"ansel": "You are another.", "okeefe": "o"}}, "trained on another prompt"),
        ({"image": {"max_pixels": 40960}}, "trained with image .*20480.*40960"),
    ],
)
def test_a_checkout_with_other_requirements_refuses(
    mac: Mac, changes: dict[str, Any], message: str
) -> None:
    params = mac.params.model_dump()
    for section, values in changes.items():
        params[section] |= values
    with pytest.raises(AdapterError, match=f"ansel@v1.0.0 was {message}"):
        Mac(mac.store, mac.source, Params.model_validate(params)).pull("v1")
    assert mac.active() is None


def test_two_pulls_of_an_advisor_exclude_each_other(mac: Mac) -> None:
    with mac.store.lock(), pytest.raises(ReleaseError, match="another pull or rollback of ansel"):
        mac.pull("v1")
    mac.pull("v1")


def test_a_moved_tag_is_detected(released: Project, mac: Mac, tmp_path: Path) -> None:
    mac.pull("v1")
    other = copy_project(released, tmp_path / "project")
    folder = other.folder / "releases/ansel"
    record = (folder / "v2.0.0.json").read_text().replace("v2.0", "v1.0")
    (folder / "v1.0.0.json").write_text(record)
    shutil.copy(folder / "v2.0.0.md", folder / "v1.0.0.md")
    other.run("git", "commit", "-qam", "bad")
    other.run("git", "tag", "-f", "-a", "-m", "moved", "ansel@v1.0.0")
    source = VersionSource(str(other.folder), remote_url=str(released.folder.parent / "store"))
    moved = Mac(mac.store, source, mac.params)
    with pytest.raises(ReleaseError, match="installed and intact, but .* Who moved the tag"):
        moved.pull("v1")
    assert mac.active() == "v1.0.0"


def test_a_pull_that_asks_for_a_signature_takes_only_signed_versions(mac: Mac, key: Path) -> None:
    signer = mac.pull("v2", signers=key).signer
    assert signer is not None
    assert signer.startswith("SHA256:")
    assert mac.active() == "v2.0.0"
    for version, message in (("v1", "is not signed"), ("v3", "which is none of the keys in")):
        with pytest.raises(ReleaseError, match=message):
            mac.pull(version, "loaded", key)
        assert mac.active() == "v2.0.0"
        assert not mac.store.version_folder(parse_version(version)).exists()
    assert mac.pull("v1").signer is None  # without --verify versions need no signature


def test_a_signed_version_does_not_answer_to_another_name(
    released: Project, mac: Mac, key: Path, tmp_path: Path
) -> None:
    other = copy_project(released, tmp_path / "project")
    other.run("git", "update-ref", "refs/tags/ansel@v4.0.0", "ansel@v2.0.0^{tag}")
    source = VersionSource(str(other.folder), remote_url=str(released.folder.parent / "store"))
    renamed = Mac(mac.store, source, mac.params)
    with pytest.raises(ReleaseError, match=r"no version v4.0.0"):
        renamed.pull("v4", "loaded", key)
    assert renamed.pull("v2", signers=key).release.version == "v2.0.0"


def test_the_files_of_a_signed_version_are_those_that_were_signed(
    released: Project, mac: Mac, key: Path
) -> None:
    for name in ("recipe.json", "adapter_config.json", "adapter_model.safetensors"):
        file = remote_object(released, "v2.0.0", name)
        content = file.read_bytes()
        altered = content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]
        with changed(file, altered), pytest.raises(ReleaseError, match=f"damaged: {name}"):
            mac.pull("v2", "loaded", key)
    assert mac.active() is None


def test_the_model_card_is_installed_and_verified(mac: Mac) -> None:
    mac.pull("v1")
    card = mac.store.current_link / "README.md"
    assert "# ansel@v1.0.0\n" in card.read_text()
    card.write_text("# another")
    with pytest.raises(ReleaseError, match="damaged: README.md has 9 bytes"):
        mac.active()
    mac.pull("v1")
    assert mac.active() == "v1.0.0"


def test_a_model_card_other_than_the_released_one_is_refused(
    released: Project, mac: Mac, tmp_path: Path
) -> None:
    other = copy_project(released, tmp_path / "project")
    other.run("git", "checkout", "-q", "ansel@v1.0.0")
    (other.folder / "releases/ansel/v1.0.0.md").write_text("# another\n")
    other.run("git", "commit", "-qam", "card")
    other.run("git", "tag", "-f", "-a", "-m", "moved", "ansel@v1.0.0")
    source = VersionSource(str(other.folder), remote_url=str(released.folder.parent / "store"))
    with pytest.raises(ReleaseError, match=r"releases/ansel/v1.0.0.md is not as released"):
        Mac(mac.store, source, mac.params).pull("v1")
    assert mac.active() is None


def test_too_little_disk_space_is_detected_before_the_download(
    mac: Mac, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mondrian.registry.pull.MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(ReleaseError, match="MB are free; free disk space"):
        mac.pull("v1")
    assert mac.leftovers() == []


def test_a_bare_repository_and_a_dvc_remote_are_enough(
    released: Project, params: Params, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.git"
    released.run("git", "clone", "-q", "--bare", released.folder, bare)
    store = LocalStore(tmp_path / "serving" / "ansel", "ansel")
    remote = shutil.copytree(released.folder.parent / "store", tmp_path / "moved")
    mac = Mac(store, VersionSource(f"file://{bare}", remote_url=str(remote)), params)
    assert mac.pull("v1").release.version == mac.active() == "v1.0.0"
    with pytest.raises(ReleaseError, match="has no DVC remote other .it has store."):
        Mac(store, VersionSource(str(bare), remote="other"), params).pull("v2")
    with pytest.raises(MondrianError, match="git fetch: .*nowhere"):
        Mac(store, VersionSource(str(tmp_path / "nowhere")), params).pull("v2")


def test_a_repository_without_a_remote_is_pulled_from_its_cache(
    released: Project, mac: Mac, tmp_path: Path
) -> None:
    project = copy_project(released, tmp_path / "project")
    project.run("dvc", "remote", "remove", "store")
    source = VersionSource(str(project.folder))
    assert Mac(mac.store, source, mac.params).pull("v1").downloaded_bytes > 0


def test_a_bare_repository_without_a_remote_needs_a_remote_url(
    tiny: Any, params: Params, tmp_path: Path
) -> None:
    adapter = make_adapters(tiny, tmp_path / "adapters", params, 1)[0]
    project = make_project(tmp_path / "project", adapter)
    project.release("v1")
    project.run("git", "clone", "-q", "--bare", project.folder, tmp_path / "bare.git")
    store = LocalStore(tmp_path / "serving" / "ansel", "ansel")
    source = VersionSource(str(tmp_path / "bare.git"))
    with pytest.raises(ReleaseError, match="names no DVC remote; give --remote_url URL, or there"):
        Mac(store, source, params).pull("v1")
    project.run("dvc", "remote", "add", "-q", "--default", "--local", "store", tmp_path / "store")
    project.run("dvc", "push", "-q", "train@ansel")
    with_url = VersionSource(str(tmp_path / "bare.git"), remote_url=str(tmp_path / "store"))
    assert Mac(store, with_url, params).pull("v1").downloaded_bytes > 0
