"""A service under constant load for a long time, adapters replaced all the while: does it grow?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from itertools import count, cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import httpx2 as httpx
import numpy as np
from PIL import Image

from benchmarks.serving import world
from benchmarks.serving.clients import TIMEOUT, Load, Seen, ask_ours, one
from benchmarks.serving.started import Server, our_service
from benchmarks.serving.world import TINY
from mondrian.core.errors import MondrianError

CLIENTS = 8
REPLACED = 60.0  # seconds between two adapters
SAMPLED = 10.0  # seconds between two looks at memory
WARM_UP = 0.2  # share of the time that growth is not counted in
SCENES = 100  # rendered; each photograph is a part of one


def soak(scratch: Path, seconds: float) -> dict[str, Any]:
    """Clients ask in ab_test for so long; memory of service and model process, and its growth."""
    place = world.write_world(scratch / "soak", TINY, 20_480)
    versions = [scratch / f"version-{i}" for i in range(2)]
    for i, folder in enumerate(versions):
        world.write_adapter(place, folder, 1 - 0.1 * i)
    adapter = place.adapters / world.ADVISOR / "current"
    adapter.parent.mkdir(parents=True)
    _point(adapter, versions[0])
    flags = ("--model_mode", "ab_test", "--lora_path", str(place.adapters))
    with our_service(place, *flags) as server:
        return asyncio.run(_run(server, adapter, versions, seconds))


def told(found: dict[str, Any]) -> str:
    """The result in a few lines."""
    lost = f"{found['lost']} of {found['requests']} requests lost {found['statuses']}"
    return (
        f"{found['minutes']:g} minutes, {CLIENTS} clients, {found['requests_per_second']} "
        f"requests/s, {lost}; adapters replaced {found['replaced']} times, {found['versions']} "
        f"versions answered, {found['restarts']} restarts of the model\n"
        + "\n".join(
            f"{name}: {found[f'{name}_bytes'] / 1e6:.0f} MB at the end, "
            f"{found[f'{name}_growth_percent']:+.1f} % after the first {100 * WARM_UP:.0f} %"
            for name in ("service", "model")
        )
    )


async def _run(
    server: Server, adapter: Path, versions: Sequence[Path], seconds: float
) -> dict[str, Any]:
    seen: list[Seen] = []
    samples: list[dict[str, float]] = []
    photos, started = _photographs(), perf_counter()
    replaced = count()

    def over() -> bool:
        return perf_counter() - started >= seconds

    async def ask(client: httpx.AsyncClient) -> None:
        while not over():
            seen.append(await one(ask_ours(server.url), client, next(photos)))

    async def replace() -> None:
        for version in cycle([*versions[1:], *versions[:1]]):
            await asyncio.sleep(REPLACED)
            _point(adapter, version)
            next(replaced)

    async def sample() -> None:
        while True:
            samples.append(
                {
                    "seconds": round(perf_counter() - started, 1),
                    "service_bytes": server.process.memory_info().rss,
                    "model_bytes": server.model.memory_info().rss,
                }
            )
            await asyncio.sleep(SAMPLED)

    async with httpx.AsyncClient(timeout=TIMEOUT) as client:
        others = [asyncio.create_task(replace()), asyncio.create_task(sample())]
        await asyncio.gather(*(ask(client) for _ in range(CLIENTS)))
        took = perf_counter() - started
        for task in others:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        state = (await client.get(f"{server.url}/model-status")).json()
    return _found(Load(seen, took), samples, next(replaced), state["restarts"])


def _found(
    load: Load, samples: Sequence[dict[str, float]], replaced: int, restarts: int
) -> dict[str, Any]:
    figures = load.figures()
    kept = ("requests", "lost", "requests_per_second", "p50_ms", "p99_ms", "statuses")
    out: dict[str, Any] = {
        "minutes": round(load.seconds / 60, 2),
        "clients": CLIENTS,
        "replaced": replaced,
        "versions": len({one.version for one in load.good} - {""}),
        "restarts": restarts,
    }
    out |= {key: figures[key] for key in kept}
    for name in ("service", "model"):
        before, after = _ends([one[f"{name}_bytes"] for one in samples])
        out[f"{name}_bytes"] = int(after)
        out[f"{name}_growth_percent"] = round(100 * (after / before - 1), 2)
    return out | {"samples": list(samples)}


def _ends(sizes: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and the last tenth after the warm-up."""
    rest = sizes[int(len(sizes) * WARM_UP) :]
    if not rest:
        raise MondrianError("--soak is too short for a single look at memory; give minutes")
    some = max(1, len(rest) // 10)
    return median(rest[:some]), median(rest[-some:])


def _photographs() -> Iterator[bytes]:
    """Parts of rendered scenes, no two alike."""
    scenes = [Image.open(BytesIO(one)).convert("RGB") for one in world.photographs(SCENES)]
    draw = np.random.default_rng(world.SEED)
    while True:
        scene = scenes[draw.integers(len(scenes))]
        left, top = (int(n) for n in draw.integers(0, 64, 2))
        file = BytesIO()
        scene.crop((left, top, left + 560, top + 440)).save(file, "JPEG", quality=90)
        yield file.getvalue()


def _point(link: Path, folder: Path) -> None:
    """Let a link lead elsewhere, at no moment nowhere."""
    beside = link.with_name(f".{link.name}")
    beside.symlink_to(folder)
    beside.replace(link)
