"""dvc.yaml's `artifacts:` entry of an advisor, by which `dvc artifacts get` finds a version."""

from __future__ import annotations

import re
from typing import Any

import yaml

from mondrian.core.errors import ReleaseError

DVC_YAML = "dvc.yaml"
_KEY = re.compile(r"^artifacts:[ \t]*(#.*)?$", re.MULTILINE)


def add_artifact(text: str, advisor: str) -> str:
    """dvc.yaml with an entry for the advisor; all that was in it stays as it was written.

    Raises ReleaseError where dvc.yaml cannot take one.
    """
    known = _read(text)
    if advisor in (known.get("artifacts") or {}):
        return text
    path = _adapter_path(known).replace("${item.advisor}", advisor)
    entry = (
        f"  {advisor}:\n    path: {path}\n    type: model\n"
        f"    desc: adapter that critiques as {advisor} does\n"
    )
    match = _KEY.search(text)
    if match:
        offset = text.find("\n", match.start()) + 1 or len(text)
        updated = (
            text[:offset] + ("" if text[:offset].endswith("\n") else "\n") + entry + text[offset:]
        )
    else:
        updated = f"{text.rstrip()}\n\n# Versions: mondrian release (docs/releases.md).\n"
        updated += f"artifacts:\n{entry}"
    _check(known, _read(updated), advisor)
    return updated


def _adapter_path(known: dict[str, Any]) -> str:
    """Of the adapter, as dvc.yaml names it: DVC puts in what stands in ${}."""
    outs = known["stages"]["train"]["outs"]
    first = outs[0]
    return str(next(iter(first)) if isinstance(first, dict) else first)


def _read(text: str) -> dict[str, Any]:
    try:
        pipeline = yaml.safe_load(text)
        _adapter_path(pipeline)
    except (yaml.YAMLError, KeyError, TypeError, IndexError, AttributeError):
        raise ReleaseError(f"{DVC_YAML} has no stage train with an output; bring it back") from None
    return dict(pipeline)


def _check(before: dict[str, Any], after: dict[str, Any], advisor: str) -> None:
    """Raise ReleaseError unless one entry is all that is new."""
    entries = dict(after.get("artifacts") or {})
    entries.pop(advisor, None)
    if after | {"artifacts": entries} != before | {"artifacts": before.get("artifacts") or {}}:
        raise ReleaseError(
            f"{DVC_YAML}: artifacts is written in a way that cannot be added to; add "
            f"{advisor} with path and type: model there, and commit"
        )
