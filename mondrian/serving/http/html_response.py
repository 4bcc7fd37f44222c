"""HTML responses, and errors as a page for a browser that navigates, else as JSON."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fastapi.responses import HTMLResponse, JSONResponse, Response
from python_multipart.multipart import parse_options_header

from mondrian.core.html import render_template

BODY_MESSAGES = {  # by status of the limits of a body
    408: "The photo did not arrive in time. Check the connection and send it again.",
    413: "The photo is too large. Export a smaller copy.",
}
_TITLES = {
    400: "Not accepted",
    401: "Not signed in",
    403: "Not allowed",
    404: "Not found",
    405: "Not found",
    408: "The photo did not arrive",
    409: "Not possible",
    413: "Too large",
    415: "Not a photo",
    422: "This photo cannot be used",
    429: "Too busy",
    503: "Not available at the moment",
    504: "This took too long",
}
_HTML_RANGES = ("text/html", "text/*", "*/*")  # the most specific first
_JSON_RANGES = ("application/json", "application/*", "*/*")


def error_title(status: int) -> str:
    return _TITLES.get(status, "Something went wrong")


def to_sentence(message: str) -> str:
    """Return an error of the API as a sentence for a page."""
    return f"{message[:1].upper()}{message[1:]}."


def prefers_page(headers: Mapping[str, str]) -> bool:
    """Return whether a client prefers HTML to JSON, as a browser does that opens a page."""
    weights = dict(map(_parse_media_range, headers.get("accept", "").split(",")))
    html, json = (
        next((weights[media] for media in ranges if media in weights), 0.0)
        for ranges in (_HTML_RANGES, _JSON_RANGES)
    )
    return html > json


def _parse_media_range(text: str) -> tuple[str, float]:
    """Return a media range of the header Accept and its weight."""
    media, options = parse_options_header(text)
    weight = 1.0
    with suppress(ValueError):
        weight = float(options.get(b"q", b"1"))
    return media.decode("latin-1"), weight


def error_response(
    request_headers: Mapping[str, str],
    status: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    page_message: str = "",
) -> Response:
    """Return {"error": message}, or a page, which may say it in other words."""
    if prefers_page(request_headers):
        return render_message(status, page_message or to_sentence(message), headers)
    return JSONResponse({"error": message}, status, headers)


def render_html_response(
    template: str, status: int = 200, headers: Mapping[str, str] | None = None, **content: Any
) -> HTMLResponse:
    headers = {"cache-control": "private, no-cache", **(headers or {})}
    return HTMLResponse(render_template(template, **content), status, headers)


def render_message(
    status: int, message: str, headers: Mapping[str, str] | None = None
) -> HTMLResponse:
    """Render the page of an error."""
    template = "serving/templates/message.html"
    return render_html_response(
        template, status, headers, title=error_title(status), message=message
    )
