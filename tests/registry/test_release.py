"""Releases: a version is exactly what was built, evaluated and committed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mondrian.core.adapter_folder import adapter_version
from mondrian.core.errors import MondrianError, ReleaseError
from mondrian.core.files import file_hash
from mondrian.core.params import Params, load_params
from mondrian.registry import tags
from mondrian.registry.listing import format_version_table, list_unfinished_releases, list_versions
from mondrian.registry.release import ReleaseResult, add_artifact, release
from mondrian.registry.release_record import Release, read_record
from mondrian.registry.tags import promote
from mondrian.registry.version import parse_version
from tests.conftest import ROOT, assert_one_error
from tests.releasing import (
    ADAPTER,
    METRICS,
    Project,
    copy_project,
    make_adapters,
    make_final_test,
    make_key,
    make_project,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),  # DVC and its pygtrie
]


@pytest.fixture(scope="module")
def adapters(tiny: Any, params: Params, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_adapters(tiny, tmp_path_factory.mktemp("adapters"), params, 2)


@pytest.fixture(scope="module")
def template(adapters: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("template") / "project", adapters[0])


@pytest.fixture
def built(template: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Create a checkout with a built adapter of ansel, and change to its folder."""
    project = copy_project(template, tmp_path / "project")
    monkeypatch.chdir(project.folder)
    for name, value in project.env.items():
        monkeypatch.setenv(name, value)
    return project


def make_release(version: str, reason: str | None = None) -> ReleaseResult:
    return release("ansel", version, reason, load_params(Path("params.yaml")))


def assert_refused(
    project: Project, *messages: str, version: str = "v1", reason: str | None = None
) -> None:
    """Check that a release is refused with these messages and changes nothing."""
    before = project.head(), project.tags(), project.run("git", "status", "--porcelain")
    with pytest.raises(MondrianError) as error:
        make_release(version, reason)
    for message in messages:
        assert message in str(error.value), (message, str(error.value))
    after = project.head(), project.tags(), project.run("git", "status", "--porcelain")
    assert after == before


def tagged_record(project: Project, version: str) -> Release:
    """Return the record in the tag of a version."""
    path = f"releases/ansel/{version}.json"
    content = project.run("git", "show", f"ansel@{version}:{path}").encode()
    return read_record(content, "ansel", parse_version(version), path)


def test_a_release_is_one_commit_and_a_tag(built: Project) -> None:
    code = built.head()
    result = make_release("v1")
    assert built.tags() == ["ansel@v1.0.0"]
    assert built.run("git", "rev-parse", "ansel@v1.0.0^{commit}").strip() == built.head()
    assert built.run("git", "cat-file", "-t", "ansel@v1.0.0").strip() == "tag"
    assert built.run("git", "rev-list", "--count", f"{code}..HEAD").strip() == "1"
    changed = built.run("git", "diff", "--name-only", code, "HEAD").split()
    assert changed == ["dvc.yaml", "releases/ansel/v1.0.0.json", "releases/ansel/v1.0.0.md"]
    assert built.run("git", "status", "--porcelain") == ""
    record = tagged_record(built, "v1.0.0")
    assert record == result.release
    assert record.commit == code
    assert record.by == "ann <ann@example.org>"
    assert {file.name for file in record.files} == {p.name for p in Path(ADAPTER).iterdir()}
    assert record.adapter_version == adapter_version(Path(ADAPTER))
    assert record.evaluation.figures.index == 85.8
    assert record.reason is None
    assert record.evaluation.failed == ()


def test_dvc_itself_finds_the_artifact(built: Project, tmp_path: Path) -> None:
    built.run("dvc", "remote", "add", "-q", "--default", "store", "../store")
    built.commit()
    make_release("v1")
    built.run("dvc", "push", "-q", "train@ansel")
    promote("ansel", "v1", "prod")
    elsewhere = tmp_path / "elsewhere.git"
    built.run("git", "clone", "-q", "--bare", built.folder, elsewhere)
    for selector in (("--rev", "v1.0.0"), ("--stage", "prod")):
        out = tmp_path / selector[0]
        built.run(
            "dvc",
            "artifacts",
            "get",
            f"file://{elsewhere}",
            "ansel",
            *selector,
            "-o",
            out,
            "--remote-config",
            f"url={tmp_path / 'store'}",
        )
        assert adapter_version(out) == tagged_record(built, "v1.0.0").adapter_version


def test_other_changes_of_the_user_are_not_committed(built: Project) -> None:
    Path("README.md").write_text("mine")
    Path("notes.txt").write_text("mine too")
    built.run("git", "add", "README.md")
    Path("CHANGELOG.md").write_text("not added")
    make_release("v1")
    changed = built.run("git", "show", "--name-only", "--format=", "HEAD").split()
    assert changed == ["dvc.yaml", "releases/ansel/v1.0.0.json", "releases/ansel/v1.0.0.md"]
    status = built.run("git", "status", "--porcelain").splitlines()
    assert sorted(status) == [" M CHANGELOG.md", "?? notes.txt", "M  README.md"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("params.yaml", "params.yaml is not as in the last commit"),
        (
            "mondrian/training/trainer.py",
            "mondrian/training/trainer.py is not as in the last commit",
        ),
        ("dvc.lock", "dvc.lock is not as in the last commit"),
        ("dvc.yaml", "dvc.yaml is not as in the last commit"),
        (METRICS, f"{METRICS} is not as in the last commit"),
    ],
)
def test_uncommitted_changes_are_refused(built: Project, file: str, message: str) -> None:
    with Path(file).open("a") as opened:
        opened.write("\n# changed\n" if not file.endswith(".json") else "\n")
    assert_refused(built, message, "git add")
    built.run("git", "add", file)
    assert_refused(built, message)


def test_an_uncommitted_dvc_lock_is_refused(built: Project) -> None:
    built.run("git", "rm", "-q", "--cached", "dvc.lock", METRICS)
    built.run("git", "commit", "-qm", "without")
    assert_refused(built, f"dvc.lock, {METRICS} are not as in the last commit")


def test_code_changed_since_the_run_is_refused(built: Project) -> None:
    with Path("mondrian/training/trainer.py").open("a") as file:
        file.write("# changed\n")
    built.commit()
    assert_refused(
        built,
        "stages differ from dvc.lock; dvc repro, commit, and release again",
        "train@ansel: modified mondrian/training",
    )


def test_an_adapter_changed_on_disk_is_refused(built: Project) -> None:
    file = Path(ADAPTER) / "recipe.json"
    file.chmod(0o644)
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content.replace(b"ansel", b"anson"))
    assert_refused(built, "train@ansel: modified models/mondrian-tiny-lora-ansel")


def test_a_change_that_dvc_cannot_see_is_refused(built: Project) -> None:
    """DVC compares inode, size and time; a flipped bit on disk changes none of them."""
    built.run("dvc", "status", "-d", "evaluate@ansel")
    file = Path(ADAPTER) / "adapter_model.safetensors"
    before = file.stat()
    file.chmod(0o644)
    with file.open("r+b") as opened:
        opened.seek(20_000)
        flipped = bytes([opened.read(1)[0] ^ 1])
        opened.seek(20_000)
        opened.write(flipped)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(MondrianError, match=r"dvc.lock|modified"):
        make_release("v1")
    assert built.tags() == []


def test_a_failed_gate_is_refused_unless_there_is_a_reason(
    built: Project, adapters: list[Path]
) -> None:
    built.build(adapters[0], verdict="INCONCLUSIVE", gain=1.0)
    assert_refused(
        built,
        "2 gates do not hold",
        '--reason "…"',
        "verdict is INCONCLUSIVE, not BETTER",
        "judgement_points is 1.0, the threshold is 5.0",
    )
    assert_refused(built, "2 gates do not hold", reason="  ")
    make_release("v1", "the club's evening is tomorrow")
    record = tagged_record(built, "v1.0.0")
    assert record.reason == "the club's evening is tomorrow"
    assert record.evaluation.failed == (
        "verdict is INCONCLUSIVE, not BETTER",
        "judgement_points is 1.0, the threshold is 5.0",
    )
    assert "the club's evening" in built.run("git", "tag", "-n9")
    table = "\n".join(format_version_table(list_versions("ansel", Path("models/serving"))))
    assert "the club's evening is tomorrow" in table


def test_an_adapter_that_is_worse_on_test_is_refused_unless_there_is_a_reason(
    built: Project, adapters: list[Path]
) -> None:
    rows = Path("data/prepared/ansel/training_data_ansel_test.json")
    rows.write_text("[]")
    stages = [f"{name}@ansel" for name in ("prepare", "preferences", "crossvalidate")]
    built.run("dvc", "commit", "-q", "-f", *stages)
    built.build(adapters[0])
    test = make_final_test("WORSE").model_copy(update={"rows_sha256": file_hash(rows)})
    cache = Path(".cache/final_test") / f"ansel-{adapter_version(Path(ADAPTER))}.json"
    cache.parent.mkdir(parents=True)
    cache.write_text(test.model_dump_json())  # as a release that was refused leaves it
    assert_refused(built, "the final test: WORSE on 12 critiques of 11 photos", '--reason "…"')
    output = built.mondrian("release", "ansel", "--version", "v1", "--reason", "a comparison")
    assert "test: WORSE on 12 critiques of 11 photos: quality index above" in output.stdout
    record = tagged_record(built, "v1.0.0")
    assert record.test == test
    assert record.evaluation.verdict == "BETTER"
    assert [line[:21] for line in record.evaluation.failed] == ["the final test: WORSE"]
    assert list_versions("ansel", Path("models/serving"))[0].to_dict()["test"] == "WORSE"
    assert "| verdict | BETTER | WORSE |" in Path("releases/ansel/v1.0.0.md").read_text()


def test_a_release_by_somebody_whom_git_does_not_know_is_refused(built: Project) -> None:
    (built.folder / "anonymous.sh").write_text(
        "unset GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL\n"
        "git config user.useConfigOnly true\n"
        f"exec {sys.executable} -m mondrian release ansel --version v1\n"
    )
    result = built.attempt("bash", "anonymous.sh")
    assert result.returncode == 1
    assert result.stderr == (
        'error: git does not know your name; run: git config --global user.name "Your Name", and '
        "git config --global user.email you@example.com\n"
    )
    assert built.tags() == []


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="there is no ssh-keygen")
def test_a_key_that_cannot_sign_is_refused_before_anything_is_done(built: Project) -> None:
    key = make_key(built.folder.parent / "key", "a passphrase")
    with pytest.raises(ReleaseError, match="it has a passphrase"):
        release("ansel", "v1", None, load_params(Path("params.yaml")), key)
    assert built.tags() == []


def test_a_version_is_released_once_and_no_lower_one_after_it(
    built: Project, adapters: list[Path]
) -> None:
    make_release("v1.2")
    assert_refused(built, "ansel@v1.2.0 exists", "v1.2.1 or v2.0.0", version="v1.2")
    assert_refused(built, "v1.1.0 is below v1.2.0", version="1.1")
    assert_refused(built, "is ansel@v1.2.0 already, byte for byte", version="v2")
    built.build(adapters[1])
    make_release("v2")
    changed = built.run("git", "show", "--name-only", "--format=", "HEAD").split()
    names = ["releases/ansel/v2.0.0.json", "releases/ansel/v2.0.0.md"]
    assert changed == names  # dvc.yaml has the entry already
    assert built.tags() == ["ansel@v1.2.0", "ansel@v2.0.0"]


@pytest.mark.parametrize("advisor", ["ansel.adams", "ansel_", "nobody"])
def test_an_advisor_that_is_unknown_or_cannot_be_tagged_is_refused(
    built: Project, advisor: str
) -> None:
    with pytest.raises(ReleaseError, match=r"cannot be part of a tag|has no advisor 'nobody'"):
        release(advisor, "v1", None, load_params(Path("params.yaml")))


_KILL = """
import os, sys
from pathlib import Path
from mondrian.core.params import (load_params)
from mondrian.registry import (git, tags)
from mondrian.registry.release import (release)
step = sys.argv[1]
def exit(*args, **kwargs): os._exit(9)
if step == "tag": tags.register = exit
else:
    run_git = git.git
    git.git = lambda *args, **kwargs: exit() if args[0] == step else run_git(*args, **kwargs)
release("ansel", "v1", "a reason", load_params(Path("params.yaml")))
"""


@pytest.mark.parametrize("step", ["read-tree", "commit-tree", "update-ref", "checkout", "tag"])
def test_a_killed_release_is_completed_by_the_next(built: Project, step: str) -> None:
    code = built.head()
    result = built.attempt(sys.executable, "-c", _KILL, step)
    assert result.returncode == 9, result.stderr
    assert built.tags() == []
    if step in ("checkout", "tag"):
        assert list_unfinished_releases("ansel", []) == (["v1.0.0"] if step == "tag" else [])
    make_release("v1")
    assert built.tags() == ["ansel@v1.0.0"]
    assert built.run("git", "rev-list", "--count", f"{code}..HEAD").strip() == "1"
    assert built.run("git", "status", "--porcelain") == ""
    reason = "a reason" if step in ("checkout", "tag") else None  # as in the interrupted commit
    assert tagged_record(built, "v1.0.0").reason == reason


def test_the_number_of_a_killed_release_is_not_reused_for_another_adapter(
    built: Project, adapters: list[Path]
) -> None:
    assert built.attempt(sys.executable, "-c", _KILL, "tag").returncode == 9
    built.build(adapters[1])
    assert_refused(
        built, "a release of another adapter as v1.0.0 was interrupted", "use the next version"
    )
    make_release("v1.0.1")
    assert built.tags() == ["ansel@v1.0.1"]


def test_a_stage_belongs_to_the_version_that_was_promoted_last(
    built: Project, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_release("v1")
    built.build(adapters[1])
    make_release("v2")

    def prod_version() -> str:
        return str(tags.find_by_stage("prod", tags.list_tagged_versions("ansel"), "ansel").version)

    with pytest.raises(ReleaseError, match="no version of ansel is prod .no version has a stage."):
        prod_version()
    assert promote("ansel", "v1", "prod") == "ansel#prod#1"
    assert promote("ansel", "v1", "prod") is None
    for version in ("v2.0.0", "v1.0.0", "v2.0.0"):
        promote("ansel", version, "prod")
        assert prod_version() == version
    monkeypatch.setattr("time.time", lambda: 1e9)
    with pytest.raises(ReleaseError, match=r"ansel#prod is \d+ s in the future .* set the clock"):
        promote("ansel", "v1", "prod")
    with pytest.raises(
        ReleaseError, match="no version v3.0.0 .it has v1.0.0, v2.0.0.; was its tag"
    ):
        promote("ansel", "v3", "prod")
    with pytest.raises(ReleaseError, match="stage 'in prod' cannot be part of a tag"):
        promote("ansel", "v1", "in prod")


def test_the_table_shows_versions_stages_and_verdicts(built: Project) -> None:
    assert list_versions("ansel", Path("models/serving")) == []
    make_release("v1")
    promote("ansel", "v1", "prod")
    header, line = format_version_table(list_versions("ansel", Path("models/serving")))
    assert header.split() == [
        "version",
        "released",
        "stages",
        "verdict",
        "index",
        "score",
        "MAE",
        "adapter",
    ]
    version = adapter_version(Path(ADAPTER))
    assert line.split()[0::2] == ["v1.0.0", "prod", "85.80", version]
    row = list_versions("ansel", Path("models/serving"))[0].to_dict()
    assert row["verdict"] == "BETTER"
    assert row["stages"] == ["prod"]


def test_the_commands_print_what_to_push_and_what_is_missing(built: Project) -> None:
    assert "no versions; mondrian release makes one" in built.mondrian("list").stdout
    assert_one_error(built.mondrian("list", "nobody"), "no advisor 'nobody'", "ansel")
    assert_one_error(
        built.mondrian("release", "ansel", "--version", "two"), "'two' is not a version"
    )
    output = built.mondrian("release", "ansel", "--version", "v1").stdout
    assert "released ansel@v1.0.0: BETTER" in output
    for line in (
        "git remote add origin URL",
        "dvc remote add --default store URL",
        "git push origin HEAD ansel@v1.0.0",
        "dvc push train@ansel",
    ):
        assert line in output
    output = built.mondrian("promote", "ansel", "--version", "1", "--stage", "prod").stdout
    assert "git push origin 'ansel#prod#1'" in output
    rows = json.loads(built.mondrian("list", "--json").stdout)
    assert [(row["version"], row["stages"]) for row in rows] == [("v1.0.0", ["prod"])]
    command = [sys.executable, "-m", "mondrian", "release", "ansel", "--version", "v2"]
    elsewhere = subprocess.run(
        command, cwd=built.folder / "stages", env=built.env, capture_output=True, text=True
    )
    assert_one_error(elsewhere, "params.yaml does not exist; run from the project's folder")


def test_an_artifact_can_be_added_to_the_dvc_yaml_of_this_project() -> None:
    assert "artifacts:" in add_artifact((ROOT / "dvc.yaml").read_text(), "ansel")
