"""The API key of a browser: asked for once, kept as a cookie that holds what is made of it."""

from __future__ import annotations

from hmac import compare_digest

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from mondrian.serving.http.page_response import PageRoute, site
from mondrian.serving.http.security import COOKIE, session
from mondrian.serving.service import service_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/login")
async def form(request: Request) -> Response:
    """Ask for the key, where one is needed."""
    if not service_of(request).settings.api_key:
        return RedirectResponse("/", 303)
    return site("serving/templates/login.html", told="")


@router.post("/login")
async def login(request: Request) -> Response:
    """Let a browser in that brings the key."""
    key = service_of(request).settings.api_key
    async with request.form(max_files=0, max_fields=4, max_part_size=1024) as form:
        sent = str(form.get("key", "")).strip()
    if not compare_digest(sent.encode(), key.encode()):
        return site(
            "serving/templates/login.html", 403, told="That is not the key of this service."
        )
    answer = RedirectResponse("/", 303)
    if key:
        answer.set_cookie(
            COOKIE, session(key), path="/", httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
    return answer
