"""What comes in a multipart form: a photograph and a few fields, each checked, nothing else."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from mondrian.core.params import Params
from mondrian.core.validation import format_validation_error
from mondrian.serving.http.uploads import RequestRejected, Upload

_SUFFIX = re.compile(r" \([^()]*\)$")  # of job ids in old documents: "uuid (rag)"
_ID = re.compile(r"^[A-Za-z0-9._:-]{1,80}$")
_UNKNOWN = ("", "unknown")
Body = TypeVar("Body", bound=BaseModel)
MAX_FIELD_CHARS = 200  # characters of a field
BODY_SECONDS = 60.0  # that a client may take to send its form


@dataclass(frozen=True)
class CritiqueForm:
    """A request to critique.

    subject  whom an A/B test deals by: the client, else the job
    """

    content: bytes
    name: str
    advisors: tuple[str, ...]
    mode: str
    job_id: str
    subject: str
    enable_rag: bool
    auto_analyze: bool
    key: str | None


async def read_form(request: Request, params: Params) -> CritiqueForm:
    """Read and check a form.

    Raises Refused: 408 where it does not come whole in time, 400 where it is not as it should be.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            content, name, fields = await _read(request)
    except TimeoutError:
        raise RequestRejected(408, f"the body did not come within {BODY_SECONDS:.0f} s") from None
    for key, value in fields.items():
        if len(value) > MAX_FIELD_CHARS:
            raise RequestRejected(
                400, f"{key[:40]!r} has {len(value)} characters; most {MAX_FIELD_CHARS}"
            )
        if "\0" in value:  # PostgreSQL keeps none
            raise RequestRejected(400, f"{key[:40]!r} has a NUL in it")
    job_id = clean_id(fields.get("job_id", ""))
    id = str(uuid4())
    client = request.headers.get("x-client-id", fields.get("client_id", ""))[:MAX_FIELD_CHARS]
    key = request.headers.get("idempotency-key", "")
    if len(key) > MAX_FIELD_CHARS:
        raise RequestRejected(
            400, f"Idempotency-Key has {len(key)} characters; most {MAX_FIELD_CHARS}"
        )
    return CritiqueForm(
        content,
        name,
        _advisors(fields.get("advisor", ""), id, params),
        fields.get("mode", "").lower() or "baseline",
        id,
        client or job_id or id,
        fields.get("enable_rag", "").lower() == "true",
        fields.get("auto_analyze", "true").lower() != "false",
        key or None,
    )


async def _read(request: Request) -> tuple[bytes, str, dict[str, str]]:
    """The photograph, its name, and the fields that are text."""
    async with request.form(max_files=4, max_fields=40, max_part_size=1 << 20) as form:
        file = _file(form)
        texts = {key: value.strip() for key, value in form.multi_items() if isinstance(value, str)}
        return await file.read(), file.filename or "", texts


def check_same_photo(row: Mapping[str, Any], taken: Upload) -> None:
    """Raise Refused where the job of an idempotency key is of another photograph."""
    if row["photo_sha256"] != taken.sha256:
        raise RequestRejected(422, "the Idempotency-Key was used for another photograph")


async def read_json(request: Request, kind: type[Body]) -> Body:
    """A JSON body, checked. Raises HTTPException 400 that names every fault."""
    try:
        return kind.model_validate(json.loads(await request.body()))
    except ValidationError as error:
        raise HTTPException(400, format_validation_error(error)) from None
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON object") from None


def clean_id(raw_id: str) -> str:
    """A job id as it is stored; empty for none and for what is no id."""
    id = _SUFFIX.sub("", raw_id.strip())
    return "" if id.lower() in _UNKNOWN or not _ID.match(id) else id


def _file(form: FormData) -> UploadFile:
    for name in ("image", "file"):
        value = form.get(name)
        if isinstance(value, UploadFile):
            return value
        if isinstance(value, str) and value:
            raise RequestRejected(
                400, f"{name} is text; send the photograph itself, no path and no URL"
            )
    raise RequestRejected(400, "No image provided")


def _advisors(value: str, seed: str, params: Params) -> tuple[str, ...]:
    """Ids out of one, a comma list, all or random; the first of params.yaml where none is told."""
    known = params.advisors
    names = [part.strip().lower() for part in value.split(",") if part.strip()]
    if not names:
        return ("ansel",) if "ansel" in known else (known[0],)
    if names == ["all"]:
        return tuple(known)
    if names == ["random"]:
        return (known[int(seed[:8], 16) % len(known)],)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RequestRejected(400, f"advisor is {unknown[0][:40]!r}; there are {', '.join(known)}")
    return tuple(dict.fromkeys(names))
