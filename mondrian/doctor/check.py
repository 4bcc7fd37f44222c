"""One checked fact, and a table of them that is Markdown."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Verdict = Literal["ok", "warning", "failed"]
REPORT_ADVICE = "open an issue with this table"
_STYLES: dict[Verdict, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}
_MAX_WIDTH = 400  # of the table; one that was folded would be no Markdown
_MAX_RESULT = 60  # characters, so that the table has 100; the list below it has whole results


@dataclass(frozen=True)
class Check:
    name: str
    result: str
    verdict: Verdict = "ok"
    advice: str = ""  # what to do, unless the verdict is ok


def hide_paths(check: Check, project: Path, home: Path) -> Check:
    """Replace the project folder by . and the home folder by ~: the table goes into an issue."""

    def hide(text: str) -> str:
        for folder, short in ((project, "."), (project.resolve(), "."), (home, "~")):
            if folder != folder.parent:  # not /
                text = text.replace(str(folder), short)
        return text

    return replace(check, result=hide(check.result), advice=hide(check.advice))


def print_checks(checks: Sequence[Check], file: TextIO) -> None:
    """Print the table, with colors if `file` is a terminal, and what to do about each problem."""
    console = Console(file=file, width=_MAX_WIDTH, highlight=False)
    table = Table("check", "result", "verdict", box=box.MARKDOWN)
    for check in checks:
        verdict = Text(check.verdict, _STYLES[check.verdict])
        table.add_row(Text(check.name), Text(_shorten(check.result)), verdict)
    with console.capture() as capture:
        console.print(table)
    file.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines() if line.strip())
    problems = [check for check in checks if check.verdict != "ok"]
    if problems:
        console.print()
    for check in problems:
        text = f"- {check.name}, {check.verdict}: {check.result}; {check.advice}"
        console.print(Text(text.removesuffix("; ")))
    console.print(Text(f"\n{summarize(checks)}"))


def _shorten(result: str) -> str:
    """Return the result without what separates columns of a Markdown table."""
    text = " ".join(result.replace("|", "/").split())
    return text if len(text) <= _MAX_RESULT else f"{text[: _MAX_RESULT - 1]}…"


def summarize(checks: Sequence[Check]) -> str:
    """Return how many checks have each verdict."""
    counts = Counter(check.verdict for check in checks)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in _STYLES)
