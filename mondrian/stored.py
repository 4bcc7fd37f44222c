"""Where the application keeps the text and the photograph of a job; never outside its folders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mondrian.errors import PhotoError
from mondrian.jobs import Job
from mondrian.recover import Reason


@dataclass(frozen=True)
class Folders:
    """Where the application keeps what its rows point to."""

    source: Path
    analysis: Path
    html: Path


def stored_text(job: Job, advisor: str, folders: Folders) -> tuple[str, str]:
    """Where the critique is stored and its text: the first of the places that has one."""
    outputs = job.outputs
    own = outputs.get(advisor)
    if own:
        return f"llm_outputs.{advisor}", own if isinstance(own, str) else json.dumps(own)
    if job.asked_several():  # what is not named after the advisor is another's
        text = _read_inside(folders.analysis, f"analysis-{advisor}-{job.id}.md")
        return ("analysis_md", _full(text)) if text.strip() else (Reason.ADVISOR_ABSENT, "")
    if isinstance(outputs.get("response"), str) and outputs["response"].strip():
        return "llm_outputs.response", outputs["response"]
    return next(_other_texts(job, advisor, folders), ("", ""))


def _full(markdown: str) -> str:
    return markdown.split("## Full Analysis", 1)[-1]


def _other_texts(job: Job, advisor: str, folders: Folders) -> Iterator[tuple[str, str]]:
    markdown = job.analysis_markdown.strip()
    is_path = len(markdown) < 500 and "\n" not in markdown and markdown.endswith(".md")
    if markdown and not is_path:
        yield "analysis_markdown", _full(markdown)
    names = [Path(markdown.replace("\\", "/")).name] if is_path else []
    for name in [*names, f"analysis-{advisor}-{job.id}.md"]:
        text = _read_inside(folders.analysis, name)
        if text.strip():
            yield "analysis_md", _full(text)
    if job.analysis_html.strip():
        yield "analysis_html", job.analysis_html
    stem = Path(job.filename.replace("\\", "/")).stem
    text = _read_inside(folders.html, f"analysis-{stem[:10]}-{job.id[:6]}.html")
    if text.strip():
        yield "analysis", text


def _read_inside(folder: Path, name: str) -> str:
    """A file of the folder itself; empty where there is none or where it leads outside."""
    if not _is_name(name):
        return ""
    path = folder / name
    if not path.is_file() or path.resolve().parent != folder.resolve():
        return ""
    return path.read_text(encoding="utf-8", errors="replace")


def _is_name(name: str) -> bool:
    """Whether a text can be the name of a file in a folder on any system."""
    plain = name not in ("", ".", "..") and not any(c in name for c in "/\x00")
    return plain and len(name.encode("utf-8", "replace")) <= 255


def find_photo(stored: str, source: Path) -> tuple[Path, str]:
    """The photograph a row names, whatever folders the name speaks of, and how it was found.

    Raises PhotoError (image_missing, image_outside_source).
    """
    name = stored.replace("\\", "/").rsplit("/", 1)[-1]
    if not _is_name(name):
        raise PhotoError(Reason.IMAGE_MISSING, f"the row names no file: {stored[:80]!r}")
    bare = re.sub(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}_", "", name)
    for found, candidate in (("as_stored", name), ("without_upload_prefix", bare)):
        path = source / candidate
        if not path.is_file():
            continue
        if path.resolve().parent != source.resolve():
            raise PhotoError(Reason.IMAGE_OUTSIDE_SOURCE, f"{candidate} leads outside {source}")
        return path, found
    raise PhotoError(Reason.IMAGE_MISSING, f"no {name} in {source}")
