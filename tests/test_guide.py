"""Documents must match the project: their commands, quoted messages and links."""

import ast
import os
import re
import shlex
import subprocess
import sys
from argparse import ArgumentError, ArgumentTypeError
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from mondrian.cli.parser import COMMANDS
from mondrian.core.errors import ParamsError
from mondrian.core.params import Params
from tests.conftest import ROOT
from tests.waiting import PATIENCE

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "models/base/mondrian-tiny/README.md",
]
GUIDE = ROOT / "docs/guide.md"
SHELL_COMMANDS = {".", "cd", "cp", "curl", "export", "for", "mkdir", "mv", "open"}
OTHER_TOOLS = {"hf", "llamafactory-cli", "mlx.launch", "mlx_vlm.generate", "ssh-keygen", "swift"}
OTHER_TOOLS |= {"vllm"}
SHELL_KEYWORDS = {"if", "in", "do", "done", "then", "else", "fi", "while"}
SEPARATORS = {"&&", "||", ";", "|", "&"}
GIT_COMMANDS = set(
    subprocess.run(
        ["git", "--list-cmds=main"], capture_output=True, text=True, timeout=PATIENCE
    ).stdout.split()
)


def parse_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in the ```sh blocks, also of commands inside loops."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split, lexer.commenters = True, "#"
            yield from _split_line(list(lexer))


def _split_line(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in SEPARATORS:
            command.append(word)
            continue
        while command and (command[0] in SHELL_KEYWORDS or re.match(r"[A-Z_]+=", command[0])):
            command.pop(0)
        if command:
            yield command
        command = []


def find_problem(command: list[str]) -> str | None:
    """Return what a command names that does not exist, or None; flags are not checked."""
    program, *args = command
    if program == "python":
        script = _script(args)
        return None if script.exists() else f"no {script.relative_to(ROOT)}"
    if program == "mondrian":
        return None if args and args[0] in COMMANDS else f"mondrian has no {args[:1]}"
    if program == "make":
        text = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
        targets = re.findall(r"^([\w./-]+):", text, re.MULTILINE)
        return next((f"make has no {a}" for a in args if "=" not in a and a not in targets), None)
    if program == "dvc":
        return _find_dvc_problem(args)
    if program == "git":
        return None if args and args[0] in GIT_COMMANDS else f"git has no {args[:1]}"
    return None if program in SHELL_COMMANDS | OTHER_TOOLS else f"{program} is no known program"


def _script(args: list[str]) -> Path:
    if args[0] != "-m":
        return ROOT / args[0]
    path = ROOT / args[1].replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def _find_dvc_problem(args: list[str]) -> str | None:
    """Return an error of DVC's own parser, or of params.yaml for a parameter that is set."""
    from dvc.cli import DvcParserError
    from dvc.cli.parser import get_main_parser

    try:
        get_main_parser().parse_args(args)
    except (DvcParserError, SystemExit, ArgumentError, ArgumentTypeError) as error:
        return f"dvc {' '.join(args)}: {error!r}"
    settings = [b for a, b in zip(args, args[1:], strict=False) if a in ("-S", "--set-param")]
    return next((p for setting in settings if (p := _find_param_problem(setting))), None)


def _find_param_problem(setting: str) -> str | None:
    """Return why params.yaml refuses e.g. `train.lora_r=8`; shell variables are valid values."""
    path, _, value = setting.partition("=")
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    section = params
    *section_names, key = path.split(".")
    for name in section_names:
        section = section.get(name, {})
    if not isinstance(section, dict) or key not in section:
        return f"params.yaml has no {path}"
    if "$" not in value:
        section[key] = yaml.safe_load(value)
        try:
            Params.model_validate(params)
        except (ParamsError, ValueError) as error:
            return f"{setting}: {error}"
    return None


def has_own_flags(command: list[str]) -> bool:
    """Return whether a command belongs to this project and has flags."""
    return command[0] in ("python", "mondrian") and any(w.startswith("--") for w in command)


def find_flag_problems(command: list[str]) -> list[str]:
    """Return flags and values that --help does not list, and required flags that are missing."""
    flags = {word.split("=")[0] for word in command if word.startswith("--")}
    is_nested = command[1] in ("-m", "benchmarks/carry_wheels.py") or command[:3] == [
        "mondrian",
        "rollout",
        "report",
    ]
    program = command[: 3 if is_nested else 2]
    mode_flags = flags & {"--plan", "--check", "--recompute_from"}
    help_text = read_help((*program, *sorted(mode_flags)))
    usage, _, _ = help_text.partition("\n\n")
    known_flags = set(re.findall(r"--\w+", help_text))
    problems = [f"{f} is no flag of {' '.join(program)}" for f in sorted(flags - known_flags)]
    for flag, value in zip(command, command[1:], strict=False):
        choices = re.search(rf"{re.escape(flag)} \{{([^}}]*)\}}", usage)
        if flag.startswith("--") and choices and value not in choices[1].split(","):
            problems.append(f"{flag} {value} is none of {choices[1]}")
    required = re.sub(r"\[[^][]*(\[[^][]*\][^][]*)*\]", "", usage)  # without [optional] flags
    group = r"\(([^)]*)\)"  # (--a | --b): one of them is required
    groups = [re.findall(r"--\w+", content) for content in re.findall(group, required)]
    groups += [[flag] for flag in re.findall(r"--\w+", re.sub(group, "", required))]
    return problems + [
        f"{' or '.join(group_flags)} is missing"
        for group_flags in groups
        if group_flags and not flags & set(group_flags)
    ]


@cache
def read_help(command: tuple[str, ...]) -> str:
    """Return the output of a command with --help."""
    program = [sys.executable] if command[0] == "python" else [sys.executable, "-m", "mondrian"]
    done = subprocess.run(
        [*program, *command[1:], "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@cache
def source_texts() -> tuple[str, ...]:
    """Return all string literals, templates and the Makefile; … stands for values in f-strings."""
    texts = [(ROOT / "Makefile").read_text()]
    for pattern in ("*.html", "*.js", "*.jinja"):
        texts += [path.read_text() for path in (ROOT / "mondrian").rglob(pattern)]
    for path in [*(ROOT / "mondrian").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return tuple(texts)


def is_in_sources(message: str) -> bool:
    """Return whether a source text contains a quoted message; its … match any value."""
    pattern = re.compile(".*?".join(map(re.escape, re.split(r"\s*…\s*", message))), re.DOTALL)
    return any(pattern.search(text) for text in source_texts())


def quoted_messages(text: str) -> list[str]:
    """Return the messages in the first column of the table in the last chapter."""
    table = re.split(r"^## \d+ Troubleshooting$", text, flags=re.MULTILINE)[1]
    cells = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings as GitHub derives them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def find_broken_links(path: Path) -> list[str]:
    """Return links of a document to files or headings that do not exist."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_commands_in_documents_exist(path: Path) -> None:
    assert [p for c in parse_commands(path.read_text()) if (p := find_problem(c))] == []


def test_the_documents_show_every_command() -> None:
    assert len(list(parse_commands(GUIDE.read_text()))) > 40
    assert len(list(parse_commands((ROOT / "README.md").read_text()))) > 10
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    assert set(COMMANDS) <= set(re.findall(r"\bmondrian ([a-z-]+)", text))


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_flags_in_documents_exist(path: Path) -> None:
    own_commands = [c for c in parse_commands(path.read_text()) if has_own_flags(c)]
    assert [problem for c in own_commands for problem in find_flag_problems(c)] == []
    if path == GUIDE:
        assert len(own_commands) > 10


def test_an_invented_command_is_detected() -> None:
    text = (
        "```sh\nmondrian relaese ansel\npython stages/trane.py\nmake lunch   # soon\n"
        "dvc rerpo\nA=1 dvc exp run --quue\n"
        "for r in 4 8; do dvc exp run -S train.lora_rank=$r; done\n"
        "dvc exp run -S train.epochs=0 && dvc exp run -S train.lora_r=8\ngit comit\nsudo rm\n```\n"
        "```python\nnonsense\n```\n"
    )
    problems = [find_problem(command) for command in parse_commands(text)]
    assert len(problems) == 11
    valid = [i for i, problem in enumerate(problems) if problem is None]
    assert valid == [5, 8]  # for …, train.lora_r=8
    assert problems[6] == "params.yaml has no train.lora_rank"


@pytest.mark.slow
def test_an_invented_flag_is_detected() -> None:
    for command, problem in (
        ("mondrian pull ansel --from there", "--rev or --stage is missing"),
        ("mondrian pull ansel --rev v1 --from there --speed 9", "--speed is no flag"),
        (
            "mondrian preferences --db a --advisor b --output_dir c --format dpo",
            "--format is no flag",
        ),
        ("mondrian serve --model_mode both", "is none of"),
        ("python stages/preferences.py --advisor a --metrics b", "--prepared_dir is missing"),
        ("python stages/link.py --db_path a --output_dir b", "--advisor is missing"),
    ):
        assert any(problem in p for p in find_flag_problems(command.split())), command
    assert find_flag_problems("mondrian release ansel --version v1".split()) == []
    assert find_flag_problems("python stages/train.py --plan --memory_gb 24".split()) == []


def test_messages_that_the_guide_quotes_are_in_the_sources() -> None:
    messages = quoted_messages(GUIDE.read_text())
    assert len(messages) > 15
    assert [message for message in messages if not is_in_sources(message)] == []
    assert not is_in_sources("the moon is … too far")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_in_documents_lead_to_files_and_headings(path: Path) -> None:
    assert find_broken_links(path) == []


def test_a_broken_link_is_detected(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One & two\n[a](page.md#one--two) [b](#three) [c](none.md) [d](https://x.y)")
    assert find_broken_links(page) == ["#three", "none.md"]


def test_the_guide_fits_on_a_few_screens() -> None:
    lines = GUIDE.read_text().splitlines()
    assert len(lines) <= 260
    assert max(len(line) for line in lines if not line.startswith("|")) <= 140
