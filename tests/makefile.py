"""The Makefile's targets."""

import re

from tests.conftest import ROOT


def targets() -> set[str]:
    """Return the targets that a user names."""
    match = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert match is not None
    return set(match[1].split())
