"""A row of the jobs as a person reads it: in words, its critiques parsed, and who gave them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mondrian.core.params import Params
from mondrian.critique import radar
from mondrian.critique.rejection import Rejection
from mondrian.critique.schema import Critique, serialize_critique, validate_critique
from mondrian.serving.feedback.merge import count_changes
from mondrian.serving.http.responses import parse_llm_outputs
from mondrian.serving.jobs.critique_runner import parse_completion
from mondrian.storage.jobs import ACTIVE_STATUSES, COMPLETED_STATUSES, JobRow

_MODES = {
    "": "as the service is set",
    "baseline": "as the service is set",
    "base": "the base",
    "lora": "the fine-tuned adapter",
    "fine_tuned": "the fine-tuned adapter",
    "ab_test": "a draw",
}
_ARMS = {"base": "base", "fine_tuned": "fine-tuned"}
_AB_PREFIX = "ab_test_"
_UUID = 37  # characters that a kept photograph's name begins with: uuid and _


@dataclass(frozen=True)
class AdvisorResult:
    """One advisor's part of a job; `critique` is None where none is to be found in `text`.

    kept  what a person said of it, as `feedback.newest` gives it
    """

    advisor: str
    name: str
    text: str
    critique: Critique | None
    kept: JobRow | None = None

    @property
    def served_json(self) -> str | None:
        """The critique as feedback remembers it."""
        return serialize_critique(self.critique) if self.critique else None

    @property
    def corrected(self) -> Critique | None:
        """What a person made of it."""
        text = (self.kept or {}).get("critique")
        return validate_critique(text) if text else None

    @property
    def opinion(self) -> str:
        """What a person said of it, in words; empty where nobody did."""
        feedback = self.kept or {}
        thumbs = {1: "thumbs up", -1: "thumbs down"}.get(feedback.get("thumbs") or 0, "")
        if feedback.get("note"):
            thumbs = f"{thumbs or 'a note'}{' with a note' if thumbs else ''}"
        return "; ".join(filter(None, (thumbs, self._verdict(feedback))))

    def _verdict(self, feedback: JobRow) -> str:
        by = f" by {feedback['who']}" if feedback.get("who") else ""
        if self.corrected and self.critique:
            scores, texts = count_changes(self.critique, self.corrected)
            counts = (_pluralize(scores, "score"), _pluralize(texts, "text"))
            return f"corrected{by}, {' and '.join(filter(None, counts))} changed; for training"
        if self.corrected:
            return f"written anew{by}; for training"
        return f"taken{by} as it stands; for training" if feedback.get("verdict") else ""


@dataclass(frozen=True)
class JobView:
    """A job as pages show it; `said` is empty until it has ended well."""

    row: JobRow
    photo: str
    names: str
    asked: str
    arm: str
    drawn: bool
    said: tuple[AdvisorResult, ...] = ()

    @property
    def live(self) -> bool:
        """Whether it is still to come."""
        return self.row["status"] in ACTIVE_STATUSES

    @property
    def done(self) -> bool:
        """Whether it ended well."""
        return self.row["status"] in COMPLETED_STATUSES

    @property
    def ours(self) -> bool:
        """Whether it can be begun again here."""
        return self.row["kind"] in ("upload", "shadow")

    @property
    def grades(self) -> list[str]:
        """The overall grade of each advisor that gave one."""
        return [f"{result.critique.overall_score:g}" for result in self.said if result.critique]

    @property
    def tokens_per_second(self) -> float | None:
        """How quickly it was written."""
        tokens, seconds = self.row["tokens"], self.row["decode_seconds"]
        return tokens / seconds if tokens and seconds else None


def build_job_view(
    row: JobRow, params: Params, feedback: Mapping[tuple[str, str], JobRow] | None = None
) -> JobView:
    """A row with its critiques, and what `feedback.newest` knows of them."""
    advisors = [name.strip() for name in (row["advisor"] or "").split(",") if name.strip()]
    names = {advisor: _name(advisor, params) for advisor in advisors}
    mode, used = row["mode"] or "", row["model_used"] or ""
    view = JobView(
        row,
        _photo(row["filename"] or ""),
        " and ".join(names.values()) or "nobody",
        _MODES.get(mode, mode),
        _ARMS.get(used.removeprefix(_AB_PREFIX), used),
        used.startswith(_AB_PREFIX),
    )
    if not view.done:
        return view
    texts = _texts(row, advisors)
    parts = (AdvisorResult(a, names[a], text, _critique(text, a)) for a, text in texts.items())
    return replace(
        view, said=tuple(_attach_feedback(result, row, feedback or {}) for result in parts)
    )


def build_radar_polygons(
    result: AdvisorResult, others: list[JobView], job: JobView
) -> list[tuple[str, str]]:
    """Polygons of a radar: the other arm thinly, then this critique, then what was made of it."""
    beside = [
        twin.critique
        for other in others
        if other is not job
        for twin in other.said
        if twin.advisor == result.advisor and twin.critique
    ]
    own = [result.critique] if result.critique else []
    new = [result.corrected] if result.corrected else []
    colored_critiques = [
        (color, critique)
        for color, critiques in (("soft", beside), ("one", own), ("two", new))
        for critique in critiques
    ]
    return [(color, radar.polygon(critique.scores())) for color, critique in colored_critiques]


def _attach_feedback(
    result: AdvisorResult, row: JobRow, feedback: Mapping[tuple[str, str], JobRow]
) -> AdvisorResult:
    """With what was said of it, as long as the text is the one it was said of."""
    feedback_row = feedback.get((row["id"], result.advisor))
    if feedback_row and feedback_row["original"] == result.served_json:
        return replace(result, kept=feedback_row)
    alone = "," not in (row["advisor"] or "")  # thumbs from before there was a table for them
    return (
        replace(result, kept={name: row[name] for name in ("thumbs", "note")}) if alone else result
    )


def _pluralize(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}" if number else ""


def _texts(row: JobRow, advisors: list[str]) -> dict[str, str]:
    """What was said in each advisor's name, in whichever form it was stored."""
    llm_outputs = parse_llm_outputs(row)
    whole = llm_outputs.get("response") or row["analysis_markdown"] or ""
    return {advisor: _text(llm_outputs.get(advisor) or whole) for advisor in advisors}


def _text(output: Any) -> str:
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


def _critique(text: str, advisor: str) -> Critique | None:
    parsed = parse_completion(text, advisor)
    return None if isinstance(parsed, Rejection) else parsed[0]


def _name(advisor: str, params: Params) -> str:
    known = advisor in params.advisors
    return params.profile(advisor).name if known else advisor.replace("_", " ").title()


def _photo(filename: str) -> str:
    """The name that a photograph came with, as far as it was kept."""
    stem = Path(filename).stem
    return (stem[_UUID:] if stem[_UUID - 1 : _UUID] == "_" else stem) or "photograph"
