"""dvc.yaml, params.yaml, flags, README and code must agree."""

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from mondrian.core.params import Params
from mondrian.critique.parser import parse_critique
from mondrian.critique.rejection import RejectionReason
from mondrian.model.provenance import EVALUATION_CODE, TRAINING_CODE, code_hash
from mondrian.sample.corruptions import CORRUPTIONS
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.conftest import ROOT
from tests.presets import PRESETS, flatten
from tests.waiting import PATIENCE

STAGES = ("link", "prepare", "preferences", "train", "crossvalidate", "evaluate")
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SAMPLE: dict[str, Any] = yaml.safe_load((ROOT / "data/sample/dvc.yaml").read_text())["stages"]


def imported_files(path: Path) -> set[Path]:
    """Return the mondrian modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = {ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("mondrian")}
    return {file for file in files if file.exists()}


def reachable_files(path: Path) -> set[str]:
    """Return the mondrian modules that a file imports directly or indirectly."""
    reachable: set[Path] = set()
    queue = [path]
    while queue:
        new = imported_files(queue.pop()) - reachable
        reachable |= new
        queue += new
    return {str(file.relative_to(ROOT)) for file in reachable}


@pytest.mark.parametrize(
    ("script", "stage"),
    [
        *((f"stages/{name}.py", PIPELINE[name]) for name in STAGES),
        ("mondrian/sample/application.py", SAMPLE["application"]),
    ],
)
def test_a_stage_depends_on_the_packages_that_it_imports(script: str, stage: Any) -> None:
    files = reachable_files(ROOT / script) | {script}
    packages = {"/".join(file.split("/")[:2]) for file in files}
    assert len(packages) > 2
    assert {dep for dep in stage["deps"] if dep.startswith(("mondrian/", "stages/"))} == packages


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_calls_its_script_with_existing_flags(name: str) -> None:
    stage = PIPELINE[name]
    assert stage["desc"]
    flags = set(re.findall(r"--\w+", stage["cmd"]))
    command = [sys.executable, str(ROOT / "stages" / f"{name}.py"), "--help"]
    help_text = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    ).stdout
    assert len(flags) >= 3
    assert flags <= set(re.findall(r"--\w+", help_text))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_params_that_its_script_reads(name: str) -> None:
    text = (ROOT / "stages" / f"{name}.py").read_text()
    if name == "crossvalidate":  # it passes all params on
        text += (ROOT / "mondrian/evaluation/crossvalidation.py").read_text()
    sections = set(re.findall(r"params\.(\w+)", text)) & set(Params.model_fields)
    if "params.persona(" in text:
        sections.add("personas")
    sections -= {"machine"}  # no result depends on it
    assert sections
    assert {param.split(".")[0] for param in PIPELINE[name]["params"]} == sections


def test_stage_scripts_contain_no_pipeline_paths() -> None:
    for name in STAGES:
        text = (ROOT / "stages" / f"{name}.py").read_text().split('"""', 2)[2]
        assert not re.findall(r"[\"'](data|models|metrics)/", text)


def test_packages_that_import_mlx_load_openblas_first() -> None:
    """import-linter checks which packages may import MLX (pyproject.toml)."""
    model = ROOT / "mondrian/model"  # loads OpenBLAS itself
    packages = {
        file.parent
        for file in (ROOT / "mondrian").rglob("*.py")
        if re.search(r"^\s*(import|from) mlx", file.read_text(), re.MULTILINE)
        and model not in file.parents
    }
    assert len(packages) == 5
    for package in packages:
        assert "import mondrian.model" in (package / "__init__.py").read_text()


@pytest.mark.parametrize(
    ("stage", "code"), [("train", TRAINING_CODE), ("evaluate", EVALUATION_CODE)]
)
def test_a_resumed_stage_checks_the_code_that_the_stage_depends_on(
    stage: str, code: Sequence[str]
) -> None:
    deps = {dep for dep in PIPELINE[stage]["deps"] if dep.startswith("mondrian/")}
    assert deps == {f"mondrian/{package}" for package in code}
    assert code_hash(code) != code_hash(code[1:])


def test_every_rejection_reason_and_repair_is_documented() -> None:
    reasons, repairs = (ROOT / "docs/reasons.md").read_text().split("## Repairs")
    documented_reasons = set(re.findall(r"^\| `(\w+)`", reasons, re.MULTILINE))
    assert documented_reasons == {str(reason) for reason in RejectionReason}
    assert all(reason.description for reason in RejectionReason)
    documented_repairs = {
        name
        for cell in re.findall(r"^\| (`.*?) \|", repairs, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", cell)
    }
    results = [
        parse_critique(corruption.make_text(write_critique("ansel", draw_scene(1, 1))))
        for corruption in CORRUPTIONS
    ]
    names = {repair.split()[0] for r in results for repair in getattr(r, "repairs", ())}
    assert len(names) > 8
    assert names - {"dimension_twice"} <= documented_repairs


def test_the_readme_names_only_what_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    assert readme.count("\n") < 200
    targets = set(re.findall(r"(?:`|^)make ?(\w*)\b(?!=)", readme, re.MULTILINE)) - {""}
    makefile = (ROOT / "Makefile").read_text()
    assert {"serve", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    paths = re.findall(r"\]\(([\w./-]+)\)", readme)
    assert len(paths) > 3
    assert [p for p in paths if not (ROOT / p).exists()] == []
    scripts = set(re.findall(r"python (stages/\w+\.py)", readme))
    assert scripts
    assert all((ROOT / s).exists() for s in scripts)


def test_the_guide_lists_every_param_with_a_value_for_the_4b() -> None:
    preset = PRESETS["qwen3-vl-4b"]
    keys = {name for name, _ in flatten(preset)}
    section = (ROOT / "docs/guide.md").read_text().split("For the real model")[1].split("```")[0]
    assert len(keys) == 13
    assert set(re.findall(r"`(\w+(?:\.\w+)+)`", section)) == keys


def test_params_named_in_the_documents_exist(params: Params) -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {
        (section, key)
        for document in documents
        for section, key in re.findall(r"`(\w+)\.(\w+)[`:]", document.read_text())
        if section in Params.model_fields
    }
    assert len(named) > 3
    for section, key in named:
        assert hasattr(getattr(params, section), key), (section, key)


def test_no_file_is_large_or_names_a_registry() -> None:
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
    ).stdout.split()
    assert len(names) > 40
    for name in names:
        path = ROOT / name
        if path.is_file() and "models/base" not in name:
            assert path.stat().st_size < 1_000_000, name
    locks = sorted(ROOT.glob("requirements*.lock"))
    assert len(locks) == 5
    for lock in locks:
        assert "://" not in lock.read_text()
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        assert text.count("--hash=sha256:") > 100
        assert "mlx-metal==" in text


def test_git_ignores_what_holds_photos_or_texts_of_people() -> None:
    ignored = (
        "data/linked/ansel/training_data_manifest.json",
        "data/prepared/ansel/training_data_ansel_train.json",
        "data/preferences/pairs.jsonl",
        "data/service/uploads/photo.jpg",
        "data/sample/mondrian/source/photo.jpg",
        "metrics/ansel/comparison_report.json",
        "metrics/ansel/evaluate.json",
        "metrics/ansel/refused_split_report.html",
        "metrics/ansel/crossvalidation.html",
        "metrics/ansel/crossvalidation.json",
        "models/mondrian-tiny-lora-ansel/adapter_model.safetensors",
        "models/serving/ansel/current/recipe.json",
        "critiques.csv",
        "critiques.jsonl",
        "photos/.critiques.jsonl.unfinished",
        "critiques/ansel/gallery.html",
        "jobs.db",
        "jobs.db-wal",
    )
    votes = "metrics/ansel/votes.jsonl"
    tracked = (
        votes,
        "metrics/ansel/metrics.json",
        "metrics/ansel/loss.csv",
        "data/sample/dvc.lock",
    )
    run = subprocess.run(
        ["git", "check-ignore", "--no-index", *ignored, *tracked],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
    )
    assert run.stdout.splitlines() == list(ignored)
