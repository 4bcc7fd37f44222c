"""Time to the first token: cold, with a warm prompt, and for the same photo by another advisor.

cold        prompt and photo are new to the model
warm        the prompt is cached, the photo is new
same photo  the prompt is cached, and another advisor has critiqued the photo
"""

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
class FirstToken:
    """Milliseconds to a first token: for the client, and inside the model process if known."""

    client_ms: float
    model_ms: float | None


def measure_first_tokens(
    url: str,
    advisors: Sequence[str],
    photos: Sequence[bytes],
    photos_per_advisor: int,
    read_all: bool,
) -> dict[str, Any]:
    """Return medians over all advisors but the first one, which is a warm-up.

    photos              all different, because the model caches the features of a photo
    photos_per_advisor  the first of them has a cold prompt
    read_all            read the whole response, so that the model's own time is known;
                        otherwise disconnect after the first token
    """
    cold: list[FirstToken] = []
    warm: list[FirstToken] = []
    same_photo: list[FirstToken] = []
    new_photos = iter(photos)
    with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        measure_first_token(client, advisors[0], next(new_photos), read_all)
        for advisor in advisors[1:]:
            times = [
                measure_first_token(client, advisor, next(new_photos), read_all)
                for _ in range(photos_per_advisor)
            ]
            cold.append(times[0])
            warm += times[1:]
        for advisor in advisors[1:]:
            photo = next(new_photos)
            measure_first_token(client, advisors[0], photo, read_all)
            same_photo.append(measure_first_token(client, advisor, photo, read_all))
    num_requests = len(cold) + len(warm) + len(same_photo)
    metrics: dict[str, Any] = {"requests": num_requests, "lost": 0, "clients": 1}
    for name, times in (("cold", cold), ("warm", warm), ("same_photo", same_photo)):
        metrics[f"ttft_{name}_ms"] = round(median(time.client_ms for time in times), 1)
        model_ms = [time.model_ms for time in times if time.model_ms is not None]
        metrics[f"model_ttft_{name}_ms"] = round(median(model_ms), 1) if model_ms else None
    return metrics


def measure_first_token(
    client: httpx.Client, advisor: str, photo: bytes, read_all: bool
) -> FirstToken:
    """Send one POST /analyze_stream."""
    started, seconds, job = perf_counter(), 0.0, ""
    files, data = {"image": ("photo.jpg", photo)}, {"advisor": advisor}
    with client.stream("POST", "/analyze_stream", files=files, data=data) as response:
        for line in response.iter_lines():
            event = json.loads(line[5:]) if line.startswith("data:") else {}
            if event.get("type") == "error":
                raise MondrianError(f"POST /analyze_stream of {advisor}: {event['error']}")
            if event.get("type") == "json_token" and not seconds:
                seconds = perf_counter() - started
                if not read_all:
                    break
            if event.get("type") == "complete":
                job = event["result"]["job_id"]
    if not read_all:
        _wait_until_idle(client)
        return FirstToken(1000 * seconds, None)
    model_seconds = client.get(f"/status/{job}").json()["first_token_seconds"]
    return FirstToken(1000 * seconds, 1000 * model_seconds)


def _wait_until_idle(client: httpx.Client) -> None:
    """Wait until the service has cancelled the job of a client that disconnected."""
    deadline = perf_counter() + TIMEOUT
    while client.get("/model-status").json()["busy"]:
        if perf_counter() > deadline:
            raise MondrianError(f"the job of a disconnected client was busy for {TIMEOUT:g} s")
        sleep(0.05)
