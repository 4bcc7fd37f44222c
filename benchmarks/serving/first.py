"""How long a first token takes: under a prompt that is new to the model, and under one it knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter, sleep
from typing import Any

import httpx2 as httpx

from benchmarks.serving.clients import TIMEOUT
from mondrian.core.errors import MondrianError


@dataclass(frozen=True)
class First:
    """Milliseconds to a first token: as the client sees it, and from its arrival at the model."""

    client: float
    model: float | None


def first_tokens(
    url: str, advisors: Sequence[str], photos: Sequence[bytes], each: int, whole: bool
) -> dict[str, Any]:
    """Medians over all advisors but the first one, which the model wakes up with.

    photos  of which no two requests have the same: what the tower says of one is kept
    each    photographs of an advisor; the first of them finds the prompt unknown
    whole   wait for each answer's end, so that the model says its own time too; else go away
    """
    cold: list[First] = []
    warm: list[First] = []
    new = iter(photos)
    with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        first_token(client, advisors[0], next(new), whole)
        for advisor in advisors[1:]:
            found = [first_token(client, advisor, next(new), whole) for _ in range(each)]
            cold.append(found[0])
            warm += found[1:]
    told: dict[str, Any] = {"requests": len(cold) + len(warm), "lost": 0, "clients": 1}
    for name, found in (("cold", cold), ("warm", warm)):
        told[f"ttft_{name}_ms"] = round(median(one.client for one in found), 1)
        inside = [one.model for one in found if one.model is not None]
        told[f"model_ttft_{name}_ms"] = round(median(inside), 1) if inside else None
    return told


def first_token(client: httpx.Client, advisor: str, photo: bytes, whole: bool) -> First:
    """Of one POST /analyze_stream."""
    started, seconds, job = perf_counter(), 0.0, ""
    files, data = {"image": ("photo.jpg", photo)}, {"advisor": advisor}
    with client.stream("POST", "/analyze_stream", files=files, data=data) as answer:
        for line in answer.iter_lines():
            told = json.loads(line[5:]) if line.startswith("data:") else {}
            if told.get("type") == "error":
                raise MondrianError(f"POST /analyze_stream of {advisor}: {told['error']}")
            if told.get("type") == "json_token" and not seconds:
                seconds = perf_counter() - started
                if not whole:
                    break
            if told.get("type") == "complete":
                job = told["result"]["job_id"]
    if not whole:
        _wait_idle(client)
        return First(1000 * seconds, None)
    inside = client.get(f"/status/{job}").json()["first_token_seconds"]
    return First(1000 * seconds, 1000 * inside)


def _wait_idle(client: httpx.Client) -> None:
    """Until the place of who went away is free."""
    deadline = perf_counter() + TIMEOUT
    while client.get("/model-status").json()["busy"]:
        if perf_counter() > deadline:
            raise MondrianError(f"a client that went away kept its place for {TIMEOUT:g} s")
        sleep(0.05)
