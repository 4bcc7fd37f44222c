"""Pages for people: a job, the history, photographs, and what a person says of a critique."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from os.path import isfile  # of any name, also of one that no disk takes
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from mondrian.core.errors import PhotoError
from mondrian.core.html import THUMBNAIL
from mondrian.core.images import small
from mondrian.critique import radar
from mondrian.critique.schema import LONG
from mondrian.serving.feedback.form import Draft, draft_of, opinion_of, values_of
from mondrian.serving.feedback.schema import NOTE, Faults, read_opinion
from mondrian.serving.http.critique_html import score, tone, word
from mondrian.serving.http.page_response import PageRoute, site
from mondrian.serving.jobs.view import Reading, Said, read, shapes
from mondrian.serving.routes import ask_page, live, login
from mondrian.serving.routes.feedback import say
from mondrian.serving.service import Service, service_of
from mondrian.storage.feedback import newest
from mondrian.storage.jobs import Row

SIDE = 900  # pixels of the longer side of a photograph on a page
NEWEST = 100  # jobs of the history
_ABSENT = "There is no such critique here; it may have been cleared."
Drafts = dict[tuple[str, str], Draft]
_KEPT = {"cache-control": "private, max-age=3600"}  # by a browser: a photograph never changes

router = APIRouter(include_in_schema=False, route_class=PageRoute)
for part in (ask_page, login, live):
    router.include_router(part.router)


@router.get("/view/{id}")
async def view(request: Request, id: str) -> Response:
    """A job: how it comes, and what came."""
    service = service_of(request)
    return await job_page(service, await service.row(id, _ABSENT))


@router.get("/history")
async def history(request: Request) -> Response:
    """The newest jobs."""
    service = service_of(request)
    rows = await service.work.db(service.store.listed, NEWEST, ("upload", "direct"))
    return await service.work.db(history_page, service, rows)


@router.get("/photo/{id}")
async def photo(request: Request, id: str, size: str = "") -> Response:
    """A job's photograph as a small JPEG; `size=thumb` for a smaller one."""
    service = service_of(request)
    row = await service.row(id, _ABSENT)
    path, side = _photo_path(service, row), THUMBNAIL if size == "thumb" else SIDE
    try:
        content = await service.work.photo(_jpeg, path, side)
    except PhotoError:
        raise HTTPException(404, "the photograph is gone") from None
    return Response(content, media_type="image/jpeg", headers=_KEPT)


@router.post("/feedback/{id}")
async def feedback(request: Request, id: str, advisor: str = "") -> Response:
    """Keep what a person says of a critique; its page with what is wrong, where something is."""
    service = service_of(request)
    row = await service.row(id, _ABSENT)
    async with request.form(max_files=0, max_fields=40, max_part_size=16 * NOTE) as sent:
        form = {name: value for name, value in sent.items() if isinstance(value, str)}
    one = next((one for one in await _said(service, row) if one.advisor == advisor), None)
    shown = (one.corrected or one.critique) if one else None
    try:
        await say(service, row, read_opinion(json.dumps(opinion_of(form, advisor, shown))))
    except Faults as error:
        if "correct" not in form or shown is None:
            raise HTTPException(400, str(error)) from None
        draft = draft_of(form, error.faults, shown)
        return await job_page(service, row, {(row["id"], advisor): draft}, 400)
    return RedirectResponse(f"/view/{row['id']}#said-{row['id']}-{advisor}", 303)


@router.post("/again/{id}")
async def again(request: Request, id: str) -> Response:
    """Begin a job once more."""
    service = service_of(request)
    service.admit()
    row = await service.row(id, _ABSENT)
    if not await service.work.db(service.store.requeue, row["id"]):
        raise HTTPException(409, f"the job is {row['status']}; it cannot be begun again")
    service.work.came()
    return RedirectResponse(f"/view/{row['id']}", 303)


def history_page(service: Service, rows: Sequence[Row]) -> Response:
    """Jobs for a person; in a thread, as it reads all that was said."""
    jobs = [read(row, service.params) for row in rows]
    shown = {job.row["id"] for job in jobs if isfile(_photo_path(service, job.row))}
    return site("serving/templates/history.html", jobs=jobs, shown=shown)


async def job_page(
    service: Service, row: Row, drafts: Drafts | None = None, status: int = 200
) -> Response:
    """One job for a person, beside the one of the other arm where both were asked.

    drafts  corrections that were refused, by job and advisor
    """
    if row["pair_of"]:
        other = await service.work.db(service.store.get, row["pair_of"])
        rows = [other, row] if other else [row]
    else:
        other = await service.work.db(service.store.pair, row["id"])
        rows = [row, other] if other else [row]
    return await service.work.db(_job_page, service, rows, drafts or {}, status)


def _job_page(service: Service, rows: Sequence[Row], drafts: Drafts, status: int) -> Response:
    said = newest(service.store.engine, [one["id"] for one in rows])
    jobs = [read(one, service.params, said) for one in rows]
    return site(
        "serving/templates/job.html",
        status,
        jobs=jobs,
        radars=_radars(jobs),
        corners=radar.corners(),
        names=radar.names(),
        shown=isfile(_photo_path(service, rows[0])),
        note=NOTE,
        score=score,
        tone=tone,
        word=word,
        drafts=_drafts(jobs) | drafts,
        long=LONG,
    )


def _drafts(jobs: list[Reading]) -> Drafts:
    """What stands in each form at first: the critique, as it was corrected where it was."""
    return {
        (job.row["id"], one.advisor): Draft(values_of(one.corrected or one.critique))
        for job in jobs for one in job.said if one.critique
    }  # fmt: skip


async def _said(service: Service, row: Row) -> tuple[Said, ...]:
    said = await service.work.db(newest, service.store.engine, [row["id"]])
    return (await service.work.db(read, row, service.params, said)).said


def _radars(jobs: list[Reading]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """The polygons of every critique, by job and advisor."""
    return {
        (job.row["id"], one.advisor): shapes(one, jobs, job) for job in jobs for one in job.said
    }


def _photo_path(service: Service, row: Row) -> Path:
    return service.intake.path(row["filename"] or "")


def _jpeg(path: Path, side: int) -> bytes:
    content = BytesIO()
    small(path, side).save(content, "JPEG", quality=85)
    return content.getvalue()
