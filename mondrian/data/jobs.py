"""A job: one critique that was asked for, wherever it is kept; and what a store of them tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

from mondrian.core.fields import UNKNOWN_TIME


@dataclass(frozen=True)
class Review:
    """What a person decided of a critique: the newest row of `mondrian_feedback` about it.

    verdict   accepted or corrected; empty where it was taken back, or never given
    critique  the corrected one, canonical; empty where it was accepted as it stands
    original  the one that was reviewed; empty where what was said was none
    at        seconds since 1970
    """

    verdict: str = ""
    critique: str = ""
    original: str = ""
    who: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class Job:
    """One row; absent columns and NULL are empty text."""

    id: str
    filename: str
    advisor: str = ""  # empty in a list of one advisor
    llm_outputs: str = ""
    analysis_markdown: str = ""
    analysis_html: str = ""
    prompt: str = ""
    llm_prompt: str = ""
    mode: str = ""
    model: str = ""
    model_used: str = ""
    adapter: str = ""
    kind: str = ""  # upload, direct or shadow of this project's service; empty of other programs
    adapter_version: str = ""
    review: Review | None = None  # what a person said of the advisor's critique
    timestamp: float = UNKNOWN_TIME  # seconds since 1970
    too_long_message: str = ""  # what was not read for its length
    text: str = ""  # the critique, of a job that comes from a list
    text_from: str = ""  # the kind of that list

    @property
    def llm_outputs_prompt(self) -> str:
        """The prompt inside llm_outputs, where newer rows keep it."""
        sent = self.parsed_llm_outputs.get("prompt")
        return sent if isinstance(sent, str) else ""

    @cached_property
    def parsed_llm_outputs(self) -> dict[str, Any]:
        """llm_outputs as an object; empty where it is none."""
        try:
            value = json.loads(self.llm_outputs) if self.llm_outputs.strip() else {}
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def prompts(self) -> tuple[str, ...]:
        """What the job asked, in each of the places that keep it."""
        return tuple(filter(None, (self.prompt, self.llm_prompt, self.llm_outputs_prompt)))

    def has_several_advisors(self) -> bool:
        """Whether the job asked more than one advisor."""
        return "," in self.advisor or self.advisor.strip() == "all"

    def created_at_iso(self) -> str:
        """The best time there is as ISO text; empty where there is none."""
        return (
            ""
            if self.timestamp == UNKNOWN_TIME
            else datetime.fromtimestamp(self.timestamp, UTC).isoformat()
        )


class JobSource(Protocol):
    """A store of jobs that is being read."""

    def count_by_advisor(self) -> dict[str, int]:
        """Rows for each value of the advisor field."""

    def iter_finished(self, advisor: str) -> Iterator[Job]:
        """Finished jobs that concern an advisor, one at a time, in any order."""


def serialize_answer(stored: Any) -> str:
    """A stored answer as text: as it is, or as JSON; empty where there is none."""
    try:
        return stored if isinstance(stored, str) else json.dumps(stored) if stored else ""
    except RecursionError:  # lists within lists
        return "{"
