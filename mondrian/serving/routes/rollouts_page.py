"""The page of the A/B test and the rollouts, and its buttons."""

import time
from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from mondrian.rollout import formatting
from mondrian.rollout.actions import (
    ACTIONS,
    MAX_NAME_CHARS,
    MAX_REASON_CHARS,
    InvalidTransitionError,
    MissingReasonError,
    apply_manual_action,
    clean_line,
    describe_unknown_action,
)
from mondrian.rollout.charts import build_page_charts
from mondrian.rollout.report import RolloutReport, build_rollout_report, iso_timestamp
from mondrian.rollout.store import Actor, RolloutRecord
from mondrian.rollout.terminal import describe_assignment
from mondrian.serving.ab_outcome import (
    ARM_LABELS,
    format_percentages,
    format_share,
    load_ab_outcomes,
)
from mondrian.serving.http.html_response import render_html_response
from mondrian.serving.http.page_response import PageRoute
from mondrian.serving.service import Service, get_service

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/experiments")
async def show_rollouts(request: Request) -> Response:
    """Show the rollout of each advisor's active version, and a list of the others."""
    service = get_service(request)
    return await service.job_runner.call_store(_render_rollouts, service)


@router.get("/experiments/{advisor}/{version}")
async def show_rollout(request: Request, advisor: str, version: str) -> Response:
    service = get_service(request)
    record = await service.job_runner.call_store(get_rollout_or_404, service, advisor, version)
    return await service.job_runner.call_store(_render_rollouts, service, record)


@router.post("/experiments/{advisor}/{version}/{action}")
async def post_decision(
    request: Request, advisor: str, version: str, action: str, revision: str | None = None
) -> Response:
    """Apply a person's action; if it is not allowed, show the page with the reason."""
    service = get_service(request)
    call = service.job_runner.call_store
    record = await call(get_rollout_or_404, service, advisor, version)
    async with request.form(
        max_files=0, max_fields=10, max_part_size=16 * MAX_REASON_CHARS
    ) as fields:
        texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    inputs = {
        "reason": clean_line(texts.get("reason", ""), MAX_REASON_CHARS),
        "who": clean_line(texts.get("who", ""), MAX_NAME_CHARS),
    }
    actor = Actor(f"{inputs['who'] or 'a person'} (page)", inputs["reason"])
    try:
        await service.job_runner.write_store(
            apply_requested_action, service, record, action, actor, revision
        )
    except InvalidTransitionError as error:
        status = 400 if isinstance(error, MissingReasonError) else 409
        return await call(_render_rollouts, service, record, f"{error}.", inputs, status)
    return RedirectResponse(f"/experiments/{record.id}", 303)


def get_rollout_or_404(service: Service, advisor: str, version: str) -> RolloutRecord:
    """Return a rollout; runs in a thread. Raises HTTPException 404."""
    for record in service.rollout_store.list_rollouts():  # hostile names never reach the database
        if (record.advisor, record.version) == (advisor, version):
            return record
    raise HTTPException(404, "There is no such rollout.")


def apply_requested_action(
    service: Service, record: RolloutRecord, action: str, actor: Actor, revision: str | None
) -> RolloutRecord:
    """Apply a person's action from the page or the API; runs in a thread.

    revision  of the rollout as the person saw it; None if unknown

    Raises InvalidTransitionError, and HTTPException 404 for an unknown action.
    """
    if action not in ACTIONS:
        raise HTTPException(404, describe_unknown_action(action))
    config = service.settings.rollout
    if config is None:
        raise InvalidTransitionError("this service runs without --rollout, so it has no steps")
    if revision not in (None, str(record.revision)):
        raise InvalidTransitionError(
            f"{record.name} was changed in the meantime: it is {record.state}; check it again"
        )
    return apply_manual_action(service.rollout_store, config, record, action, actor)


def build_report(service: Service, record: RolloutRecord) -> RolloutReport:
    """Return the report on a rollout now; runs in a thread."""
    return build_rollout_report(
        service.rollout_store, service.settings.rollout, record, time.time()
    )


def _render_rollouts(
    service: Service,
    record: RolloutRecord | None = None,
    error: str = "",
    inputs: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
    """Show all rollouts, or only one; runs in a thread."""
    newest, older = service.rollout_store.split_newest()
    records = [r for r in (*newest, *older) if r.id == record.id] if record else newest
    reports = [build_report(service, record) for record in records]
    for report in reports:
        metric = (report["success"] or {}).get("metric")
        report["metrics"].sort(key=lambda item, first=metric: item["name"] != first)
    profiles = service.params.profiles
    outcomes = [] if record else load_ab_outcomes(service.store.reader)
    advisors = {r.advisor for r in (*newest, *older)} | {o.advisor for o in outcomes}
    return render_html_response(
        "serving/templates/experiments.html",
        status,
        reports=reports,
        older=[] if record else older,
        newest={record.id for record in newest},
        only=record,
        error=error,
        inputs=inputs or {"reason": "", "who": ""},
        config=service.settings.rollout,
        charts={report["rollout"]: build_page_charts(report) for report in reports},
        names={name: profiles[name].name if name in profiles else name for name in advisors},
        describe_assignment=describe_assignment,
        iso_timestamp=iso_timestamp,
        formatting=formatting,
        outcomes=outcomes,
        arm_labels=ARM_LABELS,
        format_share=format_share,
        format_percentages=format_percentages,
    )
