"""Where the application keeps the text of a job's critique; never outside its folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mondrian.critique.parser import MAX_CHARACTERS
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.data.jobs import Job, serialize_answer
from mondrian.data.photo_index import UPLOAD_PREFIX


@dataclass(frozen=True)
class ApplicationFolders:
    """Where the application keeps what its rows point to."""

    source: Path
    analysis: Path
    html: Path


def find_critique_text(
    job: Job, advisor: str, folders: ApplicationFolders
) -> tuple[str, str] | Rejection:
    """Where the critique is stored and its text: the first of the places that has one.

    Rejected: advisor_absent where several were asked and this one has no text, too_long where the
    only text is beyond reading.
    """
    place, text = next(_texts(job, advisor, folders), ("", ""))
    if text:
        return place, text
    if job.too_long_message:
        return Rejection(RejectionReason.TOO_LONG, job.too_long_message)
    if job.has_several_advisors():
        message = f"{job.advisor[:80]!r} asked several; {advisor} did not answer"
        return Rejection(RejectionReason.ADVISOR_ABSENT, message)
    return "", ""


def _texts(job: Job, advisor: str, folders: ApplicationFolders) -> Iterator[tuple[str, str]]:
    if job.text_from:
        yield job.text_from, job.text
        return
    yield from _yield_text(
        f"llm_outputs.{advisor}", _answer_to_text(job.parsed_llm_outputs.get(advisor))
    )
    file = f"analysis-{advisor}-{job.id}.md"
    if job.has_several_advisors():  # what is not named after the advisor is another's
        yield from _yield_text(
            "analysis_md", _extract_full_analysis(_read_file_in_folder(folders.analysis, file))
        )
        for place, page in (
            ("analysis_html", job.analysis_html),
            ("analysis", _page(job, folders)),
        ):
            if re.search(rf"data-advisor\s*=\s*[\"']?{re.escape(advisor)}\b", page):
                yield place, page
        return
    yield from _yield_text(
        "llm_outputs.response", _answer_to_text(job.parsed_llm_outputs.get("response"))
    )
    markdown = job.analysis_markdown.strip()
    is_path = len(markdown) < 500 and "\n" not in markdown and markdown.endswith(".md")
    if not is_path:
        yield from _yield_text("analysis_markdown", _extract_full_analysis(markdown))
    names = [Path(markdown.replace("\\", "/")).name] if is_path else []
    for name in [*names, file]:
        yield from _yield_text(
            "analysis_md", _extract_full_analysis(_read_file_in_folder(folders.analysis, name))
        )
    yield from _yield_text("analysis_html", job.analysis_html)
    yield from _yield_text("analysis", _page(job, folders))


def _yield_text(place: str, text: str) -> Iterator[tuple[str, str]]:
    if text.strip():
        yield place, text


def _answer_to_text(stored: Any) -> str:
    """What an advisor answered: text, an object with a response, or the critique itself."""
    if isinstance(stored, dict) and isinstance(stored.get("response"), str):
        stored = stored["response"]
    return serialize_answer(stored)


def _extract_full_analysis(markdown: str) -> str:
    return markdown.split("## Full Analysis", 1)[-1]


def _page(job: Job, folders: ApplicationFolders) -> str:
    """The HTML file named after the photograph, with or without its upload's prefix."""
    name = Path(job.filename.replace("\\", "/")).name
    stems = dict.fromkeys(Path(n).stem[:10] for n in (name, UPLOAD_PREFIX.sub("", name)))
    files = (f"analysis-{stem}-{job.id[:6]}.html" for stem in stems)
    return next(filter(str.strip, (_read_file_in_folder(folders.html, file) for file in files)), "")


def _read_file_in_folder(folder: Path, name: str) -> str:
    """A file of the folder itself; empty where there is none or where it leads outside."""
    if not _is_name(name):
        return ""
    path = folder / name
    if not path.is_file() or path.resolve().parent != folder.resolve():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(MAX_CHARACTERS + 1)  # one more, so that `recover` sees it is too long


def _is_name(name: str) -> bool:
    """Whether a text can be the name of a file in a folder on any system."""
    plain = name not in ("", ".", "..") and not any(c in name for c in "/\x00")
    return plain and len(name.encode("utf-8", "replace")) <= 255
