"""The page that asks for a critique: a photograph, an advisor, and who is to answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from mondrian.serving.assignment import OWN, checked
from mondrian.serving.http.error_responses import FAULTS
from mondrian.serving.http.page_response import PageRoute, fault, site
from mondrian.serving.http.request_parsing import read_form
from mondrian.serving.http.uploads import Refused
from mondrian.serving.service import Service, service_of

BOTH = "both"  # a mode of this page alone: two jobs, one by each arm
_SETTINGS = {
    "base": "the base answers", "fine_tuned": "the fine-tuned adapter answers",
    "ab_test": "drawn by lot: base or fine-tuned",
}  # fmt: skip

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/")
async def index(request: Request) -> Response:
    """Ask."""
    return _page(service_of(request))


@router.post("/ask")
async def ask(request: Request) -> Response:
    """Queue what was asked for and show how it comes; a fault is told in the form."""
    service = service_of(request)
    try:
        id = await _queued(service, request)
    except FAULTS as error:
        status, told, headers = fault(request, error)
        return _page(service, told, await _chosen(request, error), status, headers)
    return RedirectResponse(f"/view/{id}", 303)


async def _queued(service: Service, request: Request) -> str:
    """The id of the job; of the first of two, where both arms are to answer."""
    service.admit()
    told = await read_form(request, service.params)
    both = told.mode == BOTH
    asked = replace(told, mode="base") if both else told
    checked(asked.mode)
    await service.check_queue()
    row, taken, new = await service.accept(asked, "upload", "queued")
    if new and both:
        other = replace(asked, mode="lora", job_id=str(uuid4()), key=None)
        await service.add(other, taken, "upload", "queued", pair_of=row["id"])
    service.work.came()
    return str(row["id"])


async def _chosen(request: Request, error: Exception) -> Mapping[str, Any]:
    """What a refused form had chosen, where it was read at all."""
    unread = not isinstance(error, Refused) or error.status == 408
    return {} if unread else await request.form()


def _page(
    service: Service, told: str = "", chosen: Mapping[str, Any] | None = None,
    status: int = 200, headers: Mapping[str, str] | None = None,
) -> Response:  # fmt: skip
    params, chosen = service.params, chosen or {}
    advisors = [(name, params.profile(name), _tuned(service, name)) for name in params.advisors]
    serve = params.serve
    return site(
        "serving/templates/ask.html", status, headers, told=told, advisors=advisors,
        advisor=_one(chosen.get("advisor"), params.advisors),
        mode=_one(chosen.get("mode"), (OWN, "base", "lora", BOTH)),
        setting=_SETTINGS[serve.model_mode], most=serve.body_megabytes,
        ready=service.ready, state=service.engine.state,
    )  # fmt: skip


def _one(told: Any, known: list[str] | tuple[str, ...]) -> str:
    return told if told in known else known[0]


def _tuned(service: Service, advisor: str) -> bool:
    found = service.engine.state.adapters.get(advisor)
    return bool(found and found.serves)
