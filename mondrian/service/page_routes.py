"""Pages for people: a job, the history, photographs, and what a person says of a critique."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from os.path import isfile  # of any name, also of one that no disk takes
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from mondrian import radar
from mondrian.errors import PhotoError
from mondrian.photo import small
from mondrian.report import THUMBNAIL
from mondrian.service import ask_routes, live, login_routes
from mondrian.service.pages import score, tone, word
from mondrian.service.reading import Reading, read, shapes
from mondrian.service.service import Service, service_of
from mondrian.service.site import PageRoute, site
from mondrian.service.store import Row

SIDE = 900  # pixels of the longer side of a photograph on a page
NOTE = 1000  # characters of a person's note
NEWEST = 100  # jobs of the history
_ABSENT = "There is no such critique here; it may have been cleared."
_THUMBS = {"up": 1, "down": -1}
_KEPT = {"cache-control": "private, max-age=3600"}  # by a browser: a photograph never changes

router = APIRouter(include_in_schema=False, route_class=PageRoute)
for part in (ask_routes, login_routes, live):
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
async def feedback(request: Request, id: str) -> Response:
    """Keep what a person says of a critique."""
    service = service_of(request)
    row = await service.row(id, _ABSENT)
    async with request.form(max_files=0, max_fields=4, max_part_size=16 * NOTE) as form:
        thumbs = _THUMBS.get(str(form.get("thumbs", "")))
        note = str(form.get("note", "")).strip().replace("\r\n", "\n")  # as a browser counts it
    if thumbs is None:
        raise HTTPException(400, "thumbs must be up or down")
    if len(note) > NOTE:
        raise HTTPException(400, f"the note has {len(note)} characters; most {NOTE}")
    if not await service.work.db(service.store.feedback, row["id"], thumbs, note):
        raise HTTPException(409, f"the job is {row['status']}; there is no critique to judge")
    if thumbs != row["thumbs"]:
        service.metrics.thumbs.labels(row["model_used"] or "", str(thumbs > 0).lower()).inc()
    return RedirectResponse(f"/view/{row['id']}#said-{row['id']}", 303)


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
    return site("history.html", jobs=jobs, shown=shown)


async def job_page(service: Service, row: Row) -> Response:
    """One job for a person, beside the one of the other arm where both were asked."""
    if row["pair_of"]:
        other = await service.work.db(service.store.get, row["pair_of"])
        rows = [other, row] if other else [row]
    else:
        other = await service.work.db(service.store.pair, row["id"])
        rows = [row, other] if other else [row]
    return await service.work.db(_job_page, service, rows)


def _job_page(service: Service, rows: Sequence[Row]) -> Response:
    jobs = [read(one, service.params) for one in rows]
    return site(
        "job.html", jobs=jobs, radars=_radars(jobs), corners=radar.corners(), names=radar.names(),
        shown=isfile(_photo_path(service, rows[0])), note=NOTE, score=score, tone=tone, word=word,
    )  # fmt: skip


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
