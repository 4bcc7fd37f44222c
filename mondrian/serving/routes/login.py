"""The API key of a browser: asked for once, kept as a cookie that holds what is made of it."""

from __future__ import annotations

from hmac import compare_digest

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from mondrian.serving.http.page_response import PageRoute, render_html_response
from mondrian.serving.http.security import COOKIE, session_token
from mondrian.serving.service import get_service

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/login")
async def show_login_form(request: Request) -> Response:
    """Ask for the key, where one is needed."""
    if not get_service(request).settings.api_key:
        return RedirectResponse("/", 303)
    return render_html_response("serving/templates/login.html", told="")


@router.post("/login")
async def login(request: Request) -> Response:
    """Let a browser in that brings the key."""
    key = get_service(request).settings.api_key
    async with request.form(max_files=0, max_fields=4, max_part_size=1024) as form:
        sent = str(form.get("key", "")).strip()
    if not compare_digest(sent.encode(), key.encode()):
        return render_html_response(
            "serving/templates/login.html", 403, told="That is not the key of this service."
        )
    answer = RedirectResponse("/", 303)
    if key:
        answer.set_cookie(
            COOKIE,
            session_token(key),
            path="/",
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
    return answer
