"""Pages for people."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from mondrian.service.service import Service
from mondrian.service.store import Row

router = APIRouter(include_in_schema=False)


@router.get("/")
async def index(request: Request) -> Response:
    """Ask."""
    return HTMLResponse("Mondrian")


def history_page(service: Service, rows: Sequence[Row]) -> Response:
    """Jobs for a person."""
    return HTMLResponse(f"{len(rows)}")


async def job_page(service: Service, row: Row) -> Response:
    """One job for a person."""
    return HTMLResponse(row["id"])
