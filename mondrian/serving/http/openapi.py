"""OpenAPI descriptions of bodies that routes parse themselves; examples are in examples.yaml."""

from pathlib import Path
from typing import Any

import yaml
from fastapi.responses import Response

from mondrian.critique.schema import DIMENSIONS
from mondrian.rollout.actions import MAX_NAME_CHARS, MAX_REASON_CHARS
from mondrian.serving.assignment import MODES
from mondrian.serving.feedback.request import MAX_NOTE_CHARS

Responses = dict[int | str, Any]
_EXAMPLES: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("examples.yaml").read_text("utf-8")
)


def _json(**content: Any) -> dict[str, Any]:
    return {"content": {"application/json": content}}


def _json_body(example: str, properties: dict[str, Any], **schema: Any) -> dict[str, Any]:
    schema |= {"type": "object", "properties": properties}
    return {"requestBody": {"required": True, **_json(schema=schema, example=_EXAMPLES[example])}}


def _json_response(status: int, description: str, example: str) -> Responses:
    return {status: {"description": description, **_json(example=_EXAMPLES[example])}}


_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
    "example": {"error": "advisor is 'monet'; there are ansel, okeefe"},
}
_STATUS_DESCRIPTIONS = {
    400: "invalid request",
    401: "API key missing or wrong",
    403: "request from a page of another origin",
    404: "not found",
    408: "the body arrived too slowly",
    409: "not possible now, or the Idempotency-Key of another request",
    413: "the body is too large",
    415: "not a photo of a known format",
    422: "the photo cannot be used",
    429: "too many requests; see Retry-After",
    500: "no response was generated",
    503: "not ready",
    504: "took too long",
}
ERROR_RESPONSES: Responses = {
    status: {"description": description, **_json(schema=_ERROR_SCHEMA)}
    for status, description in _STATUS_DESCRIPTIONS.items()
}
LOADING_RESPONSE: Responses = {202: {"description": "still loading", **_json()}}


def build_responses(*media_types: str) -> Responses:
    """Return the responses of a route that does not, or not only, return JSON."""
    content: dict[str, Any] = {media_type: {} for media_type in media_types}
    return ERROR_RESPONSES | {200: {"description": "Successful Response", "content": content}}


def returns(media_type: str) -> dict[str, Any]:
    """Return the decorator arguments of a route that returns another media type than JSON."""
    return {"response_class": Response, "responses": build_responses(media_type)}


_BOOLEAN = {"type": "string", "enum": ["true", "false"]}
_STRING = {"type": "string", "maxLength": 200}
_NULLABLE_STRING = _STRING | {"type": ["string", "null"]}
_SCORE = {"type": "number", "minimum": 0, "maximum": 10, "multipleOf": 0.1}
_PHOTO = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, TIFF or HEIC"}
_ADVISOR = {"type": "string", "example": "ansel", "description": "an id, a comma list, all, random"}


def _form_body(**more_fields: Any) -> dict[str, Any]:
    properties = {
        "image": _PHOTO,
        "file": _PHOTO,
        "advisor": _ADVISOR,
        "mode": {"type": "string", "enum": list(MODES), "default": "baseline"},
        "enable_rag": _BOOLEAN | {"description": "ignored: no retrieval here"},
        "client_id": _STRING | {"description": "the unit of A/B assignment"},
        **more_fields,
    }
    schema = {"type": "object", "required": ["image"], "properties": properties}
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


ANALYZE_BODY = _form_body(
    job_id={"type": "string", "example": "unknown"},
    response_format={"type": "string", "enum": ["html", "json"]},
)
CRITIQUE_RESPONSE = _json_response(200, "the critique", "analysis")
_NEW_JOB_RESPONSE = _json_response(201, "the job", "new_job")
UPLOAD: dict[str, Any] = {
    "openapi_extra": _form_body(auto_analyze=_BOOLEAN | {"default": "true"}),
    "responses": _NEW_JOB_RESPONSE,
}
_JOB_FIELDS = dict.fromkeys(("image_path", "advisor", "mode"), _STRING)
CREATE_JOB: dict[str, Any] = {
    "openapi_extra": _json_body("create_job", _JOB_FIELDS, required=["image_path"]),
    "responses": _NEW_JOB_RESPONSE,
}
CHANGE_JOB_BODY = _json_body("change_job", {"status": _STRING}, required=["status"])
_FEEDBACK_FIELDS = {
    "thumbs": {"enum": [1, -1, None], "description": "up, down, or withdrawn"},
    "note": _NULLABLE_STRING | {"maxLength": MAX_NOTE_CHARS},
    "advisor": _NULLABLE_STRING | {"description": "in a job of several advisors"},
    "verdict": {
        "enum": ["accepted", "corrected", None],
        "description": "use for training, as served or as corrected",
    },
    "scores": {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": dict.fromkeys(DIMENSIONS, _SCORE),
        "description": "new scores; unless overall_score is sent too, it becomes their mean",
    },
    "overall_score": _SCORE | {"type": ["number", "null"]},
    "critique": {"type": ["object", "null"], "description": "the complete corrected critique"},
    "who": _NULLABLE_STRING,
}
FEEDBACK: dict[str, Any] = {
    "openapi_extra": _json_body("feedback_request", _FEEDBACK_FIELDS, additionalProperties=False),
    "responses": _json_response(
        200, "the newest feedback on each advisor's critique, and the history", "feedback"
    ),
}
_DECISION_FIELDS = {
    "reason": {"type": "string", "minLength": 1, "maxLength": MAX_REASON_CHARS},
    "who": {"type": "string", "maxLength": MAX_NAME_CHARS},
    "revision": {"type": "integer", "description": "rejected if the rollout has changed since"},
}
DECISION_BODY = _json_body(
    "decision", _DECISION_FIELDS, required=["reason"], additionalProperties=False
)
EXPERIMENTS_RESPONSE = _json_response(
    200, "reports of the rollouts of the active versions, and a list of the others", "rollouts"
)
