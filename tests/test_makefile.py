"""Recipes of the Makefile work with GNU make 3.81, which macOS has, and in a path with spaces."""

import re

from tests.conftest import ROOT

# Looked up in the PATH that make was started with; everything else is in the environment.
_SYSTEM_PROGRAMS = {"command", "echo", "find", "if", "rm", "set", "touch"}


def recipe_lines() -> list[str]:
    """Return the commands of all recipes, continued lines joined, without the prefix @."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    recipes = re.findall(r"^(?:\t|@)(.+)$", text, re.MULTILINE)
    return [line.removeprefix("@") for line in recipes if not line.startswith("$(call")]


def test_recipes_name_programs_of_the_environment_by_path() -> None:
    lines = recipe_lines()
    assert len(lines) > 15
    for line in lines:
        program = line.split()[0]
        assert (
            program.startswith(("$(BIN)/", "$(PYTHON)", "$(PYTEST)")) or program in _SYSTEM_PROGRAMS
        ), line


def test_no_recipe_names_the_folder_of_the_checkout_without_quotes() -> None:
    text = (ROOT / "Makefile").read_text()
    assert re.findall(r"^.*\$\(CURDIR\).*$", text, re.MULTILINE) == [
        "export PATH := $(CURDIR)/$(BIN):$(PATH)"
    ]
