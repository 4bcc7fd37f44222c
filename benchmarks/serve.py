"""Serving side by side: python benchmarks/serve.py [--quick] [--soak MINUTES]

On loopback, each server in processes of its own: what an adapter costs beside its base and changing
arms costs (benchmarks/systems/arms.py), what a first token costs under a long prompt that is new
and under one that is known, and how many critiques a second 16 clients get from this project's
service and from mlx_vlm.server, same base, photographs, prompt and limit, greedy, float32, on one
fast BLAS. Ours are held to the schema, half of them by an adapter (ab_test); once not held, like
mlx-vlm's. Writes benchmarks/results/serve.json; --soak writes soak.json and measures nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.serving import clients, soak, world  # noqa: E402
from benchmarks.serving.first import first_tokens  # noqa: E402
from benchmarks.serving.lines import LARGE, MODES, Line, line, ratios, table  # noqa: E402
from benchmarks.serving.started import our_service, their_server  # noqa: E402
from benchmarks.serving.world import TINY, World  # noqa: E402
from mondrian.core.errors import MondrianError, run  # noqa: E402

PIXELS = {TINY.name: 20_480, LARGE: 640 * 480}
CLIENTS = 16
THREADS = min(os.cpu_count() or 1, 4)  # of BLAS, as the service gives them to its model


@dataclass(frozen=True)
class Size:
    """How much is measured.

    turns            rounds, turns and steps of benchmarks/systems/arms.py, by base
    requests, free   of all clients together, held to the schema and not
    least            requests to mlx-vlm, which gets as many as ours took time for
    advisors, each   of the first tokens, and photographs of each, by base
    """

    turns: dict[str, tuple[int, int, int]]
    requests: int
    free: int
    least: int
    advisors: dict[str, tuple[int, int]]


FULL = Size(
    {TINY.name: (8, 15, 15), LARGE: (2, 20, 8)}, 1000, 200, 100, {TINY.name: (6, 4), LARGE: (4, 4)}
)
QUICK = Size(
    {TINY.name: (2, 5, 10), LARGE: (1, 3, 4)}, 64, 32, 32, {TINY.name: (3, 3), LARGE: (2, 2)}
)


def write_worlds(scratch: Path) -> dict[str, World]:
    """A world with an adapter for each base."""
    import mondrian.model  # noqa: F401  # before mlx
    from benchmarks import large_base

    large_base.write_base(scratch / LARGE)
    found = {}
    for base in (TINY, scratch / LARGE):
        place = scratch / f"{base.name}-world"
        found[base.name] = world.write_world(place, base, PIXELS[base.name])
        world.write_adapter(found[base.name], found[base.name].adapters / world.ADVISOR)
    return found


def arms(one: World, how: str, turns: Sequence[int]) -> Line:
    """What benchmarks/systems/arms.py says, as a line."""
    script = str(ROOT / "benchmarks/systems/arms.py")
    folder = one.adapters / world.ADVISOR
    told = [str(one.params_file), str(folder), how, *map(str, turns)]
    done = subprocess.run(
        [sys.executable, script, *told],
        capture_output=True,
        text=True,
        timeout=1800,
        env=os.environ | {"OPENBLAS_NUM_THREADS": str(THREADS)},
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise MondrianError(f"{script} {' '.join(told)}: {said[-1][:300]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return line(
        "mondrian",
        one.params.base.name,
        MODES[how],
        decode_tokens_per_second=round(found["adapter_tokens_per_second"], 2),
        base_tokens_per_second=round(found["base_tokens_per_second"], 2),
        adapter_overhead=round(found["overhead"], 4),
        swap_ms=round(found["swap_ms"], 4),
        second_arm_bytes=max(found["told_bytes"], found["taken_bytes"]),
        adapter_bytes=found["file_bytes"],
    )


def first(base: Path, folder: Path, count: int, each: int, photos: Sequence[bytes]) -> Line:
    """First tokens under prompts of world.LONG tokens; on the large base no answer is awaited."""
    personas = world.long_personas(base, count)
    place = world.write_world(folder, base, PIXELS[base.name], personas)
    with our_service(place) as server:
        told = first_tokens(server.url, list(personas), photos, each, base == TINY)
    return line("mondrian", base.name, "base", **told)


def ours(folder: Path, photos: Sequence[bytes], requests: int, constrained: bool) -> Line:
    """The service under load in ab_test; every request is a client of its own to the test."""
    place = world.write_world(folder, TINY, PIXELS[TINY.name], constrained=constrained)
    world.write_adapter(place, place.adapters / world.ADVISOR)
    flags = ("--model_mode", "ab_test", "--lora_path", str(place.adapters))
    with our_service(place, *flags) as server:
        ask = clients.ask_ours(server.url)
        load = asyncio.run(clients.drive(ask, photos, CLIENTS, requests))
    mode = "ab_test" if constrained else "ab_test, not held to the schema"
    return line("mondrian", TINY.name, mode, clients=CLIENTS, **load.figures())


def theirs(folder: Path, photos: Sequence[bytes], least: int, seconds: float) -> Line:
    """mlx_vlm.server under the same load, for at least as long."""
    place = world.write_world(folder, TINY, PIXELS[TINY.name])
    base = TINY
    if sys.platform == "linux":
        base = folder / "float32"
        world.write_float32(TINY, base)
    params = place.params
    limit, persona = params.serve.max_new_tokens, params.persona(world.ADVISOR)
    with their_server(base, limit, folder / "server.log") as server:
        ask = clients.ask_theirs(server.url, str(base), persona, limit)
        load = asyncio.run(clients.drive(ask, photos, CLIENTS, least, seconds))
    return line("mlx-vlm", TINY.name, "base", clients=CLIENTS, **load.figures())


def measure(scratch: Path, size: Size) -> list[Line]:
    """Every line, each told as soon as it is there."""
    results: list[Line] = []

    def add(make: partial[Line]) -> Line:
        started = perf_counter()
        results.append(make())
        told = {key: value for key, value in results[-1].items() if value is not None}
        print(f"{perf_counter() - started:5.0f} s  {json.dumps(told)}", flush=True)
        return results[-1]

    worlds, photos = write_worlds(scratch), world.photographs(size.requests)
    for name, one in worlds.items():
        for how in MODES:
            add(partial(arms, one, how, size.turns[name]))
    for name, one in worlds.items():
        base = Path(one.params.base.source)
        add(partial(first, base, scratch / f"{name}-first", *size.advisors[name], photos))
    held = add(partial(ours, scratch / "held", photos, size.requests, True))
    add(partial(ours, scratch / "free", photos, size.free, False))
    seconds = held["requests"] / max(held["requests_per_second"], 0.01)
    add(partial(theirs, scratch / "theirs", photos, size.least, seconds))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure serving, side by side.")
    parser.add_argument(
        "--quick", action="store_true", help="a few requests, nothing written: does it work?"
    )
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="only this: load for so long")
    args = parser.parse_args()
    started, name = perf_counter(), "serve.json" if args.soak is None else "soak.json"
    with tempfile.TemporaryDirectory() as scratch:
        results: Any
        if args.soak is not None:
            results = soak.soak(Path(scratch), 60 * args.soak)
            print(soak.told(results))
        else:
            results = measure(Path(scratch), QUICK if args.quick else FULL)
            print(table(results), ratios(results), sep="\n")
    print(f"{(perf_counter() - started) / 60:.1f} minutes")
    if not args.quick:
        out = ROOT / "benchmarks/results" / name
        out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    run(main)
