"""What people say of critiques, by API: thumbs, a note, and what is to be trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mondrian.serving.feedback.merge import told_of
from mondrian.serving.feedback.schema import Fault, Faults, Opinion, read_opinion
from mondrian.serving.http.openapi import ANSWERS, FEEDBACK, SAID_OF_IT
from mondrian.serving.jobs.view import Said, read
from mondrian.serving.service import Service, service_of
from mondrian.storage.feedback import SAID, history, keep, newest
from mondrian.storage.jobs import Row

_MOST = 256_000  # bytes of a body: a critique as long as can be, every character escaped, has fewer
_SHOWN = (*SAID, "advisor", "original", "side", "model_used", "adapter_version", "rollout",
          "photo_sha256")  # fmt: skip

router = APIRouter(tags=["feedback"])


@router.post("/jobs/{id}/feedback", openapi_extra=FEEDBACK, responses=ANSWERS | SAID_OF_IT)
async def give(request: Request, id: str) -> JSONResponse:
    """Say something of a critique: thumbs, a note, accept it for training, or correct it."""
    service = service_of(request)
    content = await _content(request)
    row = await service.row(id)
    try:
        await say(service, row, read_opinion(content))
    except Faults as error:
        service.metrics.refused.labels("400").inc()
        faults = [{"field": fault.field, "told": fault.told} for fault in error.faults]
        return JSONResponse({"error": str(error), "faults": faults}, 400)
    return JSONResponse(await _told(service, await service.row(id)))


@router.get("/jobs/{id}/feedback", responses=ANSWERS | SAID_OF_IT)
async def told(request: Request, id: str) -> JSONResponse:
    """What was said of a job: what counts, one for each advisor, and all before, newest first."""
    service = service_of(request)
    return JSONResponse(await _told(service, await service.row(id)))


async def say(service: Service, row: Row, opinion: Opinion) -> None:
    """Keep an opinion of a job. Raises Faults, and HTTPException 409 where it cannot be judged."""
    told, served = await service.work.db(_settled, service, row, opinion)
    if not await service.work.db(keep, service.store.engine, row, told, served):
        raise HTTPException(409, "the job has changed meanwhile; look at it again")
    if told.get("thumbs") and told["thumbs"] != row["thumbs"]:
        up = str(told["thumbs"] > 0).lower()
        service.metrics.thumbs.labels(row["model_used"] or "", up).inc()


def _settled(
    service: Service, row: Row, opinion: Opinion
) -> tuple[dict[str, Any], dict[str, str | None]]:
    reading = read(row, service.params)
    if not reading.done:
        raise HTTPException(409, f"the job is {row['status']}; there is no critique to judge")
    spoken = _spoken_of(opinion, reading.said)
    name, critique = (spoken[0].advisor, spoken[0].critique) if spoken else ("", None)
    prompts = [row[column] for column in ("prompt", "llm_prompt") if row[column]]
    told = told_of(opinion, name, critique, prompts)
    return told, {one.advisor: one.served for one in spoken}


def _spoken_of(opinion: Opinion, said: Sequence[Said]) -> list[Said]:
    """The parts of a job that an opinion is of: thumbs and notes without an advisor are of all."""
    asked = ", ".join(one.advisor for one in said)
    if opinion.advisor:
        found = [one for one in said if one.advisor == opinion.advisor.strip()]
        if not found:
            told = f"is {opinion.advisor[:40]!r}; the job asked {asked or 'nobody'}"
            raise Faults(Fault("advisor", told))
        return found
    if len(said) > 1 and (opinion.corrects or opinion.verdict):
        raise Faults(Fault("advisor", f"is missing; the job asked {asked}"))
    return list(said)


async def _told(service: Service, row: Row) -> Row:
    engine, db = service.store.engine, service.work.db
    now = await db(newest, engine, [row["id"]])
    reading = await db(read, row, service.params, now)
    counts = [one.kept for one in reading.said if one.kept and "number" in one.kept]
    before = await db(history, engine, row["id"])
    return {
        "job_id": row["id"], "feedback": [_shown(one) for one in counts],
        "history": [_shown(one) for one in before],
    }  # fmt: skip


def _shown(row: Row) -> Row:
    told = {name: row[name] for name in _SHOWN}
    for name in ("critique", "original"):
        told[name] = json.loads(told[name]) if told[name] else None
    at = datetime.fromtimestamp(row["at"], UTC)
    return told | {"number": row["number"], "at": at.isoformat(timespec="milliseconds")}


async def _content(request: Request) -> bytes:
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MOST:
            raise HTTPException(413, f"the body has more than {_MOST:,} bytes")
    return content
