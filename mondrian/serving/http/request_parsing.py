"""Parsing and checking of request bodies: multipart forms with a photo, and JSON."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any, TypeVar
from uuid import uuid4

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from mondrian.core.params import Params
from mondrian.core.validation import format_validation_error
from mondrian.serving.http.body_limits import SMALL_BODY, PhotoMemory, release_form
from mondrian.serving.http.client_identity import known_client
from mondrian.serving.http.uploads import RequestRejectedError, Upload

_SUFFIX = re.compile(r" \([^()]*\)$")  # of job ids in old documentation: "uuid (rag)"
_ID = re.compile(r"^[A-Za-z0-9._:-]{1,80}$")
Body = TypeVar("Body", bound=BaseModel)
MAX_FIELD_CHARS = 200


@dataclass(frozen=True)
class CritiqueForm:
    content: bytes
    filename: str  # as the client sent it
    advisors: tuple[str, ...]
    mode: str
    job_id: str
    subject: str  # unit of A/B assignment: the client if it is known, else the job id
    enable_rag: bool
    auto_analyze: bool
    idempotency_key: str | None


@asynccontextmanager
async def read_form(request: Request, params: Params) -> AsyncIterator[CritiqueForm]:
    """Read and check a form. Raises RequestRejectedError 400 if a field is invalid.

    The photo is on disk until the application's `photo_memory` has space for it, which it takes
    until the context ends. Raises HTTPException 503 if it has none in time.
    """
    try:
        async with request.form(max_files=4, max_fields=40, max_part_size=1 << 20) as data:
            file = _photo_file(data)
            fields = {k: value.strip() for k, value in data.multi_items() if isinstance(value, str)}
            form = _parse_fields(request, fields, file.filename or "", params)
            memory: PhotoMemory = request.app.state.photo_memory
            async with memory.reserve(file.size or 0):
                yield replace(form, content=await file.read())
    finally:
        release_form(request.scope)


def _parse_fields(
    request: Request, fields: Mapping[str, str], filename: str, params: Params
) -> CritiqueForm:
    """Return a form without its photo. Raises RequestRejectedError 400."""
    key = request.headers.get("idempotency-key", "")
    for field, value in fields.items():
        _check_length(repr(field[:40]), value)
        if "\0" in value:  # PostgreSQL cannot store it
            raise RequestRejectedError(400, f"{field[:40]!r} contains a NUL character")
    _check_length("Idempotency-Key", key)
    id = str(uuid4())
    client = identify_client(request, fields.get("client_id", ""))
    return CritiqueForm(
        b"",
        filename,
        parse_advisors(fields.get("advisor", ""), params, seed=key or id),
        fields.get("mode", "").lower() or "baseline",
        id,
        client or clean_id(fields.get("job_id", "")) or id,
        fields.get("enable_rag", "").lower() == "true",
        fields.get("auto_analyze", "true").lower() != "false",
        key or None,
    )


def identify_client(request: Request, client_id: str = "") -> str:
    """Return the id of a request's client; "" if it sends none and is not identified.

    client_id  its own id in a form; the header X-Client-Id replaces it
    """
    own_id = request.headers.get("x-client-id", client_id)[:MAX_FIELD_CHARS]
    return own_id or known_client(request.scope)


def check_same_request(row: Mapping[str, Any], form: CritiqueForm, upload: Upload) -> None:
    """Check a request against the job of its idempotency key.

    Raises RequestRejectedError: 409 if photo, advisor or mode differs.
    """
    differences = [
        f"{name} {row[name]!r} instead of {value!r}"
        for name, value in (("advisor", ",".join(form.advisors)), ("mode", form.mode))
        if row[name] != value
    ]
    if row["photo_sha256"] != upload.sha256:
        differences.insert(0, "another photo")
    if differences:
        uses = " and ".join(differences)
        message = f"this Idempotency-Key was used for {uses}; send a new key for a new request"
        raise RequestRejectedError(409, message)


async def read_small_body(request: Request) -> bytes:
    """Read a body that is not a form with files. Raises HTTPException 413."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        SMALL_BODY.check(len(body))  # also of a body that is declared as such a form
    return bytes(body)


async def read_json_body(request: Request, model: type[Body]) -> Body:
    """Read and validate a JSON body. Raises HTTPException 400 or 413."""
    body = await read_small_body(request)
    try:
        fields = json.loads(body)
        if not isinstance(fields, dict):
            raise ValueError
        return model.model_validate(fields)
    except ValidationError as error:
        raise HTTPException(400, format_validation_error(error)) from None
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not a JSON object") from None


def clean_id(raw_id: str) -> str:
    """Return a job id as it is stored; "" if it is missing or invalid."""
    id = _SUFFIX.sub("", raw_id.strip())
    return "" if id.lower() == "unknown" or not _ID.match(id) else id


def _photo_file(form: FormData) -> UploadFile:
    for name in ("image", "file"):
        value = form.get(name)
        if isinstance(value, UploadFile):
            return value
        if isinstance(value, str) and value:
            message = f"{name} is text; send the photo itself, not a path or URL"
            raise RequestRejectedError(400, message)
    raise RequestRejectedError(400, "No image provided")


def _check_length(name: str, value: str) -> None:
    if len(value) > MAX_FIELD_CHARS:
        message = f"{name} has {len(value)} characters; at most {MAX_FIELD_CHARS}"
        raise RequestRejectedError(400, message)


def parse_advisors(value: str, params: Params, seed: str) -> tuple[str, ...]:
    """Parse an advisor id, a comma list, `all` or `random`; the default is ansel.

    `serve.default_advisor` replaces unknown advisors; without it they raise RequestRejectedError.

    seed  of `random`: a request that is sent again gets the same advisor
    """
    known, default = params.advisors, params.serve.default_advisor
    names = [part.strip().lower() for part in value.split(",") if part.strip()]
    if not names:
        return ("ansel",) if "ansel" in known else (known[0],)
    if names == ["all"]:
        return tuple(known)
    if names == ["random"]:
        return (Random(seed).choice(known),)
    unknown = [name for name in names if name not in known]
    if unknown and not default:
        message = f"advisor is {unknown[0][:40]!r}; there are {', '.join(known)}"
        raise RequestRejectedError(400, message)
    return tuple(dict.fromkeys(name if name in known else default for name in names))
