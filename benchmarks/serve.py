"""Measure serving: python benchmarks/serve.py [--quick] [--soak MINUTES]

On loopback, each server in separate processes: the overhead of an adapter and of switching arms
(benchmarks/systems/adapter_overhead.py); the time to the first token with a long prompt that is new
or cached; and the throughput with 16 clients of this project's service and of mlx_vlm.server, with
the same base, photos, prompt and token limit, greedy, float32, on the same fast BLAS. The service
runs in ab_test (half of the critiques by an adapter) with constrained decoding, and once without,
like mlx-vlm. Writes benchmarks/results/serve.json; --soak only writes soak.json.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.large_base import LARGE, TINY, TINY_FOLDER
from benchmarks.measurement import ROOT, markdown_table, run_measurement, write_results
from benchmarks.serving import clients, deployment, soak
from benchmarks.serving.deployment import Deployment
from benchmarks.serving.first_token import measure_first_tokens
from benchmarks.serving.result_table import (
    MODES,
    TABLE_COLUMNS,
    Result,
    compare_with_goals,
    make_result,
)
from benchmarks.serving.servers import run_mlx_vlm, run_mondrian
from mondrian.core.errors import run_command

MAX_PIXELS = {TINY: 20_480, LARGE: 640 * 480}
NUM_CLIENTS = 16
NUM_THREADS = min(os.cpu_count() or 1, 4)  # of BLAS, as the service sets them for its model


@dataclass(frozen=True)
class Sizes:
    """Amounts to measure.

    overhead              rounds, turns and steps of systems/adapter_overhead.py, by base
    first_token           advisors and photos per advisor, by base
    requests              of all clients, with constrained decoding
    unconstrained         requests of all clients without
    min_mlx_vlm_requests  mlx-vlm gets requests for as long as the service took, but at least these
    """

    overhead: dict[str, tuple[int, int, int]]
    first_token: dict[str, tuple[int, int]]
    requests: int
    unconstrained: int
    min_mlx_vlm_requests: int


FULL = Sizes(
    overhead={TINY: (8, 15, 15), LARGE: (2, 20, 8)},
    first_token={TINY: (6, 4), LARGE: (4, 4)},
    requests=1000,
    unconstrained=200,
    min_mlx_vlm_requests=100,
)
QUICK = Sizes(
    overhead={TINY: (2, 5, 10), LARGE: (1, 3, 4)},
    first_token={TINY: (3, 3), LARGE: (2, 2)},
    requests=64,
    unconstrained=32,
    min_mlx_vlm_requests=32,
)


def write_deployments(folder: Path) -> dict[str, Deployment]:
    """Write a deployment with an adapter for each base."""
    import mondrian.model  # noqa: F401  # before mlx
    from benchmarks.large_base import write_base

    write_base(folder / LARGE)
    deployments = {}
    for name, base in ((TINY, TINY_FOLDER), (LARGE, folder / LARGE)):
        deployments[name] = deployment.write_deployment(
            folder / f"{name}-deployment", base, MAX_PIXELS[name]
        )
        deployment.write_adapter(deployments[name], deployments[name].adapter)
    return deployments


def measure_overhead(setup: Deployment, kind: str, sizes: Sequence[int]) -> Result:
    """Run benchmarks/systems/adapter_overhead.py.

    kind  merged or unmerged
    """
    script = ROOT / "benchmarks/systems/adapter_overhead.py"
    arguments = (setup.params_file, setup.adapter, kind, *sizes)
    env = {"OPENBLAS_NUM_THREADS": str(NUM_THREADS)}
    metrics = run_measurement(sys.executable, script, *arguments, env=env, timeout=1800)
    return make_result(
        "mondrian",
        setup.params.base.name,
        MODES[kind],
        decode_tokens_per_second=round(metrics["adapter_tokens_per_second"], 2),
        base_tokens_per_second=round(metrics["base_tokens_per_second"], 2),
        adapter_overhead=round(metrics["overhead"], 4),
        swap_ms=round(metrics["swap_ms"], 4),
        second_arm_bytes=max(metrics["reported_bytes"], metrics["allocated_bytes"]),
        adapter_bytes=metrics["file_bytes"],
    )


def measure_first_token(
    folder: Path, base: Path, sizes: tuple[int, int], photos: Sequence[bytes]
) -> Result:
    """Measure first tokens with long prompts; on the large base, responses are not read to the end.

    sizes  advisors, photos per advisor
    """
    num_advisors, photos_per_advisor = sizes
    personas = deployment.long_personas(base, num_advisors)
    setup = deployment.write_deployment(folder, base, MAX_PIXELS[base.name], personas)
    with run_mondrian(setup) as server:
        metrics = measure_first_tokens(
            server.url, list(personas), photos, photos_per_advisor, base == TINY_FOLDER
        )
    return make_result("mondrian", base.name, "base", **metrics)


def measure_mondrian(
    folder: Path, photos: Sequence[bytes], num_requests: int, constrained: bool
) -> Result:
    """Measure the service in ab_test; it assigns an arm per request, which has no client id."""
    setup = deployment.write_deployment(
        folder, TINY_FOLDER, MAX_PIXELS[TINY], constrained=constrained
    )
    deployment.write_adapter(setup, setup.adapter)
    flags = ("--model_mode", "ab_test", "--lora_path", str(setup.adapters))
    with run_mondrian(setup, *flags) as server:
        send = clients.mondrian_request(server.url)
        load = asyncio.run(clients.generate_load(send, photos, NUM_CLIENTS, num_requests))
    mode = "ab_test" if constrained else "ab_test, unconstrained"
    return make_result("mondrian", TINY, mode, clients=NUM_CLIENTS, **load.metrics())


def measure_mlx_vlm(
    folder: Path, photos: Sequence[bytes], min_requests: int, min_seconds: float
) -> Result:
    params = deployment.write_deployment(folder, TINY_FOLDER, MAX_PIXELS[TINY]).params
    base = TINY_FOLDER
    if sys.platform == "linux":
        base = folder / "float32"
        deployment.write_float32(TINY_FOLDER, base)
    max_tokens, persona = params.serve.max_new_tokens, params.persona(deployment.ADVISOR)
    with run_mlx_vlm(base, max_tokens, folder / "server.log") as server:
        send = clients.mlx_vlm_request(server.url, str(base), persona, max_tokens)
        load = asyncio.run(
            clients.generate_load(send, photos, NUM_CLIENTS, min_requests, min_seconds)
        )
    return make_result("mlx-vlm", TINY, "base", clients=NUM_CLIENTS, **load.metrics())


def measure(folder: Path, sizes: Sizes) -> list[Result]:
    """Return all results; each is printed as soon as it is measured."""
    results: list[Result] = []

    def add(measurement: partial[Result]) -> Result:
        started = perf_counter()
        results.append(measurement())
        metrics = {name: value for name, value in results[-1].items() if value is not None}
        print(f"{perf_counter() - started:5.0f} s  {json.dumps(metrics)}", flush=True)
        return results[-1]

    deployments = write_deployments(folder)
    photos = deployment.render_photos(sizes.requests)
    for name, setup in deployments.items():
        for kind in MODES:
            add(partial(measure_overhead, setup, kind, sizes.overhead[name]))
    for name, setup in deployments.items():
        base, first_token_dir = Path(setup.params.base.source), folder / f"{name}-first-token"
        add(partial(measure_first_token, first_token_dir, base, sizes.first_token[name], photos))
    constrained = add(
        partial(measure_mondrian, folder / "constrained", photos, sizes.requests, True)
    )
    add(partial(measure_mondrian, folder / "unconstrained", photos, sizes.unconstrained, False))
    seconds = constrained["requests"] / max(constrained["requests_per_second"], 0.01)
    add(partial(measure_mlx_vlm, folder / "mlx-vlm", photos, sizes.min_mlx_vlm_requests, seconds))
    return results


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure serving.")
    parser.add_argument(
        "--quick", action="store_true", help="a few requests; write no file: does it work?"
    )
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="only run a constant load for so long"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    started, name = perf_counter(), "serve.json" if args.soak is None else "soak.json"
    with tempfile.TemporaryDirectory() as tmp_dir:
        results: Any
        if args.soak is not None:
            results = soak.soak(Path(tmp_dir), 60 * args.soak)
            print(soak.format_result(results))
        else:
            results = measure(Path(tmp_dir), QUICK if args.quick else FULL)
            print(markdown_table(results, TABLE_COLUMNS), compare_with_goals(results), sep="\n")
    print(f"{(perf_counter() - started) / 60:.1f} minutes")
    if not args.quick:
        write_results(name, results)


if __name__ == "__main__":
    run_command(main)
