"""The page of roll-outs for people, and the buttons on it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from mondrian.rollout import formatting
from mondrian.rollout.actions import ACTIONS, NotNow
from mondrian.rollout.manual import NAME, REASON, NoReason, by_hand, line
from mondrian.rollout.page_charts import picture
from mondrian.rollout.report import Report, moment, newest, report
from mondrian.rollout.store import Entry
from mondrian.rollout.terminal import told_of_deal
from mondrian.serving.http.page_response import PageRoute, site
from mondrian.serving.service import Service, service_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_ABSENT = "There is no such roll-out here."
Typed = Mapping[str, str]


@router.get("/experiments")
async def experiments(request: Request) -> Response:
    """The newest roll-out of each advisor, and a list of those before."""
    service = service_of(request)
    return await service.work.db(_page, service)


@router.get("/experiments/{advisor}/{version}")
async def experiment(request: Request, advisor: str, version: str) -> Response:
    """One roll-out."""
    service = service_of(request)
    entry = await service.work.db(entry_of, service, advisor, version)
    return await service.work.db(_page, service, entry)


@router.post("/experiments/{advisor}/{version}/{action}")
async def decided(
    request: Request, advisor: str, version: str, action: str, revision: str | None = None
) -> Response:
    """Do what a person decided; the page with why not, where that cannot be."""
    service = service_of(request)
    entry = await service.work.db(entry_of, service, advisor, version)
    async with request.form(max_files=0, max_fields=10, max_part_size=16 * REASON) as sent:
        form = {name: value for name, value in sent.items() if isinstance(value, str)}
    typed = {"reason": line(form.get("reason", ""), REASON), "who": line(form.get("who", ""), NAME)}
    who = f"{typed['who']} (page)" if typed["who"] else "a person (page)"
    try:
        await service.work.db(act, service, entry, action, who, typed["reason"], revision)
    except NotNow as error:
        status = 400 if isinstance(error, NoReason) else 409
        return await service.work.db(_page, service, entry, f"{error}.", typed, status)
    return RedirectResponse(f"/experiments/{entry.advisor}/{entry.version}", 303)


def entry_of(service: Service, advisor: str, version: str) -> Entry:
    """A roll-out; in a thread. Raises HTTPException 404."""
    for entry in service.rollouts.all():  # compared here: no database is asked for an odd name
        if (entry.advisor, entry.version) == (advisor, version):
            return entry
    raise HTTPException(404, _ABSENT)


def act(
    service: Service, entry: Entry, action: str, who: str, why: str, revision: str | None
) -> Entry:
    """What a person does, by page or API; in a thread. Raises NotNow, and HTTPException 404.

    revision  of the roll-out as the person saw it; None where they do not say
    """
    if action not in ACTIONS:
        raise HTTPException(404, f"a roll-out can {', '.join(ACTIONS)}; not {action[:40]!r}")
    settings = service.settings.rollout
    if settings is None:
        raise NotNow("this service runs without --rollout, so it knows no steps")
    if revision not in (None, str(entry.revision)):
        raise NotNow(f"{entry.name} was changed meanwhile: it is {entry.state}; look at it again")
    return by_hand(service.rollouts, settings, entry, action, who, why, time.time())


def _page(
    service: Service, only: Entry | None = None, fault: str = "", typed: Typed | None = None,
    status: int = 200,
) -> Response:  # fmt: skip
    """Roll-outs for a person, all or only one; in a thread."""
    new, old = newest(service.rollouts)
    settings, now = service.settings.rollout, time.time()
    shown = [_told(service, entry, now) for entry in ([only] if only else new)]
    for told in shown:
        told |= {"newest": told["rollout"] in {one.id for one in new}, "fault": fault,
                 "typed": typed or {"reason": "", "who": ""}}  # fmt: skip
    advisors = {entry.advisor for entry in (*new, *old)}
    profiles = service.params.profiles
    return site(
        "serving/templates/experiments.html",
        status,
        shown=shown,
        old=[] if only else old,
        only=only,
        settings=settings,
        pictures={told["rollout"]: picture(told) for told in shown},
        names={one: profiles[one].name if one in profiles else one for one in advisors},
        deal={told["rollout"]: told_of_deal(told) for told in shown},
        share=formatting.SHARE,
        percent=formatting.percent,
        number=formatting.number,
        between=formatting.between,
        hours=formatting.hours,
        spelled=formatting.spelled,
        began=moment,
    )


def _told(service: Service, entry: Entry, now: float) -> Report:
    entry = service.rollouts.get(entry.id) or entry  # as it is now
    told = report(service.rollouts, service.settings.rollout, entry, now)
    success = (told["success"] or {}).get("metric")
    metrics = [one | {"first": one["name"] == success} for one in told["metrics"]]
    return told | {"metrics": metrics}
