"""The page of roll-outs for people, and the buttons on it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from mondrian.rollout import formatting
from mondrian.rollout.actions import ACTIONS, InvalidTransition
from mondrian.rollout.manual import NAME, REASON, MissingReason, apply_manual_action, clean_line
from mondrian.rollout.page_charts import build_page_charts
from mondrian.rollout.report import RolloutReport, build_rollout_report, iso_timestamp, split_newest
from mondrian.rollout.store import RolloutRecord
from mondrian.rollout.terminal import describe_assignment
from mondrian.serving.http.page_response import PageRoute, render_html_response
from mondrian.serving.service import Service, get_service

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_NO_ROLLOUT_MESSAGE = "There is no such roll-out here."
DecisionInputs = Mapping[str, str]


@router.get("/experiments")
async def experiments(request: Request) -> Response:
    """The newest roll-out of each advisor, and a list of those before."""
    service = get_service(request)
    return await service.work.call_store(_render_rollouts, service)


@router.get("/experiments/{advisor}/{version}")
async def experiment(request: Request, advisor: str, version: str) -> Response:
    """One roll-out."""
    service = get_service(request)
    entry = await service.work.call_store(get_rollout_or_404, service, advisor, version)
    return await service.work.call_store(_render_rollouts, service, entry)


@router.post("/experiments/{advisor}/{version}/{action}")
async def post_decision(
    request: Request, advisor: str, version: str, action: str, revision: str | None = None
) -> Response:
    """Do what a person decided; the page with why not, where that cannot be."""
    service = get_service(request)
    entry = await service.work.call_store(get_rollout_or_404, service, advisor, version)
    async with request.form(max_files=0, max_fields=10, max_part_size=16 * REASON) as sent:
        form = {name: value for name, value in sent.items() if isinstance(value, str)}
    typed = {
        "reason": clean_line(form.get("reason", ""), REASON),
        "who": clean_line(form.get("who", ""), NAME),
    }
    who = f"{typed['who']} (page)" if typed["who"] else "a person (page)"
    try:
        await service.work.call_store(
            apply_requested_action, service, entry, action, who, typed["reason"], revision
        )
    except InvalidTransition as error:
        status = 400 if isinstance(error, MissingReason) else 409
        return await service.work.call_store(
            _render_rollouts, service, entry, f"{error}.", typed, status
        )
    return RedirectResponse(f"/experiments/{entry.advisor}/{entry.version}", 303)


def get_rollout_or_404(service: Service, advisor: str, version: str) -> RolloutRecord:
    """A roll-out; in a thread. Raises HTTPException 404."""
    for (
        entry
    ) in service.rollouts.list_rollouts():  # compared here: no database is asked for an odd name
        if (entry.advisor, entry.version) == (advisor, version):
            return entry
    raise HTTPException(404, _NO_ROLLOUT_MESSAGE)


def apply_requested_action(
    service: Service, entry: RolloutRecord, action: str, who: str, why: str, revision: str | None
) -> RolloutRecord:
    """What a person does, by page or API; in a thread. Raises NotNow, and HTTPException 404.

    revision  of the roll-out as the person saw it; None where they do not say
    """
    if action not in ACTIONS:
        raise HTTPException(404, f"a roll-out can {', '.join(ACTIONS)}; not {action[:40]!r}")
    settings = service.settings.rollout
    if settings is None:
        raise InvalidTransition("this service runs without --rollout, so it knows no steps")
    if revision not in (None, str(entry.revision)):
        raise InvalidTransition(
            f"{entry.name} was changed meanwhile: it is {entry.state}; look at it again"
        )
    return apply_manual_action(service.rollouts, settings, entry, action, who, why, time.time())


def _render_rollouts(
    service: Service,
    only: RolloutRecord | None = None,
    fault: str = "",
    typed: DecisionInputs | None = None,
    status: int = 200,
) -> Response:
    """Roll-outs for a person, all or only one; in a thread."""
    new, old = split_newest(service.rollouts)
    settings, now = service.settings.rollout, time.time()
    views = [_build_view(service, entry, now) for entry in ([only] if only else new)]
    for view in views:
        view |= {
            "newest": view["rollout"] in {entry.id for entry in new},
            "fault": fault,
            "typed": typed or {"reason": "", "who": ""},
        }
    advisors = {entry.advisor for entry in (*new, *old)}
    profiles = service.params.profiles
    return render_html_response(
        "serving/templates/experiments.html",
        status,
        shown=views,
        old=[] if only else old,
        only=only,
        settings=settings,
        pictures={view["rollout"]: build_page_charts(view) for view in views},
        names={name: profiles[name].name if name in profiles else name for name in advisors},
        deal={view["rollout"]: describe_assignment(view) for view in views},
        share=formatting.SHARE_FORMAT,
        percent=formatting.percent,
        number=formatting.format_value,
        between=formatting.format_interval,
        hours=formatting.format_hours,
        spelled=formatting.metric_format,
        began=iso_timestamp,
    )


def _build_view(service: Service, entry: RolloutRecord, now: float) -> RolloutReport:
    entry = service.rollouts.get(entry.id) or entry  # as it is now
    view = build_rollout_report(service.rollouts, service.settings.rollout, entry, now)
    success = (view["success"] or {}).get("metric")
    metrics = [metric | {"first": metric["name"] == success} for metric in view["metrics"]]
    return view | {"metrics": metrics}
