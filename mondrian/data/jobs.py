"""A job: one requested critique, as a database row or a list entry gives it."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mondrian.core.capture_time import format_capture_time
from mondrian.core.fields import UNKNOWN_TIME
from mondrian.critique.rejection import Rejection

# Keys of a list entry that name its photo and contain its critique.
PHOTO_KEYS = ("photo", "image", "filename", "file", "images", "image_path", "path", "title")
TEXT_KEYS = ("critique", "text", "response", "analysis", "completion", "output", "answer")


@dataclass(frozen=True)
class Review:
    """A person's decision about a critique: the newest row of `mondrian_feedback` for it."""

    verdict: str = ""  # accepted or corrected; empty if withdrawn or never given
    critique: str = ""  # the corrected one, canonical; empty if accepted unchanged
    original: str = ""  # the reviewed one; empty if the text was not a critique
    who: str = ""
    reviewed_at: float = 0.0  # seconds since 1970


@dataclass(frozen=True)
class Job:
    """One row; absent columns and NULL are empty text."""

    id: str
    filename: str
    advisor: str = ""  # empty in a list of one advisor
    llm_outputs: str = ""
    analysis_markdown: str = ""
    analysis_html: str = ""
    error: str = ""
    prompt: str = ""
    llm_prompt: str = ""
    mode: str = ""
    model: str = ""
    model_used: str = ""
    adapter: str = ""
    kind: str = ""  # upload, direct or shadow of this project's service; empty for other programs
    adapter_version: str = ""
    exposure: str = ""  # settings of the camera as JSON, in rows of this project's service
    review: Review | None = None  # of the advisor's critique
    timestamp: float = UNKNOWN_TIME  # seconds since 1970
    too_long_message: str = ""  # names the field that was not read because of its length
    text: str = ""  # the critique, for a job from a list
    text_from: str = ""  # the kind of that list
    rejection: Rejection | None = None  # of a list entry that cannot be used
    notes: tuple[str, ...] = ()  # what was assumed to read it, such as an encoding
    keys: str = ""  # of the list entry, for messages

    @cached_property
    def parsed_llm_outputs(self) -> dict[str, Any]:
        """llm_outputs as an object; empty if it is not one."""
        try:
            value = json.loads(self.llm_outputs) if self.llm_outputs.strip() else {}
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def prompts(self) -> tuple[str, ...]:
        inner = self.parsed_llm_outputs.get("prompt")  # where newer rows store it
        prompts = (self.prompt, self.llm_prompt, inner if isinstance(inner, str) else "")
        return tuple(filter(None, prompts))

    def capture_time(self) -> str:
        """Return when its photo was taken, as the service wrote it: the upload has no EXIF."""
        try:
            settings = json.loads(self.exposure or "{}")
        except (ValueError, RecursionError):
            return ""
        time = settings.get("time") if isinstance(settings, dict) else None
        return format_capture_time(f"{time}:00")

    def has_several_advisors(self) -> bool:
        return "," in self.advisor or self.advisor.strip() == "all"


class UniqueIds:
    """Gives each job of a source an id of its own: `7`, and for the next one `7 (line 12)`."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def add(self, job_id: str, place: str) -> str:
        unique = job_id.encode(errors="replace").decode()  # as it is written to the manifest
        while unique in self._ids:
            unique = f"{unique} ({place})"
        self._ids.add(unique)
        return unique


def answer_to_text(stored: Any) -> str:
    """Return a stored answer as text: unchanged, or as JSON; empty if there is none."""
    if not stored or isinstance(stored, str):
        return stored or ""
    try:
        text = json.dumps(stored, ensure_ascii=False)  # what was unreadable stays visible
        text.encode()
    except UnicodeEncodeError:  # half an emoji
        return json.dumps(stored)
    except RecursionError:  # deeply nested lists
        return "{"
    return text
