"""View model of a job for the pages: labels, parsed critiques and feedback."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mondrian.core.params import Params
from mondrian.critique import radar
from mondrian.critique.rejection import Rejection
from mondrian.critique.schema import Critique, serialize_critique, validate_critique
from mondrian.data.photos.stored_path import UPLOAD_PREFIX
from mondrian.rollout.formatting import plural
from mondrian.serving.feedback.request import count_changes
from mondrian.serving.http.responses import parse_llm_outputs
from mondrian.serving.jobs.critique_runner import parse_completion
from mondrian.storage.feedback import FeedbackRow
from mondrian.storage.jobs import ACTIVE_STATUSES, COMPLETED_STATUSES, JobRow

_MODE_LABELS = {
    "": "service default",
    "baseline": "service default",
    "base": "base model",
    "lora": "fine-tuned adapter",
    "fine_tuned": "fine-tuned adapter",
    "ab_test": "A/B test",
}
_ARM_LABELS = {"base": "base", "fine_tuned": "fine-tuned"}
_AB_PREFIX = "ab_test_"
FeedbackByAdvisor = Mapping[tuple[str, str], FeedbackRow]  # by job and advisor


@dataclass(frozen=True)
class AdvisorResult:
    """One advisor's part of a completed job."""

    advisor: str
    name: str  # of the advisor, as the page shows it
    text: str
    critique: Critique | None  # None if `text` is not a valid critique
    feedback: FeedbackRow | None = None  # the newest on this text

    @property
    def served_json(self) -> str | None:
        """The critique as in the column `original` of feedback."""
        return serialize_critique(self.critique) if self.critique else None

    @property
    def corrected(self) -> Critique | None:
        text = (self.feedback or {}).get("critique")
        return validate_critique(text) if text else None

    @property
    def feedback_summary(self) -> str:
        """The feedback in words; empty if there is none."""
        feedback = self.feedback or {}
        rating = {1: "thumbs up", -1: "thumbs down"}.get(feedback.get("thumbs") or 0, "")
        if feedback.get("note"):
            rating = f"{rating} with a note" if rating else "a note"
        return "; ".join(filter(None, (rating, self._verdict_summary(feedback))))

    def _verdict_summary(self, feedback: FeedbackRow) -> str:
        by = f" by {feedback['who']}" if feedback.get("who") else ""
        if self.corrected and self.critique:
            scores, texts = count_changes(self.critique, self.corrected)
            counts = ((scores, "score"), (texts, "text"))
            changes = (plural(count, noun) for count, noun in counts if count)
            return f"corrected{by}, {' and '.join(changes)} changed; used for training"
        if self.corrected:
            return f"rewritten{by}; used for training"
        return f"accepted{by} as served; used for training" if feedback.get("verdict") else ""


@dataclass(frozen=True)
class JobView:
    """A job as the pages show it."""

    row: JobRow
    photo: str  # name of the uploaded file
    names: str  # of the advisors
    mode_label: str  # which model was requested
    arm: str  # which model answered
    is_ab_assigned: bool
    results: tuple[AdvisorResult, ...]  # one per advisor; empty until the job is completed

    @property
    def is_active(self) -> bool:
        return self.row["status"] in ACTIVE_STATUSES

    @property
    def is_completed(self) -> bool:
        return self.row["status"] in COMPLETED_STATUSES

    @property
    def grades(self) -> list[str]:
        """The overall scores of the valid critiques."""
        return [f"{result.critique.overall_score:g}" for result in self.results if result.critique]


def build_job_view(
    row: JobRow, params: Params, feedback: FeedbackByAdvisor | None = None
) -> JobView:
    """Build the view of a job; `feedback` is what `load_newest_feedback` returns."""
    advisors = [name.strip() for name in (row["advisor"] or "").split(",") if name.strip()]
    names = {
        a: params.profile(a).name if a in params.advisors else a.replace("_", " ").title()
        for a in advisors
    }
    mode, model_used = row["mode"] or "", row["model_used"] or ""
    arm = model_used.removeprefix(_AB_PREFIX)
    results: list[AdvisorResult] = []
    if row["status"] in COMPLETED_STATUSES:
        outputs = parse_llm_outputs(row)
        joint_output = outputs.get("response") or row["analysis_markdown"] or ""
        for advisor, name in names.items():
            text = outputs.get(advisor) or joint_output
            text = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
            parsed = parse_completion(text, advisor)
            critique = None if isinstance(parsed, Rejection) else parsed[0]
            feedback_row = _matching_feedback(row, advisor, critique, feedback or {})
            results.append(AdvisorResult(advisor, name, text, critique, feedback_row))
    return JobView(
        row,
        UPLOAD_PREFIX.sub("", Path(row["filename"] or "").stem) or "photo",
        " and ".join(names.values()) or "no advisor",
        _MODE_LABELS.get(mode, mode),
        _ARM_LABELS.get(arm, model_used),
        model_used.startswith(_AB_PREFIX),
        tuple(results),
    )


def build_radar_polygons(
    result: AdvisorResult, others: list[JobView], job: JobView
) -> list[tuple[str, str]]:
    """Return CSS class and points per polygon: the other arm's, this one, its correction."""
    layers = [
        ("soft", other_result.critique)
        for other in others
        if other is not job
        for other_result in other.results
        if other_result.advisor == result.advisor
    ]
    layers += [("one", result.critique), ("two", result.corrected)]
    return [
        (name, radar.polygon_points(critique.scores())) for name, critique in layers if critique
    ]


def _matching_feedback(
    row: JobRow, advisor: str, critique: Critique | None, feedback: FeedbackByAdvisor
) -> FeedbackRow | None:
    """Return the newest feedback if it is about this critique, else what the job's row holds."""
    feedback_row = feedback.get((row["id"], advisor))
    if feedback_row and feedback_row["original"] == (critique and serialize_critique(critique)):
        return feedback_row
    # thumbs and note in the job's row may be older than the feedback table
    is_single = "," not in (row["advisor"] or "")
    return {"thumbs": row["thumbs"], "note": row["note"]} if is_single else None
