"""The history: every critique that was requested, with search, filters and pages."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from os.path import isfile  # unlike Path.is_file it accepts any name
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response

from mondrian.core.params import Params
from mondrian.serving.http.html_response import render_html_response
from mondrian.serving.http.page_response import PageRoute
from mondrian.serving.jobs.view import JobView, build_job_view
from mondrian.serving.service import Service, get_service
from mondrian.storage.history import (
    HistoryFilter,
    HistoryPage,
    SearchWord,
    load_entries,
    load_history,
)
from mondrian.storage.jobs import JobRow

PAGE_SIZE = 50  # entries
_MAX_PAGE = 100_000
_MAX_WORDS = 8  # of a search
_MAX_SEARCH_CHARS = 200
_MAX_OFFSET_MINUTES = 24 * 60
_FIELDS = ("q", "advisor", "arm", "from", "to", "min", "max", "offset")  # of the form
_ARMS = {"base": "base", "fine_tuned": "fine-tuned"}

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@dataclass(frozen=True)
class HistoryEntry:
    """One request: a critique, or the two of a pair."""

    jobs: list[JobView]
    is_blind: bool  # the arms must not be shown
    photo_id: str  # a job with an existing photo, or empty

    @property
    def is_pair(self) -> bool:
        return len(self.jobs) > 1


@router.get("/history")
async def show_history_page(request: Request) -> Response:
    service = get_service(request)
    fields = {name: request.query_params.get(name, "").strip() for name in _FIELDS}
    number = min(int(_parse_number(request.query_params.get("page", ""), 1)), _MAX_PAGE)
    call = service.job_runner.call_store
    return await call(_render_history, service, fields, max(1, number))


def render_jobs(service: Service, rows: Sequence[JobRow]) -> Response:
    """Render these jobs as a list without filters; blocking."""
    page = load_entries(service.store.reader, [row["id"] for row in rows])
    return _render(service, page, {}, 1, len(rows))


def _render_history(service: Service, fields: Mapping[str, str], number: int) -> Response:
    conditions = _parse_filter(fields, service.params)
    offset = (number - 1) * PAGE_SIZE
    page = load_history(service.store.reader, conditions, offset, PAGE_SIZE)
    return _render(service, page, fields, number, PAGE_SIZE)


def _render(
    service: Service, page: HistoryPage, fields: Mapping[str, str], number: int, page_size: int
) -> Response:
    params = service.params
    active_fields = {name: value for name, value in fields.items() if value and name != "offset"}

    def page_url(target: int) -> str:
        values = {name: value for name, value in fields.items() if value}
        return f"/history?{urlencode(values | {'page': target})}"

    return render_html_response(
        "serving/templates/history.html",
        entries=[_build_entry(service, page, rows) for rows in page.entries],
        total=page.total,
        fields=fields,
        is_filtered=bool(active_fields),
        number=number,
        page_count=max(1, -(-page.total // page_size)) if page_size else 1,
        page_url=page_url,
        advisor_names={name: params.profile(name).name for name in params.advisors},
        arms=_ARMS,
    )


def _build_entry(service: Service, page: HistoryPage, rows: list[JobRow]) -> HistoryEntry:
    path = service.uploads.path(rows[0]["filename"] or "")
    photo_id = rows[0]["id"] if isfile(path) else ""
    views = [build_job_view(row, service.params) for row in rows]
    return HistoryEntry(views, rows[0]["id"] in page.blind_ids, photo_id)


def _parse_filter(fields: Mapping[str, str], params: Params) -> HistoryFilter:
    """Parse the fields of the form; one that is invalid is no condition."""
    words = fields["q"][:_MAX_SEARCH_CHARS].replace("\0", "").split()[:_MAX_WORDS]
    names = {advisor: params.profile(advisor).name.lower() for advisor in params.advisors}
    return HistoryFilter(
        words=[SearchWord(w, [a for a, name in names.items() if w.lower() in name]) for w in words],
        advisor=fields["advisor"] if fields["advisor"] in params.advisors else "",
        arm=fields["arm"] if fields["arm"] in _ARMS else "",
        since=_parse_day(fields["from"], fields["offset"]),
        until=_parse_day(fields["to"], fields["offset"], days=1),
        min_score=_parse_score(fields["min"]),
        max_score=_parse_score(fields["max"]),
    )


def _parse_day(text: str, offset: str, days: int = 0) -> str:
    """Return the start of a day, `days` later, as an ISO time in UTC; empty if it is no date.

    offset  minutes that the browser's time is behind UTC
    """
    minutes = max(-_MAX_OFFSET_MINUTES, min(_MAX_OFFSET_MINUTES, _parse_number(offset, 0)))
    with suppress(ValueError, OverflowError):
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
        moment = day + timedelta(days=days, minutes=minutes)
        return moment.isoformat(timespec="milliseconds")
    return ""


def _parse_score(text: str) -> float | None:
    score = _parse_number(text.replace(",", "."), -1)
    return score if 0 <= score <= 10 else None


def _parse_number(text: str, default: float) -> float:
    with suppress(ValueError):
        number = float(text[:20])
        if abs(number) < 1e9:  # also not NaN
            return number
    return default
