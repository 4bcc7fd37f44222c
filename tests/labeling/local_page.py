"""mondrian label or judge as a process, with its page."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT

from playwright.sync_api import Page

from mondrian.critique.schema import Critique, serialize_critique
from mondrian.labeling.critique_form import OPTIONAL, CritiqueForm
from tests.browsing import CONTRAST_SCRIPT, find_axe_violations, overflow_width
from tests.conftest import ROOT

_ADDRESS = re.compile(r"^(http://127\.0\.0\.1:\d+) ", re.MULTILINE)


@dataclass
class LocalPage:
    url: str
    start: str  # the output until the address
    process: subprocess.Popen[str]

    def interrupt(self) -> str:
        """Press Ctrl-C; return the rest of the output."""
        self.process.send_signal(SIGINT)
        output, _ = self.process.communicate()
        return output


@contextmanager
def run_local_page(*arguments: object, cwd: Path = ROOT) -> Iterator[LocalPage]:
    """Run `mondrian` with these arguments until the end of the context."""
    command = [sys.executable, "-m", "mondrian", *map(str, arguments), "--no-browser"]
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            output = ""
            while not (address := _ADDRESS.search(output)):
                line = process.stdout.readline()
                assert line, output
                output += line
            yield LocalPage(address[1], output, process)
        finally:
            if process.poll() is None:
                process.kill()


def required_fields(critique: Critique) -> dict[str, str]:
    """Return the fields of a critique that must be filled in."""
    form = CritiqueForm.from_critique(json.loads(serialize_critique(critique)))
    return {name: text for name, text in form.fields.items() if name not in OPTIONAL}


def check_page(page: Page) -> None:
    """Assert that axe finds nothing, each text has enough contrast, and the page fits."""
    assert find_axe_violations(page) == []
    assert page.evaluate(CONTRAST_SCRIPT)["faint"] == []
    assert overflow_width(page) <= 0
