"""The start page: choosing photos, an advisor and a model, and queuing critiques."""

from collections.abc import Mapping
from dataclasses import replace
from random import sample
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from mondrian.serving.assignment import normalize_mode
from mondrian.serving.http.html_response import render_html_response
from mondrian.serving.http.page_response import (
    HANDLED_ERRORS,
    NO_ERROR,
    ErrorResponse,
    PageRoute,
    describe_and_count_error,
)
from mondrian.serving.http.request_parsing import read_form
from mondrian.serving.http.uploads import RequestRejectedError
from mondrian.serving.samples import SAMPLES, is_demo, read_sample
from mondrian.serving.service import Service, get_service

_BOTH_ARMS = "both"  # a mode of the start page only: one job per arm

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/")
async def show_start_page(request: Request) -> Response:
    return _render_ask_page(get_service(request), {})


@router.post("/ask")
async def queue_critique(request: Request) -> Response:
    """Queue a critique and redirect to its page; errors are shown in the form.

    The script of the start page sends `accept: application/json`, to keep the chosen photo.
    """
    service, sends_json = get_service(request), request.headers.get("accept") == "application/json"
    try:
        ids = await _queue_jobs(service, request)
    except HANDLED_ERRORS as error:
        response = status, message, headers = describe_and_count_error(request, error)
        if sends_json:
            return JSONResponse({"message": message}, status, headers)
        # show the choices again, if the body was read
        is_read = isinstance(error, RequestRejectedError)
        form: Mapping[str, Any] = await request.form() if is_read else {}
        return _render_ask_page(service, form, response)
    if sends_json:
        return JSONResponse({"url": f"/view/{ids[0]}", "ids": ids}, 201)
    return RedirectResponse(f"/view/{ids[0]}", 303)


async def _queue_jobs(service: Service, request: Request) -> list[str]:
    """Return the id of the job, or with both arms those of both jobs, in random order."""
    service.admit()
    async with read_form(request, service.params) as form:
        if name := request.query_params.get("sample"):  # the form is sent without a photo
            form = replace(form, content=_read_sample(name), filename=name)
        use_both = form.mode == _BOTH_ARMS
        # random: the first job's id is in the page's URL, which must not tell its model
        first_mode, second_mode = sample(("base", "lora"), 2)
        if use_both:
            form = replace(form, mode=first_mode)
        normalize_mode(form.mode)
        await service.intake.check_queue()
        row, upload, is_new = await service.intake.accept(form, "upload", "queued")
    ids = [str(row["id"])]
    if is_new and use_both:
        other = replace(form, mode=second_mode, job_id=str(uuid4()), idempotency_key=None)
        await service.intake.add(other, upload, "upload", "queued", pair_of=row["id"])
        ids.append(other.job_id)
    service.job_runner.notify_queued()
    return ids


def _read_sample(name: str) -> bytes:
    try:
        return read_sample(name)
    except KeyError:
        raise HTTPException(404, "There is no such sample photo.") from None


def _render_ask_page(
    service: Service, form: Mapping[str, Any], error: ErrorResponse = NO_ERROR
) -> Response:
    """Render the start page with the advisor and mode of `form` selected, if it has any."""
    status, message, headers = error
    return render_html_response(
        "serving/templates/ask.html",
        status,
        headers,
        message=message,
        form=form,
        params=service.params,
        ready=service.ready,
        state=service.engine.state,
        tuned_advisors=_list_tuned_advisors(service),
        samples=SAMPLES if is_demo(service.settings) else {},
    )


def _list_tuned_advisors(service: Service) -> list[str]:
    """Return the advisors with an adapter that can answer now."""
    adapters = service.engine.state.adapters
    return [name for name in service.params.advisors if name in adapters and adapters[name].serves]
