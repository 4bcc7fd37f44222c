"""dvc.yaml, params.yaml, flags, README and code hold each other to the truth."""

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

STAGES = ("link", "prepare", "train", "evaluate")
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SAMPLE: dict[str, Any] = yaml.safe_load((ROOT / "data/sample/dvc.yaml").read_text())["stages"]


def imported(path: Path) -> set[Path]:
    """Modules of this project that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = {ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("mondrian")}
    return {file for file in files if file.exists()}


def reached(path: Path) -> set[str]:
    """Every module that running a file imports."""
    seen: set[Path] = set()
    todo = [path]
    while todo:
        new = imported(todo.pop()) - seen
        seen |= new
        todo += new
    return {str(file.relative_to(ROOT)) for file in seen}


@pytest.mark.parametrize(
    ("script", "stage"),
    [
        *((f"stages/{name}.py", PIPELINE[name]) for name in STAGES),
        ("mondrian/sample/application.py", SAMPLE["application"]),
    ],
)
def test_a_stage_depends_on_the_packages_it_really_imports(script: str, stage: Any) -> None:
    wanted = {"/".join(file.split("/")[:2]) for file in reached(ROOT / script) | {script}}
    assert len(wanted) > 2
    assert {dep for dep in stage["deps"] if dep.startswith(("mondrian/", "stages/"))} == wanted


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_calls_its_script_with_flags_it_has(name: str) -> None:
    stage = PIPELINE[name]
    assert stage["desc"]
    flags = set(re.findall(r"--\w+", stage["cmd"]))
    command = [sys.executable, str(ROOT / "stages" / f"{name}.py"), "--help"]
    shown = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    ).stdout
    assert len(flags) >= 3
    assert flags <= set(re.findall(r"--\w+", shown))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_params_its_script_reads(name: str) -> None:
    text = (ROOT / "stages" / f"{name}.py").read_text()
    read = set(re.findall(r"params\.(\w+)", text)) & set(Params.model_fields)
    if "params.persona(" in text:
        read.add("personas")
    read -= {"machine"}  # no result depends on it
    declared = {param.split(".")[0] for param in PIPELINE[name]["params"]}
    assert read
    assert declared == read


def test_only_dvc_yaml_knows_where_the_pipeline_keeps_its_files() -> None:
    for name in STAGES:
        text = (ROOT / "stages" / f"{name}.py").read_text().split('"""', 2)[2]
        assert not re.findall(r"[\"'](data|models|metrics)/", text)


def test_openblas_is_loaded_before_mlx() -> None:
    """Which packages may import MLX is checked by import-linter (pyproject.toml)."""
    users = {
        file.parent
        for file in (ROOT / "mondrian").rglob("*.py")
        if re.search(r"^\s*(import|from) mlx", file.read_text(), re.MULTILINE)
    }
    outside = {folder for folder in users if ROOT / "mondrian/model" not in (folder, folder.parent)}
    assert len(outside) == 4
    for folder in outside:
        assert "import mondrian.model" in (folder / "__init__.py").read_text()


@pytest.mark.parametrize(
    ("stage", "code"), [("train", TRAINING_CODE), ("evaluate", EVALUATION_CODE)]
)
def test_resumed_work_remembers_the_code_that_its_stage_depends_on(
    stage: str, code: Sequence[str]
) -> None:
    deps = {dep for dep in PIPELINE[stage]["deps"] if dep.startswith("mondrian/")}
    assert deps == {f"mondrian/{package}" for package in code}
    assert code_hash(code) != code_hash(code[1:])


def test_every_reason_is_documented() -> None:
    reasons, repairs = (ROOT / "docs/reasons.md").read_text().split("## Repairs")
    assert set(re.findall(r"^\| `(\w+)`", reasons, re.MULTILINE)) == {
        str(r) for r in RejectionReason
    }
    assert all(reason.description for reason in RejectionReason)
    told = {
        name
        for row in re.findall(r"^\| (`.*?) \|", repairs, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    found = (
        parse_critique(mess.make_text(write_critique("ansel", draw_scene(1, 1))))
        for mess in CORRUPTIONS
    )
    done = {repair.split()[0] for one in found for repair in getattr(one, "repairs", ())}
    assert len(done) > 8
    assert done - {"dimension_twice"} <= told


def test_the_readme_speaks_of_what_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    assert readme.count("\n") < 200
    targets = set(re.findall(r"(?:`|^)make ?(\w*)", readme, re.MULTILINE)) - {""}
    makefile = (ROOT / "Makefile").read_text()
    assert {"test", "lint"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    paths = re.findall(r"\]\(([\w./-]+)\)", readme)
    assert len(paths) > 3
    assert [p for p in paths if not (ROOT / p).exists()] == []
    scripts = set(re.findall(r"python (stages/\w+\.py)", readme))
    assert scripts
    assert all((ROOT / s).exists() for s in scripts)


def test_every_value_for_the_4b_is_listed_in_the_readme() -> None:
    section, inner, keys = "", "", set()
    for line in (ROOT / "params.yaml").read_text().splitlines():
        if line[:1].isalpha():
            section = line.split(":")[0]
        elif line[2:3].isalpha():
            inner = f"{section}.{line.split(':')[0].strip()}"
        if "for the 4B" in line and line.startswith("  "):
            deeper = f".{line.split(':')[0].strip()}" if line.startswith("    ") else ""
            keys.add(inner + deeper)
    listed = (ROOT / "README.md").read_text().split("## The real model")[1].split("##")[0]
    assert len(keys) == 12
    assert set(re.findall(r"`(\w+(?:\.\w+)+)`", listed)) == keys


def test_params_that_the_documents_name_exist(params: Params) -> None:
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
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
    ).stdout.split()
    assert len(listed) > 40
    for name in listed:
        path = ROOT / name
        if path.is_file() and "models/base" not in name:
            assert path.stat().st_size < 1_000_000, name
    for lock in ROOT.glob("requirements*.lock"):
        text = lock.read_text()
        assert "://" not in text
        assert text.count("--hash=sha256:") > 100
        assert "mlx-cpu==" in text
        assert "mlx-metal==" in text
