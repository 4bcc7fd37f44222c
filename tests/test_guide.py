"""The documents held to what is there: their commands, the messages they quote, their links."""

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

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "models/base/mondrian-tiny/README.md",
]
GUIDE = ROOT / "docs/guide.md"
SHELL = {".", "cd", "cp", "curl", "export", "for", "mkdir", "mv", "open"}
ELSEWHERE = {"llamafactory-cli", "mlx.launch", "mlx_vlm.generate", "swift", "vllm"}
WORDS = {"if", "in", "do", "done", "then", "else", "fi", "while"}
STOPS = {"&&", "||", ";", "|", "&"}
GIT = set(
    subprocess.run(
        ["git", "--list-cmds=main"], capture_output=True, text=True, timeout=30
    ).stdout.split()
)


def commands(text: str) -> Iterator[list[str]]:
    """Each command of the ```sh blocks, as words; what a loop repeats is a command too."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split, lexer.commenters = True, "#"
            yield from _parted(list(lexer))


def _parted(words: list[str]) -> Iterator[list[str]]:
    now: list[str] = []
    for word in [*words, ";"]:
        if word not in STOPS:
            now.append(word)
            continue
        while now and (now[0] in WORDS or re.match(r"[A-Z_]+=", now[0])):
            now.pop(0)
        if now:
            yield now
        now = []


def fault(words: list[str]) -> str | None:
    """What of a command does not exist; None where all of it does, flags apart."""
    head, rest = words[0], words[1:]
    if head == "python":
        return None if _script(rest).exists() else f"no {_script(rest).relative_to(ROOT)}"
    if head == "mondrian":
        return None if rest and rest[0] in COMMANDS else f"mondrian has no {rest[:1]}"
    if head == "make":
        text = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
        made = re.findall(r"^([\w./]+):", text, re.MULTILINE)
        return next((f"make has no {t}" for t in rest if "=" not in t and t not in made), None)
    if head == "dvc":
        return _dvc(rest)
    if head == "git":
        return None if rest and rest[0] in GIT else f"git has no {rest[:1]}"
    return None if head in SHELL | ELSEWHERE else f"{head} is no known program"


def _script(words: list[str]) -> Path:
    if words[0] != "-m":
        return ROOT / words[0]
    path = ROOT / words[1].replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def _dvc(words: list[str]) -> str | None:
    """What DVC's own parser says of a command, and params.yaml of what it sets."""
    from dvc.cli import DvcParserError
    from dvc.cli.parser import get_main_parser

    try:
        get_main_parser().parse_args(words)
    except (DvcParserError, SystemExit, ArgumentError, ArgumentTypeError) as error:
        return f"dvc {' '.join(words)}: {error!r}"
    told = [b for a, b in zip(words, words[1:], strict=False) if a in ("-S", "--set-param")]
    return next((found for one in told if (found := _setting(one))), None)


def _setting(told: str) -> str | None:
    """What params.yaml has against `train.lora_r=8`; a variable of the shell fits any key."""
    path, _, value = told.partition("=")
    raw: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    inner = raw
    *sections, key = path.split(".")
    for name in sections:
        inner = inner.get(name, {})
    if not isinstance(inner, dict) or key not in inner:
        return f"params.yaml has no {path}"
    if "$" not in value:
        inner[key] = yaml.safe_load(value)
        try:
            Params.model_validate(raw)
        except (ParamsError, ValueError) as error:
            return f"{told}: {error}"
    return None


def ours(words: list[str]) -> bool:
    """Whether a command has flags that its --help can be asked about."""
    return words[0] in ("python", "mondrian") and any(w.startswith("--") for w in words)


def wrong_flags(words: list[str]) -> list[str]:
    """Flags that --help does not know, values it does not offer, and what it asks for besides."""
    flags = {w.split("=")[0] for w in words if w.startswith("--")}
    at = 3 if words[1] == "-m" or words[:3] == ["mondrian", "rollout", "report"] else 2
    shown = help_of((*words[:at], *sorted(flags & {"--plan", "--check", "--recompute_from"})))
    usage, _, _ = shown.partition("\n\n")
    known = set(re.findall(r"--\w+", shown))
    out = [f"{flag} is no flag of {' '.join(words[:at])}" for flag in sorted(flags - known)]
    for flag, value in zip(words, words[1:], strict=False):
        offered = re.search(rf"{re.escape(flag)} \{{([^}}]*)\}}", usage)
        if flag.startswith("--") and offered and value not in offered[1].split(","):
            out.append(f"{flag} {value} is none of {offered[1]}")
    asked = re.sub(r"\[[^][]*(\[[^][]*\][^][]*)*\]", "", usage)
    one_of = re.findall(r"\(([^)]*)\)", asked)
    needed = [re.findall(r"--\w+", each) for each in one_of]
    needed += [[flag] for flag in re.findall(r"--\w+", re.sub(r"\([^)]*\)", "", asked))]
    return out + [
        f"{' or '.join(any_of)} is missing"
        for any_of in needed
        if any_of and not flags & set(any_of)
    ]


@cache
def help_of(words: tuple[str, ...]) -> str:
    """What a command says with --help."""
    head = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "mondrian"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(
        [*head, *words[1:], "--help"], capture_output=True, text=True, cwd=ROOT, env=env, timeout=60
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


@cache
def said() -> tuple[str, ...]:
    """Every text of the sources, with … where a value goes."""
    out = [(ROOT / "Makefile").read_text()]
    out += [path.read_text() for path in (ROOT / "mondrian").rglob("*.[hj]*")]
    for path in [*(ROOT / "mondrian").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                out.append(
                    "".join(
                        str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                out.append(node.value)
    return tuple(out)


def is_said(message: str) -> bool:
    """Whether a text of the sources holds a quoted message; its … stand for any value."""
    pattern = re.compile(".*?".join(map(re.escape, re.split(r"\s*…\s*", message))), re.DOTALL)
    return any(pattern.search(text) for text in said())


def quoted(text: str) -> list[str]:
    """Messages in the first column of the table of the last chapter."""
    table = text[text.index("## 11") :]
    cells = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def anchors(path: Path) -> set[str]:
    """Headings of a document, as GitHub names them in links."""
    found = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in found}


def broken_links(path: Path) -> list[str]:
    """Links of a document that lead to no file, or to no heading of it."""
    out = []
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            out.append(link)
    return out


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_command_of_a_document_names_what_exists(path: Path) -> None:
    assert [found for words in commands(path.read_text()) if (found := fault(words))] == []


def test_the_guide_and_the_readme_have_many_commands() -> None:
    assert len(list(commands(GUIDE.read_text()))) > 40
    assert len(list(commands((ROOT / "README.md").read_text()))) > 10
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    assert set(COMMANDS) <= set(re.findall(r"\bmondrian ([a-z-]+)", text))


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_flag_of_a_document_is_one_its_help_shows(path: Path) -> None:
    asked = [words for words in commands(path.read_text()) if ours(words)]
    assert [found for words in asked for found in wrong_flags(words)] == []
    if path == GUIDE:
        assert len(asked) > 10


def test_a_made_up_command_would_be_found() -> None:
    text = (
        "```sh\nmondrian relaese ansel\npython stages/trane.py\nmake lunch   # soon\n"
        "dvc rerpo\nA=1 dvc exp run --quue\n"
        "for r in 4 8; do dvc exp run -S train.lora_rank=$r; done\n"
        "dvc exp run -S train.epochs=0 && dvc exp run -S train.lora_r=8\ngit comit\nsudo rm\n```\n"
        "```python\nnonsense\n```\n"
    )
    found = [fault(words) for words in commands(text)]
    assert len(found) == 11
    assert [i for i, one in enumerate(found) if one is None] == [5, 8]  # for …, train.lora_r=8
    assert found[6] == "params.yaml has no train.lora_rank"


@pytest.mark.slow
def test_a_made_up_flag_would_be_found() -> None:
    for told, wrong in (
        ("mondrian pull ansel --from there", "--rev or --stage is missing"),
        ("mondrian pull ansel --rev v1 --from there --speed 9", "--speed is no flag"),
        ("mondrian preferences --db a --advisor b --output_dir c --format dpo", "is none of"),
        ("python stages/link.py --db_path a --output_dir b", "--advisor is missing"),
    ):
        assert any(wrong in found for found in wrong_flags(told.split())), told
    assert wrong_flags("mondrian release ansel --version v1".split()) == []
    assert wrong_flags("python stages/train.py --plan --memory_gb 24".split()) == []


def test_every_message_that_the_guide_explains_is_one_the_sources_say() -> None:
    messages = quoted(GUIDE.read_text())
    assert len(messages) > 15
    assert [message for message in messages if not is_said(message)] == []
    assert not is_said("the moon is … too far")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    assert broken_links(path) == []


def test_a_broken_link_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One & two\n[a](page.md#one--two) [b](#three) [c](none.md) [d](https://x.y)")
    assert broken_links(page) == ["#three", "none.md"]


def test_the_guide_fits_on_a_few_screens() -> None:
    lines = GUIDE.read_text().splitlines()
    assert len(lines) <= 230
    assert max(len(line) for line in lines if not line.startswith("|")) <= 140
