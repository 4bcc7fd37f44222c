"""Rollouts by HTTP: reports as JSON and CSV, and actions."""

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from mondrian.rollout.actions import (
    MAX_NAME_CHARS,
    MAX_REASON_CHARS,
    InvalidTransitionError,
    MissingReasonError,
)
from mondrian.rollout.report import RolloutReport, iso_timestamp, render_csv
from mondrian.rollout.store import Actor
from mondrian.serving.http.openapi import (
    DECISION_BODY,
    ERROR_RESPONSES,
    EXPERIMENTS_RESPONSE,
    build_responses,
)
from mondrian.serving.http.request_parsing import read_json_body
from mondrian.serving.routes.rollouts_page import (
    apply_requested_action,
    build_report,
    get_rollout_or_404,
)
from mondrian.serving.service import Service, get_service

router = APIRouter(tags=["experiments"])


class RolloutDecisionRequest(BaseModel):
    """POST /api/experiments/<advisor>/<version>/<action>."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: Annotated[str, Field(min_length=1, max_length=MAX_REASON_CHARS)]
    who: Annotated[str, Field(max_length=MAX_NAME_CHARS)] = ""
    revision: int | None = None


@router.get("/api/experiments", responses=ERROR_RESPONSES | EXPERIMENTS_RESPONSE)
async def experiments(request: Request, advisor: str = "") -> JSONResponse:
    """The reports on the rollouts of the active versions; `older` lists the others."""
    service = get_service(request)
    return JSONResponse(await service.job_runner.call_store(_build_listing, service, advisor))


@router.get("/api/experiments.csv", response_class=Response, responses=build_responses("text/csv"))
async def experiments_csv(request: Request, advisor: str = "") -> Response:
    """All metrics of the rollouts of the active versions over time."""
    service = get_service(request)
    text = await service.job_runner.call_store(_build_csv, service, advisor)
    headers = {"content-disposition": 'attachment; filename="experiments.csv"'}
    return Response(text, media_type="text/csv", headers=headers)


@router.post(
    "/api/experiments/{advisor}/{version}/{action}",
    openapi_extra=DECISION_BODY,
    responses=ERROR_RESPONSES,
)
async def decide(request: Request, advisor: str, version: str, action: str) -> JSONResponse:
    """Apply advance, hold, resume or rollback, and return the report on the changed rollout."""
    service = get_service(request)
    call = service.job_runner.call_store
    decision = await read_json_body(request, RolloutDecisionRequest)
    record = await call(get_rollout_or_404, service, advisor, version)
    revision = None if decision.revision is None else str(decision.revision)
    actor = Actor(f"{decision.who or 'a program'} (API)", decision.reason)
    try:
        changed = await service.job_runner.write_store(
            apply_requested_action, service, record, action, actor, revision
        )
    except InvalidTransitionError as error:
        status = 400 if isinstance(error, MissingReasonError) else 409
        raise HTTPException(status, str(error)) from None
    return JSONResponse(await call(build_report, service, changed))


def _build_listing(service: Service, advisor: str) -> RolloutReport:
    newest, older = service.rollout_store.split_newest(advisor)
    names = ("advisor", "version", "name", "state")
    return {
        "experiments": [build_report(service, record) for record in newest],
        "older": [
            {"rollout": record.id, "started_at": iso_timestamp(record.started_at)}
            | {name: getattr(record, name) for name in names}
            for record in older
        ],
        "managed": service.rollout_controller is not None,
    }


def _build_csv(service: Service, advisor: str) -> str:
    newest, _ = service.rollout_store.split_newest(advisor)
    return render_csv([build_report(service, record) for record in newest])
