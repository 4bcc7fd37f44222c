"""Reason codes of finished jobs that give no training pair, explained in docs/reasons.md."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class RejectionReason(StrEnum):
    """A reason code and its description, in the order of the checks: review, text, photo, flags."""

    description: str

    def __new__(cls, code: str, description: str = "") -> Self:
        reason = str.__new__(cls, code)
        reason._value_ = code
        reason.description = description
        return reason

    UNREVIEWED = "unreviewed", "served here and not reviewed as link.include_served requires"
    NO_TEXT = "no_text", "no critique in the row or in a file"
    NOT_UTF8 = "not_utf8", "a text of the critique has unreadable characters"
    TOO_LONG = "too_long", "the text, or a part of the critique, is longer than any real one"
    ERROR_PLACEHOLDER = "error_placeholder", "an error message stored as a critique"
    ADVISOR_ABSENT = "advisor_absent", "a job of several advisors without a text by this one"
    THINKING_ONLY = "thinking_only", "the reasoning of a model without a critique"
    PROMPT_ECHO = "prompt_echo", "the prompt repeated without a critique"
    LOOPING = "looping", "the same few words over and over"
    WRONG_LANGUAGE = "wrong_language", "most letters are not Latin"
    UNSCORED = "unscored", "prose, tables or lists without scores, or a score is missing"
    TRUNCATED = "truncated", "JSON or HTML that is cut off"
    MALFORMED_JSON = "malformed_json", "JSON with an error that has no unambiguous repair"
    OTHER_SCHEMA = "other_schema", "JSON that is not a critique, or contains a control token"
    DIMENSIONS_INCOMPLETE = "dimensions_incomplete", "a dimension is missing or incomplete"
    SCORE_OUT_OF_RANGE = "score_out_of_range", "a score is not a number from 0 to 10"
    IMAGE_MISSING = "image_missing", "no such file in the photo folder"
    IMAGE_AMBIGUOUS = "image_ambiguous", "several stored paths or files fit, nothing says which"
    IMAGE_OUTSIDE_SOURCE = "image_outside_source", "a link that leads out of the photo folder"
    IMAGE_UNREADABLE = "image_unreadable", "a damaged file, or not JPEG, PNG, WebP, TIFF or HEIF"
    IMAGE_RAW = "image_raw", "a camera's raw file, which is not developed here"
    IMAGE_TOO_LARGE = "image_too_large", "declares more than 200 million pixels; not decoded"
    IMAGE_TOO_SMALL = "image_too_small", "a side under 64 pixels, or a twentieth of the other"
    IMAGE_BLANK = "image_blank", "the image is nearly uniform"
    DUPLICATE = "duplicate", "the same text about the same photo as an earlier job"
    MADE_BY_ADAPTER = "made_by_adapter", "written by an earlier fine-tuned model"
    TEMPLATE_SCORES = "template_scores", "its seven scores are those of the example in its prompt"
    CONSTANT_SCORES = (
        "constant_scores",
        "the same scores in many critiques, or nearly the example's",
    )
    SHARED_TEXT = "shared_text", "one text stored for different photos"
    WRONG_PICTURE = "wrong_picture", "texts about one file describe different scenes"
    DIMENSION_TWICE = "dimension_twice", "a dimension is scored twice"
    REPEATED_ADVICE = "repeated_advice", "one recommendation in several dimensions"
    OVERALL_OFF_MEAN = "overall_off_mean", "the overall score is far from the mean of the scores"


@dataclass(frozen=True)
class Rejection:
    """Why a text, a photo or a record is rejected; `detail` contains the value."""

    reason: RejectionReason
    detail: str
