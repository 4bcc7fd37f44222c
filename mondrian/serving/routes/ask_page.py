"""The page that asks for a critique: a photograph, an advisor, and who is to answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from mondrian.serving.assignment import DEFAULT_MODE, normalize_mode
from mondrian.serving.http.error_responses import HANDLED_ERRORS
from mondrian.serving.http.page_response import (
    PageRoute,
    describe_and_count_error,
    render_html_response,
)
from mondrian.serving.http.request_parsing import read_form
from mondrian.serving.http.uploads import RequestRejected
from mondrian.serving.service import Service, get_service

BOTH_ARMS = "both"  # a mode of this page alone: two jobs, one by each arm
_MODE_DESCRIPTIONS = {
    "base": "the base answers",
    "fine_tuned": "the fine-tuned adapter answers",
    "ab_test": "drawn by lot: base or fine-tuned",
}

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/")
async def index(request: Request) -> Response:
    """Ask."""
    return _render_ask_page(get_service(request))


@router.post("/ask")
async def ask(request: Request) -> Response:
    """Queue what was asked for and show how it comes; a fault is told in the form."""
    service = get_service(request)
    try:
        id = await _queue_jobs(service, request)
    except HANDLED_ERRORS as error:
        status, message, headers = describe_and_count_error(request, error)
        return _render_ask_page(
            service, message, await _read_form_choices(request, error), status, headers
        )
    return RedirectResponse(f"/view/{id}", 303)


async def _queue_jobs(service: Service, request: Request) -> str:
    """The id of the job; of the first of two, where both arms are to answer."""
    service.admit()
    form = await read_form(request, service.params)
    both = form.mode == BOTH_ARMS
    first_form = replace(form, mode="base") if both else form
    normalize_mode(first_form.mode)
    await service.check_queue()
    row, taken, new = await service.accept(first_form, "upload", "queued")
    if new and both:
        other = replace(first_form, mode="lora", job_id=str(uuid4()), key=None)
        await service.add_job(other, taken, "upload", "queued", pair_of=row["id"])
    service.work.notify_queued()
    return str(row["id"])


async def _read_form_choices(request: Request, error: Exception) -> Mapping[str, Any]:
    """What a refused form had chosen, where it was read at all."""
    unread = not isinstance(error, RequestRejected) or error.status == 408
    return {} if unread else await request.form()


def _render_ask_page(
    service: Service,
    message: str = "",
    chosen: Mapping[str, Any] | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    params, chosen = service.params, chosen or {}
    advisors = [
        (name, params.profile(name), _has_adapter(service, name)) for name in params.advisors
    ]
    serve = params.serve
    return render_html_response(
        "serving/templates/ask.html",
        status,
        headers,
        told=message,
        advisors=advisors,
        advisor=_select_option(chosen.get("advisor"), params.advisors),
        mode=_select_option(chosen.get("mode"), (DEFAULT_MODE, "base", "lora", BOTH_ARMS)),
        setting=_MODE_DESCRIPTIONS[serve.model_mode],
        most=serve.max_body_mb,
        ready=service.ready,
        state=service.engine.state,
    )


def _select_option(value: Any, known: list[str] | tuple[str, ...]) -> str:
    return value if value in known else known[0]


def _has_adapter(service: Service, advisor: str) -> bool:
    adapter = service.engine.state.adapters.get(advisor)
    return bool(adapter and adapter.serves)
