"""Roll-outs for programs: reports as JSON and CSV, and what a person can do, by HTTP."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from mondrian.rollout.actions import NotNow
from mondrian.rollout.csv_export import table
from mondrian.rollout.manual import NAME, REASON, NoReason
from mondrian.rollout.report import Report, moment, newest, report
from mondrian.rollout.store import Entry
from mondrian.serving.http.openapi import ANSWERS, DECISION, EXPERIMENTS, told_as
from mondrian.serving.http.request_parsing import read_json
from mondrian.serving.routes.rollouts_page import act, entry_of
from mondrian.serving.service import Service, service_of

router = APIRouter(tags=["experiments"])


class Decision(BaseModel):
    """POST /api/experiments/<advisor>/<version>/<action>."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: Annotated[str, Field(min_length=1, max_length=REASON)]
    who: Annotated[str, Field(max_length=NAME)] = ""
    revision: int | None = None


@router.get("/api/experiments", responses=ANSWERS | EXPERIMENTS)
async def experiments(request: Request, advisor: str = "") -> JSONResponse:
    """How the newest roll-out of each advisor does, or that of one; `older` names those before."""
    service = service_of(request)
    return JSONResponse(await service.work.db(_listed, service, advisor))


@router.get("/api/experiments.csv", response_class=Response, responses=told_as("text/csv"))
async def experiments_csv(request: Request, advisor: str = "") -> Response:
    """Every metric of the same over time, a row for each look."""
    service = service_of(request)
    told = await service.work.db(_reports, service, advisor)
    headers = {"content-disposition": 'attachment; filename="experiments.csv"'}
    return Response(await service.work.db(table, told), media_type="text/csv", headers=headers)


@router.post(
    "/api/experiments/{advisor}/{version}/{action}", openapi_extra=DECISION, responses=ANSWERS
)
async def decide(request: Request, advisor: str, version: str, action: str) -> JSONResponse:
    """advance, hold, resume or rollback, as a person decides; the roll-out as it is then."""
    service = service_of(request)
    asked = await read_json(request, Decision)
    entry = await service.work.db(entry_of, service, advisor, version)
    revision = None if asked.revision is None else str(asked.revision)
    who = f"{asked.who or 'a program'} (API)"
    try:
        new = await service.work.db(act, service, entry, action, who, asked.reason, revision)
    except NotNow as error:
        raise HTTPException(400 if isinstance(error, NoReason) else 409, str(error)) from None
    return JSONResponse(await service.work.db(_report, service, new))


def _listed(service: Service, advisor: str) -> Report:
    _, old = newest(service.rollouts, advisor)
    older = [
        {"rollout": one.id, "advisor": one.advisor, "version": one.version, "name": one.name,
         "state": one.state, "began": moment(one.began)}
        for one in old
    ]  # fmt: skip
    return {
        "experiments": _reports(service, advisor), "older": older,
        "steered": service.steering is not None,
    }  # fmt: skip


def _reports(service: Service, advisor: str) -> list[Report]:
    return [_report(service, entry) for entry in newest(service.rollouts, advisor)[0]]


def _report(service: Service, entry: Entry) -> Report:
    return report(service.rollouts, service.settings.rollout, entry, time.time())
