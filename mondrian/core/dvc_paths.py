"""Paths that dvc.yaml passes to a stage, for commands that work on all advisors at once."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from mondrian.core.errors import ParamsError
from mondrian.core.params import Params


def read_stage_flags(
    stage: str, names: Sequence[str], params: Params, pipeline: Path = Path("dvc.yaml")
) -> list[list[Path]]:
    """Return the values of a stage's flags, one list per advisor; ParamsError if missing."""
    try:
        stages = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"]
        command = stages[stage]["cmd"].replace("${base.name}", params.base.name)
        advisor_paths = []
        for advisor in params.advisors:
            words = shlex.split(command.replace("${item.advisor}", advisor))
            advisor_paths.append([Path(words[words.index(f"--{name}") + 1]) for name in names])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, IndexError, AttributeError):
        flags = ", ".join(f"--{name}" for name in names)
        raise ParamsError(
            f"{pipeline} has no stage {stage} with {flags}; run from the project's folder, or "
            f"give {flags}"
        ) from None
    return advisor_paths
