"""Read a job's critique from its row and from the application's folders, never outside.

A row may have a text in several places. The first place with a readable critique counts.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mondrian.critique.diagnosis import find_error, format_error_value
from mondrian.critique.json_extract import DuplicateKeyError, is_critique, parse_unique
from mondrian.critique.parser import MAX_CHARACTERS, ParsedCritique, parse_critique
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.data.jobs import TEXT_KEYS, Job, answer_to_text
from mondrian.data.photos.stored_path import UPLOAD_PREFIX

Place = tuple[str, str | Rejection]  # its name, and the text there or why there is none
# Of several rejections, the first in this order counts; those not named are between the groups.
_MOST_TELLING = (RejectionReason.ERROR_PLACEHOLDER,)
_LESS_TELLING = (
    RejectionReason.OTHER_SCHEMA,
    RejectionReason.THINKING_ONLY,
    RejectionReason.PROMPT_ECHO,
    RejectionReason.UNSCORED,
    RejectionReason.ADVISOR_ABSENT,
    RejectionReason.NO_TEXT,
)


@dataclass(frozen=True)
class ApplicationFolders:
    """Folders of photos (`source`) and texts that rows refer to."""

    source: Path
    analysis: Path
    html: Path


def read_critique(
    job: Job, advisor: str, folders: ApplicationFolders
) -> tuple[str, ParsedCritique] | Rejection:
    """Return the first place with a readable critique, and the critique; rather one with scores.

    Otherwise the most telling rejection of all places: a stored error message, then faults of a
    critique, then texts of another kind. Rejections of a job without any text: too_long,
    advisor_absent if only other advisors have texts, no_text.
    """
    rejections: list[Rejection] = []
    unscored: tuple[str, ParsedCritique] | None = None
    parsed_texts: set[str] = set()
    for place, text in _find_texts(job, advisor, folders):
        if isinstance(text, Rejection):
            rejections.append(text)
        elif text.strip() and text not in parsed_texts:
            parsed_texts.add(text)
            parsed = parse_critique(text, advisor, job.prompts(), accept_unscored=True)
            if isinstance(parsed, Rejection):
                rejections.append(parsed)
            elif parsed.scored:
                return place, parsed
            else:
                unscored = unscored or (place, parsed)
    if unscored:
        return unscored
    return min(rejections, key=_rank) if rejections else _reject_without_text(job, advisor)


def _rank(rejection: Rejection) -> int:
    """Return the place of a rejection among others, the most telling first."""
    if rejection.reason in _MOST_TELLING:
        return 0
    is_less = rejection.reason in _LESS_TELLING
    return 2 + _LESS_TELLING.index(rejection.reason) if is_less else 1


def _reject_without_text(job: Job, advisor: str) -> Rejection:
    if job.too_long_message:
        return Rejection(RejectionReason.TOO_LONG, job.too_long_message)
    if job.error.strip().lower() not in ("", "none", "null"):
        return Rejection(RejectionReason.ERROR_PLACEHOLDER, format_error_value(job.error))
    if job.has_several_advisors():
        detail = f"the job is for {job.advisor[:80]!r}; {advisor} did not answer"
        return Rejection(RejectionReason.ADVISOR_ABSENT, detail)
    if job.keys:
        detail = f"no {' or '.join(TEXT_KEYS)} among its keys: {job.keys}"
        return Rejection(RejectionReason.NO_TEXT, detail)
    return Rejection(RejectionReason.NO_TEXT, "no text in the row or in a file")


def _find_texts(job: Job, advisor: str, folders: ApplicationFolders) -> Iterator[Place]:
    """Yield each place that may have a text, in the order of docs/database.md."""
    if job.text_from:
        yield job.text_from, job.rejection or job.text
        return
    yield from _find_outputs(job, advisor)
    default_name = f"analysis-{advisor}-{job.id}.md"
    markdown = job.analysis_markdown.strip()
    if job.has_several_advisors():  # only a text that names the advisor is theirs
        yield from _markdown_texts("analysis_md", _read_in_folder(folders.analysis, default_name))
        names_advisor = re.compile(rf"data-advisor\s*=\s*[\"']?{re.escape(advisor)}\b")
        pages = {
            "analysis_markdown": markdown,
            "analysis_html": job.analysis_html,
            "analysis": _read_html(job, folders),
        }
        yield from ((name, page) for name, page in pages.items() if names_advisor.search(page))
        return
    names = [default_name]
    if len(markdown) < 500 and "\n" not in markdown and markdown.endswith(".md"):
        names.insert(0, Path(markdown.replace("\\", "/")).name)
    else:
        yield from _markdown_texts("analysis_markdown", markdown)
    for name in names:
        yield from _markdown_texts("analysis_md", _read_in_folder(folders.analysis, name))
    yield "analysis_html", job.analysis_html
    yield "analysis", _read_html(job, folders)


def _find_outputs(job: Job, advisor: str) -> Iterator[Place]:
    """Yield the places in llm_outputs: the advisor's answer, the only answer, an error."""
    if not job.llm_outputs.strip():
        return
    is_shared = job.has_several_advisors()
    try:
        answers = parse_unique(job.llm_outputs)
    except DuplicateKeyError as duplicate:
        detail = f"llm_outputs: {duplicate}"
        yield "llm_outputs", Rejection(RejectionReason.MALFORMED_JSON, detail)
        return
    except ValueError:
        answers = None
    if not isinstance(answers, dict):  # not an object: the text itself, or a damaged object
        if not is_shared:
            yield "llm_outputs", job.llm_outputs
        return
    spellings = (key for key in answers if key.casefold() == advisor.casefold())
    key = advisor if advisor in answers else next(spellings, advisor)
    yield f"llm_outputs.{advisor}", _response_text(answers.get(key))
    if not is_shared:
        yield "llm_outputs.response", _response_text(answers.get("response"))
        if is_critique(answers):
            yield "llm_outputs", job.llm_outputs
    if error := answers.get("error"):
        detail = f"llm_outputs.error: {format_error_value(error)}"
        yield "llm_outputs.error", Rejection(RejectionReason.ERROR_PLACEHOLDER, detail)


def _markdown_texts(place: str, markdown: str) -> Iterator[Place]:
    """Yield the part after "## Full Analysis", or all of it; an error may stand before that."""
    before, heading, analysis = markdown.partition("## Full Analysis")
    yield place, analysis if heading else markdown
    if heading and (error := find_error(before)):
        yield place, error


def _response_text(stored: Any) -> str:
    """Return an advisor's answer: text, an object with a response, or the critique itself."""
    response = stored.get("response") if isinstance(stored, dict) else None
    return response if isinstance(response, str) and response else answer_to_text(stored)


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
