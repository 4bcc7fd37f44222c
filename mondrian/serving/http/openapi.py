"""What the OpenAPI document says of bodies that are read by hand, with examples."""

from __future__ import annotations

from typing import Any

from mondrian.critique.schema import DIMENSIONS
from mondrian.rollout.actions import NAME, REASON
from mondrian.serving.assignment import MODES
from mondrian.serving.feedback.schema import MAX_NOTE_CHARS

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
    "example": {"error": "advisor is 'monet'; there are ansel, okeefe"},
}
_STATUS_DESCRIPTIONS = {
    400: "not understood",
    401: "an API key is needed",
    403: "a page of another address",
    404: "not found",
    408: "the body came too slowly",
    409: "not in this state",
    413: "the body is too large",
    415: "no photograph of a known format",
    422: "a photograph that cannot be used",
    429: "too many wait or ask; see Retry-After",
    500: "no answer came about",
    503: "not ready",
    504: "took too long",
}
ERROR_RESPONSES: dict[int | str, Any] = {
    status: {"description": description, "content": {"application/json": {"schema": _ERROR}}}
    for status, description in _STATUS_DESCRIPTIONS.items()
}
LOADING_RESPONSE: dict[int | str, Any] = {
    202: {"description": "still loading", "content": {"application/json": {}}}
}


def build_responses(*kinds: str) -> dict[int | str, Any]:
    """What a route that tells more than JSON, or other than it, answers."""
    content: dict[str, Any] = {kind: {} for kind in kinds}
    return ERROR_RESPONSES | {200: {"description": "Successful Response", "content": content}}


_FILE = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, TIFF or HEIC"}
_ADVISOR = {"type": "string", "example": "ansel", "description": "an id, a comma list, all, random"}
_MODE = {"type": "string", "enum": list(MODES), "default": "baseline"}
_RAG = {"type": "string", "enum": ["true", "false"], "description": "ignored: no retrieval here"}
_FIELDS = {
    "image": _FILE,
    "file": _FILE,
    "advisor": _ADVISOR,
    "mode": _MODE,
    "enable_rag": _RAG,
    "client_id": {"type": "string", "maxLength": 200, "description": "whom an A/B test deals by"},
}


def _form(**more: Any) -> dict[str, Any]:
    schema = {"type": "object", "required": ["image"], "properties": {**_FIELDS, **more}}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


def _json(example: dict[str, str], required: str) -> dict[str, Any]:
    properties = {name: {"type": "string", "maxLength": 200} for name in example}
    schema = {"type": "object", "required": [required], "properties": properties}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


ANALYZE_BODY = _form(
    job_id={"type": "string", "example": "unknown"},
    response_format={"type": "string", "enum": ["html", "json"]},
)
UPLOAD_BODY = _form(auto_analyze={"type": "string", "enum": ["true", "false"], "default": "true"})
CREATE_JOB_BODY = _json(
    {"image_path": "uploads/3f0c…_lake.jpg", "advisor": "ansel", "mode": "baseline"}, "image_path"
)
CHANGE_JOB_BODY = _json({"status": "queued"}, "status")
_CRITIQUE = {
    "image_description": "A lake under mountains.",
    "dimensions": [
        {
            "name": "Composition",
            "score": 8,
            "comment": "The shore leads in.",
            "recommendation": "Keep the shore.",
        },
    ],
    "overall_score": 7.4,
    "key_strengths": ["Tones"],
    "priority_improvements": ["Foreground"],
    "technical_notes": "Sharp throughout.",
}
CRITIQUE_RESPONSE: dict[int | str, Any] = {
    200: {
        "description": "the critique",
        "content": {
            "application/json": {
                "example": {
                    "advisor": "ansel",
                    "mode": "ab_test",
                    "mode_used": "lora",
                    "model_used": "ab_test_fine_tuned",
                    "fallback_occurred": False,
                    "analysis": _CRITIQUE,
                    "overall_score": 7.4,
                    "parse_success": True,
                }
            }
        },
    },
}
UPLOAD_RESPONSE: dict[int | str, Any] = {
    201: {
        "description": "the job",
        "content": {
            "application/json": {
                "example": {
                    "job_id": "6b1f…",
                    "filename": "uploads/3f0c…_lake.jpg",
                    "advisor": "ansel",
                    "advisors_used": ["ansel"],
                    "status": "queued",
                    "status_url": "/status/6b1f…",
                    "stream_url": "/stream/6b1f…",
                }
            }
        },
    },
}
_SCORE = {"type": ["number", "null"], "minimum": 0, "maximum": 10, "multipleOf": 0.1}
_FEEDBACK_PROPERTIES = {
    "thumbs": {"enum": [1, -1, None], "description": "up, down, or taken back"},
    "note": {"type": ["string", "null"], "maxLength": MAX_NOTE_CHARS},
    "advisor": {"type": ["string", "null"], "maxLength": 200, "description": "in a job of several"},
    "verdict": {"enum": ["accepted", "corrected", None], "description": "what link trains on"},
    "scores": {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {name: _SCORE | {"type": "number"} for name in DIMENSIONS},
        "description": "those that are to be others; the overall score follows, unless it is given",
    },
    "overall_score": _SCORE,
    "critique": {"type": ["object", "null"], "description": "the whole of it, corrected"},
    "who": {"type": ["string", "null"], "maxLength": 200},
}
_FEEDBACK_REQUEST_EXAMPLE = {
    "thumbs": -1,
    "note": "The light is better than that.",
    "scores": {"Lighting": 8.5},
    "who": "Ana",
}
FEEDBACK_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": _FEEDBACK_PROPERTIES,
                },
                "example": _FEEDBACK_REQUEST_EXAMPLE,
            }
        },
    }
}
_FEEDBACK_EXAMPLE = {
    "number": 1,
    "advisor": "ansel",
    "thumbs": -1,
    "note": _FEEDBACK_REQUEST_EXAMPLE["note"],
    "verdict": "corrected",
    "critique": _CRITIQUE,
    "original": _CRITIQUE,
    "who": "Ana",
    "side": None,
    "rollout": None,
    "model_used": "base",
    "adapter_version": None,
    "photo_sha256": "3f0c…",
    "at": "2026-07-01T12:00:00.000+00:00",
}
FEEDBACK_RESPONSE: dict[int | str, Any] = {
    200: {
        "description": "what counts of what was said, and all of it",
        "content": {
            "application/json": {
                "example": {
                    "job_id": "6b1f…",
                    "feedback": [_FEEDBACK_EXAMPLE],
                    "history": [_FEEDBACK_EXAMPLE],
                }
            }
        },
    },
}
_DECISION = {
    "reason": {"type": "string", "minLength": 1, "maxLength": REASON},
    "who": {"type": "string", "maxLength": NAME},
    "revision": {"type": "integer", "description": "refused where it is another by now"},
}
DECISION_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["reason"],
                    "properties": _DECISION,
                    "additionalProperties": False,
                },
                "example": {
                    "reason": "the night shift has seen enough",
                    "who": "Ana",
                    "revision": 2,
                },
            }
        },
    }
}
EXPERIMENTS_RESPONSE: dict[int | str, Any] = {
    200: {
        "description": "reports on the newest rollout of each advisor, and a list of older ones",
        "content": {
            "application/json": {
                "example": {
                    "experiments": [
                        {
                            "rollout": "ansel/5f3a9c0d1e2b",
                            "name": "ansel@v2.0.0",
                            "state": "running",
                            "verdict": {
                                "status": "healthy",
                                "reason": "49 of 100 critiques, 40 h of 48 h",
                            },
                        }
                    ],
                    "older": [],
                    "managed": True,
                }
            }
        },
    },
}
