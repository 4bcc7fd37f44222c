"""Next steps on a critique's page: another advisor, stop, another try, delete, download.

As the other forms, these are protected from requests of other sites by SecurityMiddleware.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import shuffle
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from mondrian.core.html import render_template, thumbnail_url
from mondrian.critique.schema import Critique
from mondrian.serving.http.critique_html import score_level
from mondrian.serving.http.page_response import PageRoute
from mondrian.serving.http.request_parsing import identify_client
from mondrian.serving.jobs.view import AdvisorResult, JobView, build_job_view
from mondrian.serving.routes.critique_page import CRITIQUE_NOT_FOUND
from mondrian.serving.service import Service, get_service
from mondrian.storage.feedback import load_newest_feedback
from mondrian.storage.history import load_entries
from mondrian.storage.jobs import JobRow

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_FORMATS = ("html", "json")
_PHOTO_SIDE = 900  # pixels of the longer side in a downloaded document
_MODEL_COLUMNS = ("model_used", "model", "adapter", "adapter_version", "fallback_reason")


@router.post("/more/{id}")
async def ask_other_advisor(request: Request, id: str, advisor: str = "") -> Response:
    """Request the same critique, or pair of critiques, from another advisor."""
    service = get_service(request)
    service.admit()
    rows, _ = await _load_entry(service, id)
    if advisor not in service.params.advisors:
        raise HTTPException(400, "This advisor is not one of those shown. Choose one of them.")
    if not rows[0]["kind"]:
        raise HTTPException(409, "The photo of this critique is not stored here; send it again.")
    await service.intake.check_queue()
    shuffle(rows)  # the first job's id is in the page's URL, and must not tell the model
    first: JobRow | None = None
    for row in rows:
        pair_of = first["id"] if first else None
        mode, client = row["mode"] or "baseline", identify_client(request)
        job = await service.intake.add_for_photo(row, advisor, mode, client, pair_of)
        first = first or job
    assert first
    return RedirectResponse(f"/view/{first['id']}", 303)


@router.post("/stop/{id}")
async def stop(request: Request, id: str) -> Response:
    """Stop a critique, or both of a pair, that waits or is being written."""
    service = get_service(request)
    rows, _ = await _load_entry(service, id)
    stopped = [await service.job_runner.stop(row["id"]) for row in rows]
    if not any(stopped):
        raise HTTPException(409, "This critique is not being written any more.")
    return RedirectResponse(f"/view/{rows[0]['id']}", 303)


@router.post("/again/{id}")
async def restart_job(request: Request, id: str) -> Response:
    service = get_service(request)
    row = await service.get_job(id, CRITIQUE_NOT_FOUND)
    if not await service.restart_job(row["id"]):
        raise HTTPException(409, "This critique cannot be started again now; reload its page.")
    return RedirectResponse(f"/view/{row['id']}", 303)


@router.post("/delete/{id}")
async def delete(request: Request, id: str) -> Response:
    """Delete a critique, or both of a pair, and the photo if no other critique uses it."""
    service = get_service(request)
    rows, _ = await _load_entry(service, id)
    if not rows[0]["kind"]:
        raise HTTPException(409, "This critique belongs to another program; delete it there.")
    unused = await service.job_runner.write_store(service.store.delete, [row["id"] for row in rows])
    if unused is None:
        raise HTTPException(409, "This critique is still being written. Stop it, then delete it.")
    for filename in unused:
        await service.job_runner.call_upload_store(service.uploads.delete, filename)
    return RedirectResponse("/history", 303)


@router.get("/download/{id}/{format}")
async def download(request: Request, id: str, format: str) -> Response:
    """The critique, or pair of critiques, as a file."""
    if format not in _FORMATS:
        raise HTTPException(404, "A critique can be downloaded as HTML or JSON.")
    service = get_service(request)
    rows, is_blind = await _load_entry(service, id)
    call = service.job_runner.call_store
    views = await call(_build_views, service, rows)
    if not any(view.results for view in views):
        raise HTTPException(409, "There is no critique yet. Wait until it is complete.")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{views[0].photo}-{rows[0]['advisor']}")[:100]
    headers = {
        "content-disposition": f'attachment; filename="{name}.{format}"',
        "cache-control": "private, no-cache",
    }
    if format == "json":
        return JSONResponse(_serialize(views, is_blind), headers=headers)
    html = await call(_render_document, service, views, is_blind)
    return Response(html, media_type="text/html", headers=headers)


async def _load_entry(service: Service, id: str) -> tuple[list[JobRow], bool]:
    """Return the job, or the jobs of its pair, and whether their arms must not be shown."""
    row = await service.get_job(id, CRITIQUE_NOT_FOUND)
    call, reader = service.job_runner.call_store, service.store.reader
    page = await call(load_entries, reader, [row["id"]])
    if not page.entries:
        raise HTTPException(404, CRITIQUE_NOT_FOUND)
    return page.entries[0], bool(page.blind_ids)


def _build_views(service: Service, rows: Sequence[JobRow]) -> list[JobView]:
    feedback = load_newest_feedback(service.store.reader, [row["id"] for row in rows])
    return [build_job_view(row, service.params, feedback) for row in rows]


def _serialize(views: Sequence[JobView], is_blind: bool) -> dict[str, Any]:
    return {
        "photo": views[0].photo,
        "critiques": [
            _serialize_result(view, result, is_blind) for view in views for result in view.results
        ],
    }


def _serialize_result(view: JobView, result: AdvisorResult, is_blind: bool) -> dict[str, Any]:
    row, feedback = view.row, result.feedback or {}
    model = {} if is_blind else {name: row[name] for name in _MODEL_COLUMNS}
    return {
        "advisor": result.name,
        "completed_at": row["completed_at"],
        "critique": result.critique.model_dump(mode="json") if result.critique else result.text,
        "corrected": result.corrected.model_dump(mode="json") if result.corrected else None,
        "thumbs": feedback.get("thumbs"),
        "note": feedback.get("note"),
        **model,
    }


@dataclass(frozen=True)
class _DownloadedAnswer:
    """A critique in the downloaded document; corrected, if it has been."""

    advisor: str
    critique: Critique
    heading: str


def _render_document(service: Service, views: Sequence[JobView], is_blind: bool) -> str:
    answers = [
        _DownloadedAnswer(
            result.advisor, critique, _describe_result(view, result, position, is_blind)
        )
        for position, view in enumerate(views, 1)
        for result in view.results
        if (critique := result.corrected or result.critique)
    ]
    return render_template(
        "serving/templates/download.html",
        title=f"{views[0].names} on {views[0].photo}",
        name=views[0].photo,
        photo=thumbnail_url(service.uploads.path(views[0].row["filename"] or ""), _PHOTO_SIDE),
        answers=answers,
        params=service.params,
        score_level=score_level,
    )


def _describe_result(view: JobView, result: AdvisorResult, position: int, is_blind: bool) -> str:
    return f"{result.name}, {f'critique {position}' if is_blind else view.arm or view.mode_label}"
