"""Login of a browser with the API key of the service."""

from hmac import compare_digest

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from mondrian.serving.http.html_response import render_html_response
from mondrian.serving.http.page_response import PageRoute
from mondrian.serving.http.security import COOKIE, client_address, session_token
from mondrian.serving.service import get_service

_LOGIN_TEMPLATE = "serving/templates/login.html"

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/login")
async def show_login_form(request: Request) -> Response:
    if not get_service(request).settings.api_key:
        return RedirectResponse("/", 303)
    return render_html_response(_LOGIN_TEMPLATE, message="")


@router.post("/login")
async def login(request: Request) -> Response:
    key = get_service(request).settings.api_key
    async with request.form(max_files=0, max_fields=4, max_part_size=1024) as form:
        entered = str(form.get("key", "")).strip()
    if not compare_digest(entered.encode(), key.encode()):
        return _reject_login(request)
    response = RedirectResponse("/", 303)
    if key:
        token, https = session_token(key), request.url.scheme == "https"
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=https)
    return response


def _reject_login(request: Request) -> Response:
    """Show the form again; after some wrong keys the status is 429."""
    status, message, headers = 403, "Wrong API key.", {}
    if seconds := request.app.state.wrong_keys.hit(client_address(request.scope)):
        status, headers = 429, {"retry-after": str(seconds)}
        message = f"Too many wrong API keys; try again in {seconds} s."
    get_service(request).metrics.refused.labels(str(status)).inc()
    return render_html_response(_LOGIN_TEMPLATE, status, headers, message=message)
