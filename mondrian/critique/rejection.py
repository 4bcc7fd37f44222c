"""Why a finished job gives no training pair: the closed list, explained in docs/reasons.md."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RejectionReason(StrEnum):
    """In the order in which a job is examined: its giver, text, photograph, what is suspicious."""

    UNREVIEWED = "unreviewed"
    NO_TEXT = "no_text"
    NOT_UTF8 = "not_utf8"
    TOO_LONG = "too_long"
    ERROR_PLACEHOLDER = "error_placeholder"
    ADVISOR_ABSENT = "advisor_absent"
    THINKING_ONLY = "thinking_only"
    PROMPT_ECHO = "prompt_echo"
    LOOPING = "looping"
    WRONG_LANGUAGE = "wrong_language"
    UNSCORED = "unscored"
    TRUNCATED = "truncated"
    MALFORMED_JSON = "malformed_json"
    OTHER_SCHEMA = "other_schema"
    DIMENSIONS_INCOMPLETE = "dimensions_incomplete"
    SCORE_OUT_OF_RANGE = "score_out_of_range"
    IMAGE_MISSING = "image_missing"
    IMAGE_OUTSIDE_SOURCE = "image_outside_source"
    IMAGE_UNREADABLE = "image_unreadable"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TOO_SMALL = "image_too_small"
    IMAGE_BLANK = "image_blank"
    DUPLICATE = "duplicate"
    MADE_BY_ADAPTER = "made_by_adapter"
    TEMPLATE_SCORES = "template_scores"
    SHARED_TEXT = "shared_text"
    WRONG_PICTURE = "wrong_picture"
    DIMENSION_TWICE = "dimension_twice"
    REPEATED_ADVICE = "repeated_advice"
    OVERALL_OFF_MEAN = "overall_off_mean"


REASON_DESCRIPTIONS = {
    RejectionReason.UNREVIEWED: (
        "served by this project, and not reviewed by a person as link.include_served asks"
    ),
    RejectionReason.NO_TEXT: "no critique anywhere: not in the row, not in a file",
    RejectionReason.NOT_UTF8: "bytes that are no UTF-8 text",
    RejectionReason.TOO_LONG: "a text, or a part of a critique, longer than any real one",
    RejectionReason.ERROR_PLACEHOLDER: "an error message saved as if it were a critique",
    RejectionReason.ADVISOR_ABSENT: "the job asked several advisors and this one did not answer",
    RejectionReason.THINKING_ONLY: "a model thinking aloud, with no critique behind it",
    RejectionReason.PROMPT_ECHO: "the prompt repeated, with no critique behind it",
    RejectionReason.LOOPING: "the same few words over and over",
    RejectionReason.WRONG_LANGUAGE: "most letters are not Latin",
    RejectionReason.UNSCORED: "prose, tables or lists without the scores, or a score is not there",
    RejectionReason.TRUNCATED: "JSON that is cut off",
    RejectionReason.MALFORMED_JSON: "JSON with a fault that has no certain repair",
    RejectionReason.OTHER_SCHEMA: (
        "JSON that is not of a critique, or a control token of the model in it"
    ),
    RejectionReason.DIMENSIONS_INCOMPLETE: "one of the seven dimensions is not there or not whole",
    RejectionReason.SCORE_OUT_OF_RANGE: "a score that is no number from 0 to 10",
    RejectionReason.IMAGE_MISSING: "no such file among the photographs",
    RejectionReason.IMAGE_OUTSIDE_SOURCE: "a link that leads out of the folder of photographs",
    RejectionReason.IMAGE_UNREADABLE: "a damaged file, or none of JPEG, PNG, WebP and TIFF",
    RejectionReason.IMAGE_TOO_LARGE: "declares more than 200 million pixels: not decoded",
    RejectionReason.IMAGE_TOO_SMALL: "a side under 64 pixels, or under a twentieth of the other",
    RejectionReason.IMAGE_BLANK: "one even tone",
    RejectionReason.DUPLICATE: "the same text about the same photograph as an earlier job",
    RejectionReason.MADE_BY_ADAPTER: "written by an earlier fine-tuned model",
    RejectionReason.TEMPLATE_SCORES: "its seven scores are those of the example in its own prompt",
    RejectionReason.SHARED_TEXT: "one text stored for different photographs",
    RejectionReason.WRONG_PICTURE: "many unlike descriptions of one photograph",
    RejectionReason.DIMENSION_TWICE: "a dimension judged two times",
    RejectionReason.REPEATED_ADVICE: "one recommendation in several dimensions",
    RejectionReason.OVERALL_OFF_MEAN: "the overall score is far from the mean of the seven",
}


@dataclass(frozen=True)
class Rejection:
    """Why a text, a photograph or a record is left out; `detail` holds the value seen."""

    reason: RejectionReason
    detail: str
