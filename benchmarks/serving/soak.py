"""A long constant load on a service while its adapter is replaced: does its memory grow?"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import httpx2 as httpx
import numpy as np
from PIL import Image

from benchmarks.large_base import TINY_FOLDER
from benchmarks.serving import deployment
from benchmarks.serving.clients import (
    TIMEOUT,
    LoadResult,
    Response,
    mondrian_request,
    send_request,
)
from benchmarks.serving.servers import Server, run_mondrian
from mondrian.core.errors import MondrianError

NUM_CLIENTS = 8
REPLACE_INTERVAL = 60.0  # seconds between two adapters
SAMPLE_INTERVAL = 10.0  # seconds between two memory samples
WARM_UP = 0.2  # share of the time that does not count for growth
NUM_SCENES = 100  # rendered; each photo is a crop of one
PROCESSES = ("service", "model")


def soak(folder: Path, seconds: float) -> dict[str, Any]:
    """Run clients against an ab_test service; return load metrics and the memory's growth."""
    setup = deployment.write_deployment(folder / "soak", TINY_FOLDER, 20_480)
    versions = [folder / f"version-{i}" for i in range(2)]
    for i, version in enumerate(versions):
        deployment.write_adapter(setup, version, 1 - 0.1 * i)
    link = setup.adapter / "current"
    link.parent.mkdir(parents=True)
    _point_link(link, versions[0])
    flags = ("--model_mode", "ab_test", "--lora_path", str(setup.adapters))
    with run_mondrian(setup, *flags) as server:
        return asyncio.run(_Soak(server, link, versions, seconds).run())


def format_result(result: dict[str, Any]) -> str:
    lines = [
        f"{result['minutes']:g} minutes, {NUM_CLIENTS} clients, {result['requests_per_second']} "
        f"requests/s, {result['lost']} of {result['requests']} requests lost "
        f"{result['statuses']}; adapters replaced {result['replaced']} times, "
        f"{result['versions']} versions responded, {result['restarts']} restarts of the model"
    ]
    for name in PROCESSES:
        lines.append(
            f"{name}: {result[f'{name}_bytes'] / 1e6:.0f} MB at the end, "
            f"{result[f'{name}_growth_percent']:+.1f} % after the first {100 * WARM_UP:.0f} %"
        )
    return "\n".join(lines)


@dataclass
class _Soak:
    """A run of `seconds` against a server whose adapter is what `link` points to."""

    server: Server
    link: Path
    versions: Sequence[Path]
    seconds: float
    started: float = field(default_factory=perf_counter)
    responses: list[Response] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)
    replaced: int = 0

    async def run(self) -> dict[str, Any]:
        photos = _crops()
        self.started = perf_counter()
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            background = [
                asyncio.create_task(self._replace_adapters()),
                asyncio.create_task(self._sample_memory()),
            ]
            clients = (self._send_requests(client, photos) for _ in range(NUM_CLIENTS))
            await asyncio.gather(*clients)
            load = LoadResult(self.responses, perf_counter() - self.started)
            for task in background:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            status = (await client.get(f"{self.server.url}/model-status")).json()
        return self._result(load, status["restarts"])

    async def _send_requests(self, client: httpx.AsyncClient, photos: Iterator[bytes]) -> None:
        send = mondrian_request(self.server.url)
        while perf_counter() - self.started < self.seconds:
            self.responses.append(await send_request(send, client, next(photos)))

    async def _replace_adapters(self) -> None:
        for version in cycle([*self.versions[1:], *self.versions[:1]]):
            await asyncio.sleep(REPLACE_INTERVAL)
            _point_link(self.link, version)
            self.replaced += 1

    async def _sample_memory(self) -> None:
        while True:
            self.samples.append(
                {
                    "seconds": round(perf_counter() - self.started, 1),
                    "service_bytes": self.server.process.memory_info().rss,
                    "model_bytes": self.server.model_process.memory_info().rss,
                }
            )
            await asyncio.sleep(SAMPLE_INTERVAL)

    def _result(self, load: LoadResult, restarts: int) -> dict[str, Any]:
        metrics = load.metrics()
        names = ("requests", "lost", "requests_per_second", "p50_ms", "p99_ms", "statuses")
        result: dict[str, Any] = {
            "minutes": round(load.seconds / 60, 2),
            "clients": NUM_CLIENTS,
            "replaced": self.replaced,
            "versions": len({response.version for response in load.succeeded} - {""}),
            "restarts": restarts,
        }
        result |= {name: metrics[name] for name in names}
        for name in PROCESSES:
            before, after = _start_and_end([sample[f"{name}_bytes"] for sample in self.samples])
            result[f"{name}_bytes"] = int(after)
            result[f"{name}_growth_percent"] = round(100 * (after / before - 1), 2)
        return result | {"samples": self.samples}


def _start_and_end(sizes: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the first and the last tenth after the warm-up."""
    sizes = sizes[int(len(sizes) * WARM_UP) :]
    if not sizes:
        raise MondrianError("--soak is too short for a memory sample; give more minutes")
    count = max(1, len(sizes) // 10)
    return median(sizes[:count]), median(sizes[-count:])


def _crops() -> Iterator[bytes]:
    """Yield crops of rendered scenes, no two alike."""
    photos = deployment.render_photos(NUM_SCENES)
    scenes = [Image.open(BytesIO(photo)).convert("RGB") for photo in photos]
    rng = np.random.default_rng(deployment.SEED)
    while True:
        scene = scenes[rng.integers(len(scenes))]
        left, top = (int(n) for n in rng.integers(0, 64, 2))
        file = BytesIO()
        scene.crop((left, top, left + 560, top + 440)).save(file, "JPEG", quality=90)
        yield file.getvalue()


def _point_link(link: Path, folder: Path) -> None:
    """Point a link to another folder atomically."""
    new_link = link.with_name(f".{link.name}")
    new_link.symlink_to(folder)
    new_link.replace(link)
