"""python benchmarks/pull.py: from `mondrian pull` to the first answer of the version, under load.

Versions of a small adapter of mondrian-tiny are released into a DVC remote beside a repository,
and pulled in turn by a machine whose service answers clients that ask without a pause.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any

from mondrian.core.params import load_params
from mondrian.model import vlm
from mondrian.sample.scene import draw_scene, render
from tests.odd_files import encoded
from tests.releasing import make_adapters, make_released
from tests.service_process import ROOT, TINY, Running, running


def main() -> None:
    args = parse_args()
    params, base = load_params(ROOT / "params.yaml"), vlm.load(str(ROOT / TINY))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        adapters = make_adapters(base, folder / "adapters", params, args.pulls + 1)
        made = {f"v{i}.0.0": adapter for i, adapter in enumerate(adapters, 1)}
        project = make_released(folder / "project", made)
        shelf = folder / "serving"
        pull(project.folder, shelf, "v1")
        with running(folder, "--lora_path", shelf, "--model_mode", "fine_tuned") as service:
            told = [
                timed(service, project.folder, shelf, f"v{i + 2}", args.clients)
                for i in range(args.pulls)
            ]
    seconds = [one["first_answer_seconds"] for one in told]
    print(
        json.dumps(
            {
                "clients": args.clients,
                "pulls": told,
                "median_seconds": round(median(seconds), 2),
                "longest_seconds": max(seconds),
                "requests": sum(one["requests"] for one in told),
                "failed": sum(one["failed"] for one in told),
            },
            indent=2,
        )
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pulls", type=int, default=6)
    parser.add_argument("--clients", type=int, default=2, help="that ask without a pause meanwhile")
    return parser.parse_args()


def pull(repository: Path, shelf: Path, version: str) -> None:
    """The command, as a user gives it."""
    command = [
        sys.executable,
        "-m",
        "mondrian",
        "pull",
        "ansel",
        "--rev",
        version,
        "--from",
        str(repository),
        "--serving_dir",
        str(shelf),
    ]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=120)


def timed(
    service: Running, repository: Path, shelf: Path, version: str, clients: int
) -> dict[str, Any]:
    """Pull a version while clients ask; seconds to its end and to the first answer by it."""
    seen: list[tuple[float, int, str]] = []
    done = Event()
    threads = [Thread(target=ask, args=(service, seen, done, i)) for i in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    started = time.perf_counter()
    pull(repository, shelf, version)
    pulled = time.perf_counter() - started
    wanted = json.loads((shelf / "ansel/current/release.json").read_text())["adapter_version"]
    while not any(answered == wanted for _, _, answered in list(seen)):
        time.sleep(0.01)
    first = next(at for at, _, answered in list(seen) if answered == wanted) - started
    done.set()
    for thread in threads:
        thread.join()
    return {
        "version": version,
        "pull_seconds": round(pulled, 2),
        "first_answer_seconds": round(first, 2),
        "requests": len(seen),
        "failed": sum(status != 200 for _, status, _ in seen),
    }


def ask(service: Running, seen: list[tuple[float, int, str]], done: Event, number: int) -> None:
    """A client: (when, status, version) of each answer."""
    photo = encoded(render(draw_scene(77, number), 320, 256), "JPEG", quality=92)
    with service.client() as client:
        while not done.is_set():
            told = client.post(
                "/analyze", files={"image": ("lake.jpg", photo)}, data={"advisor": "ansel"}
            )
            version = told.json().get("adapter_version") or "" if told.status_code == 200 else ""
            seen.append((time.perf_counter(), told.status_code, version))


if __name__ == "__main__":
    main()
