"""Find the text of a job's critique in its row and in the application's folders, never outside."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mondrian.critique.parser import MAX_CHARACTERS
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.data.jobs import TEXT_KEYS, Job, answer_to_text
from mondrian.data.photo_index import UPLOAD_PREFIX


@dataclass(frozen=True)
class ApplicationFolders:
    """Folders of photos (`source`) and texts that rows refer to."""

    source: Path
    analysis: Path
    html: Path


def find_critique_text(
    job: Job, advisor: str, folders: ApplicationFolders
) -> tuple[str, str] | Rejection:
    """Return the first source with a text, and the text; two empty strings if there is none.

    Rejections: that of the job; advisor_absent if only other advisors have texts, too_long if the
    only text is, no_text for an entry of a list.
    """
    if job.rejection:
        return job.rejection
    if job.text_from:
        source, text = job.text_from, job.text
    else:
        texts = _find_texts(job, advisor, folders)
        source, text = next(((source, text) for source, text in texts if text.strip()), ("", ""))
    if text:
        return source, text
    if job.too_long_message:
        return Rejection(RejectionReason.TOO_LONG, job.too_long_message)
    if job.has_several_advisors():
        detail = f"the job is for {job.advisor[:80]!r}; {advisor} did not answer"
        return Rejection(RejectionReason.ADVISOR_ABSENT, detail)
    if job.keys:
        detail = f"no {' or '.join(TEXT_KEYS)} among its keys: {job.keys}"
        return Rejection(RejectionReason.NO_TEXT, detail)
    return "", ""


def _find_texts(job: Job, advisor: str, folders: ApplicationFolders) -> Iterator[tuple[str, str]]:
    answers = job.parsed_llm_outputs
    yield f"llm_outputs.{advisor}", _response_text(answers.get(advisor))
    default_name = f"analysis-{advisor}-{job.id}.md"
    if job.has_several_advisors():  # only a text that names the advisor is theirs
        yield "analysis_md", _full_analysis(_read_in_folder(folders.analysis, default_name))
        names_advisor = re.compile(rf"data-advisor\s*=\s*[\"']?{re.escape(advisor)}\b")
        pages = {"analysis_html": job.analysis_html, "analysis": _read_html(job, folders)}
        for source, page in pages.items():
            if names_advisor.search(page):
                yield source, page
        return
    yield "llm_outputs.response", _response_text(answers.get("response"))
    markdown = job.analysis_markdown.strip()
    names = [default_name]
    if len(markdown) < 500 and "\n" not in markdown and markdown.endswith(".md"):
        names.insert(0, Path(markdown.replace("\\", "/")).name)
    else:
        yield "analysis_markdown", _full_analysis(markdown)
    for name in names:
        yield "analysis_md", _full_analysis(_read_in_folder(folders.analysis, name))
    yield "analysis_html", job.analysis_html
    yield "analysis", _read_html(job, folders)


def _response_text(stored: Any) -> str:
    """Return an advisor's answer: text, an object with a response, or the critique itself."""
    if isinstance(stored, dict) and isinstance(stored.get("response"), str):
        return str(stored["response"])
    return answer_to_text(stored)


def _full_analysis(markdown: str) -> str:
    return markdown.split("## Full Analysis", 1)[-1]


def _read_html(job: Job, folders: ApplicationFolders) -> str:
    """Read the HTML file named after the photo, with or without its upload prefix."""
    name = Path(job.filename.replace("\\", "/")).name
    stems = dict.fromkeys(Path(n).stem[:10] for n in (name, UPLOAD_PREFIX.sub("", name)))
    names = (f"analysis-{stem}-{job.id[:6]}.html" for stem in stems)
    pages = (_read_in_folder(folders.html, name) for name in names)
    return next(filter(str.strip, pages), "")


def _read_in_folder(folder: Path, name: str) -> str:
    """Read a file directly in the folder; empty if there is none or if it links outside."""
    is_name = name not in ("", ".", "..") and not any(char in name for char in "/\x00")
    if not is_name or len(name.encode("utf-8", "replace")) > 255:
        return ""
    path = folder / name
    if not path.is_file() or path.resolve().parent != folder.resolve():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(MAX_CHARACTERS + 1)  # one more, so that parse_critique rejects it
