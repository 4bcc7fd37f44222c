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
from mondrian.critique.schema import explain
from mondrian.serving.http.uploads import Refused, Taken

_SUFFIX = re.compile(r" \([^()]*\)$")  # of job ids in old documents: "uuid (rag)"
_ID = re.compile(r"^[A-Za-z0-9._:-]{1,80}$")
_UNKNOWN = ("", "unknown")
Asked = TypeVar("Asked", bound=BaseModel)
FIELD = 200  # characters of a field
BODY_SECONDS = 60.0  # that a client may take to send its form


@dataclass(frozen=True)
class Form:
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


async def read_form(request: Request, params: Params) -> Form:
    """Read and check a form.

    Raises Refused: 408 where it does not come whole in time, 400 where it is not as it should be.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            content, name, fields = await _read(request)
    except TimeoutError:
        raise Refused(408, f"the body did not come within {BODY_SECONDS:.0f} s") from None
    for key, value in fields.items():
        if len(value) > FIELD:
            raise Refused(400, f"{key[:40]!r} has {len(value)} characters; most {FIELD}")
        if "\0" in value:  # PostgreSQL keeps none
            raise Refused(400, f"{key[:40]!r} has a NUL in it")
    job_id = clean_id(fields.get("job_id", ""))
    id = str(uuid4())
    client = request.headers.get("x-client-id", fields.get("client_id", ""))[:FIELD]
    key = request.headers.get("idempotency-key", "")
    if len(key) > FIELD:
        raise Refused(400, f"Idempotency-Key has {len(key)} characters; most {FIELD}")
    return Form(
        content, name, _advisors(fields.get("advisor", ""), id, params),
        fields.get("mode", "").lower() or "baseline", id, client or job_id or id,
        fields.get("enable_rag", "").lower() == "true",
        fields.get("auto_analyze", "true").lower() != "false", key or None,
    )  # fmt: skip


async def _read(request: Request) -> tuple[bytes, str, dict[str, str]]:
    """The photograph, its name, and the fields that are text."""
    async with request.form(max_files=4, max_fields=40, max_part_size=1 << 20) as form:
        file = _file(form)
        texts = {key: value.strip() for key, value in form.multi_items() if isinstance(value, str)}
        return await file.read(), file.filename or "", texts


def check_known(row: Mapping[str, Any], taken: Taken) -> None:
    """Raise Refused where the job of an idempotency key is of another photograph."""
    if row["photo_sha256"] != taken.sha256:
        raise Refused(422, "the Idempotency-Key was used for another photograph")


async def read_json(request: Request, kind: type[Asked]) -> Asked:
    """A JSON body, checked. Raises HTTPException 400 that names every fault."""
    try:
        return kind.model_validate(json.loads(await request.body()))
    except ValidationError as error:
        raise HTTPException(400, explain(error)) from None
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON object") from None


def clean_id(told: str) -> str:
    """A job id as it is stored; empty for none and for what is no id."""
    id = _SUFFIX.sub("", told.strip())
    return "" if id.lower() in _UNKNOWN or not _ID.match(id) else id


def _file(form: FormData) -> UploadFile:
    for name in ("image", "file"):
        found = form.get(name)
        if isinstance(found, UploadFile):
            return found
        if isinstance(found, str) and found:
            raise Refused(400, f"{name} is text; send the photograph itself, no path and no URL")
    raise Refused(400, "No image provided")


def _advisors(told: str, seed: str, params: Params) -> tuple[str, ...]:
    """Ids out of one, a comma list, all or random; the first of params.yaml where none is told."""
    known = params.advisors
    asked = [part.strip().lower() for part in told.split(",") if part.strip()]
    if not asked:
        return ("ansel",) if "ansel" in known else (known[0],)
    if asked == ["all"]:
        return tuple(known)
    if asked == ["random"]:
        return (known[int(seed[:8], 16) % len(known)],)
    unknown = [one for one in asked if one not in known]
    if unknown:
        raise Refused(400, f"advisor is {unknown[0][:40]!r}; there are {', '.join(known)}")
    return tuple(dict.fromkeys(asked))
