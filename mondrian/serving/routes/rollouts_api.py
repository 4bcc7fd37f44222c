"""Roll-outs for programs: reports as JSON and CSV, and what a person can do, by HTTP."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from mondrian.rollout.actions import InvalidTransition
from mondrian.rollout.csv_export import render_csv
from mondrian.rollout.manual import NAME, REASON, MissingReason
from mondrian.rollout.report import RolloutReport, build_rollout_report, iso_timestamp, split_newest
from mondrian.rollout.store import RolloutRecord
from mondrian.serving.http.openapi import (
    DECISION_BODY,
    ERROR_RESPONSES,
    EXPERIMENTS_RESPONSE,
    build_responses,
)
from mondrian.serving.http.request_parsing import read_json
from mondrian.serving.routes.rollouts_page import apply_requested_action, get_rollout_or_404
from mondrian.serving.service import Service, get_service

router = APIRouter(tags=["experiments"])


class RolloutDecisionRequest(BaseModel):
    """POST /api/experiments/<advisor>/<version>/<action>."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: Annotated[str, Field(min_length=1, max_length=REASON)]
    who: Annotated[str, Field(max_length=NAME)] = ""
    revision: int | None = None


@router.get("/api/experiments", responses=ERROR_RESPONSES | EXPERIMENTS_RESPONSE)
async def experiments(request: Request, advisor: str = "") -> JSONResponse:
    """How the newest roll-out of each advisor does, or that of one; `older` names those before."""
    service = get_service(request)
    return JSONResponse(await service.work.call_store(_build_listing, service, advisor))


@router.get("/api/experiments.csv", response_class=Response, responses=build_responses("text/csv"))
async def experiments_csv(request: Request, advisor: str = "") -> Response:
    """Every metric of the same over time, a row for each look."""
    service = get_service(request)
    reports = await service.work.call_store(_reports, service, advisor)
    headers = {"content-disposition": 'attachment; filename="experiments.csv"'}
    return Response(
        await service.work.call_store(render_csv, reports), media_type="text/csv", headers=headers
    )


@router.post(
    "/api/experiments/{advisor}/{version}/{action}",
    openapi_extra=DECISION_BODY,
    responses=ERROR_RESPONSES,
)
async def decide(request: Request, advisor: str, version: str, action: str) -> JSONResponse:
    """advance, hold, resume or rollback, as a person decides; the roll-out as it is then."""
    service = get_service(request)
    decision = await read_json(request, RolloutDecisionRequest)
    entry = await service.work.call_store(get_rollout_or_404, service, advisor, version)
    revision = None if decision.revision is None else str(decision.revision)
    who = f"{decision.who or 'a program'} (API)"
    try:
        new = await service.work.call_store(
            apply_requested_action, service, entry, action, who, decision.reason, revision
        )
    except InvalidTransition as error:
        raise HTTPException(400 if isinstance(error, MissingReason) else 409, str(error)) from None
    return JSONResponse(await service.work.call_store(_report, service, new))


def _build_listing(service: Service, advisor: str) -> RolloutReport:
    _, old = split_newest(service.rollouts, advisor)
    older = [
        {
            "rollout": entry.id,
            "advisor": entry.advisor,
            "version": entry.version,
            "name": entry.name,
            "state": entry.state,
            "began": iso_timestamp(entry.began),
        }
        for entry in old
    ]
    return {
        "experiments": _reports(service, advisor),
        "older": older,
        "steered": service.steering is not None,
    }


def _reports(service: Service, advisor: str) -> list[RolloutReport]:
    return [_report(service, entry) for entry in split_newest(service.rollouts, advisor)[0]]


def _report(service: Service, entry: RolloutRecord) -> RolloutReport:
    return build_rollout_report(service.rollouts, service.settings.rollout, entry, time.time())
