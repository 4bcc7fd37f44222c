"""View model of a job for the pages: labels, parsed critiques and feedback."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mondrian.core.params import Params
from mondrian.critique import radar
from mondrian.critique.calibration import AppliedCalibration
from mondrian.critique.rejection import Rejection
from mondrian.critique.schema import Critique, serialize_critique, validate_critique
from mondrian.data.photos.stored_path import UPLOAD_PREFIX
from mondrian.rollout.formatting import plural
from mondrian.serving.feedback.request import count_changes
from mondrian.serving.http.responses import parse_llm_outputs
from mondrian.serving.jobs.critique_runner import CALIBRATION_KEY, parse_completion
from mondrian.storage.feedback import FeedbackRow, VoteRow
from mondrian.storage.jobs import ACTIVE_STATUSES, COMPLETED_STATUSES, STOPPED, JobRow

_MODE_LABELS = {
    "": "service default",
    "baseline": "service default",
    "base": "base model",
    "lora": "fine-tuned adapter",
    "fine_tuned": "fine-tuned adapter",
    "ab_test": "A/B test",
}
_STATUS_LABELS = {
    "pending": "not started",
    "queued": "waiting",
    "analyzing": "in progress",
    "failed": "not completed",
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
    calibration: AppliedCalibration | None = None  # None: the scores are as generated

    @property
    def unjudged(self) -> tuple[str, ...]:
        """The dimensions that the adapter cannot judge yet."""
        return self.calibration.calibration.unjudged if self.calibration else ()

    @property
    def served_json(self) -> str | None:
        """The critique as in the column `original` of feedback."""
        return serialize_critique(self.critique) if self.critique else None

    @property
    def corrected(self) -> Critique | None:
        text = (self.feedback or {}).get("critique")
        return validate_critique(text) if text else None

    @property
    def visible(self) -> Critique | None:
        """The critique that the page shows: the corrected one, if there is one."""
        return self.corrected or self.critique

    @property
    def note(self) -> str:
        return (self.feedback or {}).get("note") or ""

    @property
    def is_rated(self) -> bool:
        feedback = self.feedback or {}
        return bool(feedback.get("thumbs") or feedback.get("verdict"))

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
    def status_label(self) -> str:
        status = self.row["status"] or "unknown"
        is_stopped = status == "failed" and self.row["error"] == STOPPED
        return "stopped" if is_stopped else _STATUS_LABELS.get(status, status)

    @property
    def is_active(self) -> bool:
        return self.row["status"] in ACTIVE_STATUSES

    @property
    def is_completed(self) -> bool:
        return self.row["status"] in COMPLETED_STATUSES

    @property
    def grades(self) -> list[str]:
        """The overall scores of the valid critiques, after corrections."""
        critiques = (result.visible for result in self.results)
        return [f"{critique.overall_score:g}" for critique in critiques if critique]

    @property
    def is_rated(self) -> bool:
        return bool(self.results) and all(result.is_rated for result in self.results)

    @property
    def is_blind(self) -> bool:
        """Whether the page hides which model answered, because a rating would not be fair."""
        return self.is_ab_assigned and not self.is_rated

    def result(self, advisor: str) -> AdvisorResult | None:
        return next((result for result in self.results if result.advisor == advisor), None)


@dataclass(frozen=True)
class CritiquePage:
    """What the page of a critique shows: one job, or two of the same photo side by side."""

    jobs: tuple[JobView, ...]  # from left to right
    votes: Mapping[str, str]  # choice by advisor

    @property
    def is_pair(self) -> bool:
        return len(self.jobs) > 1

    @property
    def advisors(self) -> list[str]:
        """The advisors with a critique, in the order of the job."""
        return list(dict.fromkeys(result.advisor for job in self.jobs for result in job.results))

    def can_vote(self, advisor: str) -> bool:
        """Return whether two critiques can be compared that nobody has voted on, blind."""
        return self.is_blind and advisor in self._comparable and advisor not in self.votes

    @property
    def is_blind(self) -> bool:
        """Whether the page hides which model answered.

        A pair is blind until there is a vote for each advisor, or both critiques are rated; also
        while a job has failed, which may be tried again. It is not if the base answered for the
        adapter: nothing is left to compare then.
        """
        if not self.is_pair:
            return self.jobs[0].is_blind
        if any(job.row["fallback_occurred"] for job in self.jobs):
            return False
        if not all(job.is_completed for job in self.jobs):
            return True
        has_votes = bool(self._comparable) and set(self._comparable) <= set(self.votes)
        return not has_votes and not all(job.is_rated for job in self.jobs)

    @property
    def _comparable(self) -> list[str]:
        """The advisors with a valid critique in each job."""
        results = {a: [job.result(a) for job in self.jobs] for a in self.advisors}
        return [
            advisor
            for advisor, sides in results.items()
            if len(sides) > 1 and all(result and result.critique for result in sides)
        ]

    def heading(self, job: JobView) -> str:
        """Return the heading of one of two jobs; without its model while the page is blind."""
        side = ("Left", "Right")[self.jobs.index(job)]
        return side if self.is_blind else f"{side}: {job.mode_label}"

    def other_critique(self, job: JobView, advisor: str) -> Critique | None:
        """Return the other job's critique as the page shows it."""
        for other in self.jobs:
            if other is not job and (result := other.result(advisor)):
                return result.visible
        return None


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
            calibration = _parse_calibration(outputs, advisor)
            results.append(AdvisorResult(advisor, name, text, critique, feedback_row, calibration))
    return JobView(
        row,
        UPLOAD_PREFIX.sub("", Path(row["filename"] or "").stem) or "photo",
        " and ".join(names.values()) or "no advisor",
        _MODE_LABELS.get(mode, mode),
        _ARM_LABELS.get(arm, model_used),
        model_used.startswith(_AB_PREFIX),
        tuple(results),
    )


def _parse_calibration(outputs: dict[str, Any], advisor: str) -> AppliedCalibration | None:
    """Return the calibration that a row holds; None without one, and if it is damaged."""
    calibrations = outputs.get(CALIBRATION_KEY)
    if not isinstance(calibrations, dict) or advisor not in calibrations:
        return None
    try:
        return AppliedCalibration.model_validate(calibrations[advisor])
    except ValidationError:
        return None


def build_page(
    rows: Sequence[JobRow], params: Params, feedback: FeedbackByAdvisor, votes: Sequence[VoteRow]
) -> CritiquePage:
    """Build the page of one job, or of two about the same photo.

    Two are ordered by their ids. These are random, so the order says nothing about the model.
    """
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    left = ordered[0]["id"]
    return CritiquePage(
        tuple(build_job_view(row, params, feedback) for row in ordered),
        {vote["advisor"]: vote["choice"] for vote in votes if vote["left_job"] == left},
    )


def build_radar_polygons(result: AdvisorResult, other: Critique | None) -> list[tuple[str, str]]:
    """Return CSS class and points per polygon: the other critique, this one, its correction."""
    layers = (("soft", other), ("one", result.critique), ("two", result.corrected))
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
