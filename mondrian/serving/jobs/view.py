"""A job as pages show it: in words, with parsed critiques and their feedback."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from mondrian.core.params import Params
from mondrian.critique import radar
from mondrian.critique.rejection import Rejection
from mondrian.critique.schema import Critique, serialize_critique, validate_critique
from mondrian.serving.feedback.merge import count_changes
from mondrian.serving.http.responses import parse_llm_outputs
from mondrian.serving.jobs.critique_runner import parse_completion
from mondrian.storage.jobs import ACTIVE_STATUSES, COMPLETED_STATUSES, JobRow

_MODES = {
    "": "the service default",
    "baseline": "the service default",
    "base": "the base",
    "lora": "the fine-tuned adapter",
    "fine_tuned": "the fine-tuned adapter",
    "ab_test": "an A/B test",
}
_ARMS = {"base": "base", "fine_tuned": "fine-tuned"}
_AB_PREFIX = "ab_test_"
_UUID_CHARS = 37  # uuid and _, with which the name of a stored photo begins


@dataclass(frozen=True)
class AdvisorResult:
    advisor: str
    name: str
    text: str
    critique: Critique | None  # None if the text contains none
    kept: JobRow | None = None  # newest feedback, as `load_newest_feedback` returns it

    @property
    def served_json(self) -> str | None:
        """The critique as feedback stores it."""
        return serialize_critique(self.critique) if self.critique else None

    @property
    def corrected(self) -> Critique | None:
        text = (self.kept or {}).get("critique")
        return validate_critique(text) if text else None

    @property
    def opinion(self) -> str:
        """The feedback in words; empty without feedback."""
        feedback = self.kept or {}
        thumbs = {1: "thumbs up", -1: "thumbs down"}.get(feedback.get("thumbs") or 0, "")
        if feedback.get("note"):
            thumbs = f"{thumbs} with a note" if thumbs else "a note"
        return "; ".join(filter(None, (thumbs, self._verdict(feedback))))

    def _verdict(self, feedback: JobRow) -> str:
        by = f" by {feedback['who']}" if feedback.get("who") else ""
        if self.corrected and self.critique:
            scores, texts = count_changes(self.critique, self.corrected)
            counts = (_pluralize(scores, "score"), _pluralize(texts, "text"))
            return f"corrected{by}, {' and '.join(filter(None, counts))} changed; for training"
        if self.corrected:
            return f"rewritten{by}; for training"
        return f"taken{by} as it stands; for training" if feedback.get("verdict") else ""


@dataclass(frozen=True)
class JobView:
    row: JobRow
    photo: str  # the name that it was uploaded with
    names: str  # of the advisors
    asked: str  # the requested mode, in words
    arm: str
    drawn: bool  # an A/B test chose the arm
    said: tuple[AdvisorResult, ...] = ()  # empty until the job has completed

    @property
    def live(self) -> bool:
        return self.row["status"] in ACTIVE_STATUSES

    @property
    def done(self) -> bool:
        return self.row["status"] in COMPLETED_STATUSES

    @property
    def ours(self) -> bool:
        """Whether this service can run it again."""
        return self.row["kind"] in ("upload", "shadow")

    @property
    def grades(self) -> list[str]:
        return [f"{result.critique.overall_score:g}" for result in self.said if result.critique]

    @property
    def tokens_per_second(self) -> float | None:
        tokens, seconds = self.row["tokens"], self.row["decode_seconds"]
        return tokens / seconds if tokens and seconds else None


def build_job_view(
    row: JobRow, params: Params, feedback: Mapping[tuple[str, str], JobRow] | None = None
) -> JobView:
    """Build the view of a row, with the feedback that `load_newest_feedback` returned."""
    advisors = [name.strip() for name in (row["advisor"] or "").split(",") if name.strip()]
    names = {advisor: _advisor_name(advisor, params) for advisor in advisors}
    mode, model_used = row["mode"] or "", row["model_used"] or ""
    view = JobView(
        row,
        _photo_name(row["filename"] or ""),
        " and ".join(names.values()) or "no advisor",
        _MODES.get(mode, mode),
        _ARMS.get(model_used.removeprefix(_AB_PREFIX), model_used),
        model_used.startswith(_AB_PREFIX),
    )
    if not view.done:
        return view
    results = []
    for advisor, text in _texts(row, advisors).items():
        parsed = parse_completion(text, advisor)
        critique = None if isinstance(parsed, Rejection) else parsed[0]
        result = AdvisorResult(advisor, names[advisor], text, critique)
        results.append(_attach_feedback(result, row, feedback or {}))
    return replace(view, said=tuple(results))


def build_radar_polygons(
    result: AdvisorResult, others: list[JobView], job: JobView
) -> list[tuple[str, str]]:
    """Return (color, polygon) of a radar chart: the other arm, this critique, its correction."""
    twins = chain.from_iterable(other.said for other in others if other is not job)
    critiques = [("soft", twin.critique) for twin in twins if twin.advisor == result.advisor]
    critiques += [("one", result.critique), ("two", result.corrected)]
    return [(color, radar.polygon(critique.scores())) for color, critique in critiques if critique]


def _attach_feedback(
    result: AdvisorResult, row: JobRow, feedback: Mapping[tuple[str, str], JobRow]
) -> AdvisorResult:
    """Attach feedback if it is about this text: a job that ran again has another."""
    feedback_row = feedback.get((row["id"], result.advisor))
    if feedback_row and feedback_row["original"] == result.served_json:
        return replace(result, kept=feedback_row)
    if "," in (row["advisor"] or ""):
        return result
    # Thumbs were columns of the job before there was a table of feedback.
    return replace(result, kept={name: row[name] for name in ("thumbs", "note")})


def _pluralize(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}" if number else ""


def _texts(row: JobRow, advisors: list[str]) -> dict[str, str]:
    """Return each advisor's text, in whichever form it was stored."""
    llm_outputs = parse_llm_outputs(row)
    whole = llm_outputs.get("response") or row["analysis_markdown"] or ""
    outputs = {advisor: llm_outputs.get(advisor) or whole for advisor in advisors}
    return {
        advisor: text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
        for advisor, text in outputs.items()
    }


def _advisor_name(advisor: str, params: Params) -> str:
    known = advisor in params.advisors
    return params.profile(advisor).name if known else advisor.replace("_", " ").title()


def _photo_name(filename: str) -> str:
    stem = Path(filename).stem
    is_upload = stem[_UUID_CHARS - 1 : _UUID_CHARS] == "_"
    return (stem[_UUID_CHARS:] if is_upload else stem) or "photo"
