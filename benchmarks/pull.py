"""Measure `mondrian pull` until the first response by the new version: python benchmarks/pull.py

Versions of a small adapter of mondrian-tiny are released to a DVC remote next to a repository. A
service pulls one after the other while clients send requests without a pause.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any

from mondrian.core.params import load_params
from mondrian.model import vlm
from mondrian.sample.scene import draw_scene, render
from tests.core.odd_photos import encode
from tests.releasing import make_adapters, make_released
from tests.service_process import ROOT, TINY, ServiceProcess, run_service


@dataclass(frozen=True)
class Response:
    time: float  # of its arrival, seconds on perf_counter's clock
    status: int
    version: str


@dataclass
class Load:
    """Clients that send requests to a service until they are stopped."""

    service: ServiceProcess
    responses: list[Response] = field(default_factory=list)
    done: Event = field(default_factory=Event)

    def send_requests(self, number: int) -> None:
        """Run one client."""
        photo = encode(render(draw_scene(77, number), 320, 256), "JPEG", quality=92)
        files, data = {"image": ("lake.jpg", photo)}, {"advisor": "ansel"}
        with self.service.client() as client:
            while not self.done.is_set():
                response = client.post("/analyze", files=files, data=data)
                status = response.status_code
                version = response.json().get("adapter_version") or "" if status == 200 else ""
                self.responses.append(Response(time.perf_counter(), status, version))

    def wait_for_version(self, version: str) -> float:
        """Return when the first response by a version arrived."""
        while True:
            for response in list(self.responses):
                if response.version == version:
                    return response.time
            time.sleep(0.01)


def main() -> None:
    args = parse_args()
    params, base = load_params(ROOT / "params.yaml"), vlm.load(str(ROOT / TINY))
    with tempfile.TemporaryDirectory() as tmp_dir:
        folder = Path(tmp_dir)
        adapters = make_adapters(base, folder / "adapters", params, args.pulls + 1)
        releases = {f"v{i}.0.0": adapter for i, adapter in enumerate(adapters, 1)}
        project = make_released(folder / "project", releases)
        serving_dir = folder / "serving"
        pull(project.folder, serving_dir, "v1")
        with run_service(
            folder, "--lora_path", serving_dir, "--model_mode", "fine_tuned"
        ) as service:
            pulls = [
                measure_pull(service, args.clients, project.folder, serving_dir, f"v{i + 2}")
                for i in range(args.pulls)
            ]
    seconds = [result["first_answer_seconds"] for result in pulls]
    summary = {
        "clients": args.clients,
        "pulls": pulls,
        "median_seconds": round(median(seconds), 2),
        "longest_seconds": max(seconds),
        "requests": sum(result["requests"] for result in pulls),
        "failed": sum(result["failed"] for result in pulls),
    }
    print(json.dumps(summary, indent=2))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pulls", type=int, default=6, help="measured pulls")
    parser.add_argument(
        "--clients", type=int, default=2, help="clients that send requests during a pull"
    )
    return parser.parse_args()


def pull(repository: Path, serving_dir: Path, version: str) -> None:
    command = [sys.executable, "-m", "mondrian", "pull", "ansel", "--rev", version]
    command += ["--from", str(repository), "--serving_dir", str(serving_dir)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=120)


def measure_pull(
    service: ServiceProcess, num_clients: int, repository: Path, serving_dir: Path, version: str
) -> dict[str, Any]:
    """Pull a version under load; return the seconds to its end and to the first response by it."""
    load = Load(service)
    threads = [Thread(target=load.send_requests, args=(i,)) for i in range(num_clients)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    started = time.perf_counter()
    pull(repository, serving_dir, version)
    pulled = time.perf_counter()
    release = json.loads((serving_dir / "ansel/current/release.json").read_text())
    first_response = load.wait_for_version(release["adapter_version"])
    load.done.set()
    for thread in threads:
        thread.join()
    return {
        "version": version,
        "pull_seconds": round(pulled - started, 2),
        "first_answer_seconds": round(first_response - started, 2),
        "requests": len(load.responses),
        "failed": sum(response.status != 200 for response in load.responses),
    }


if __name__ == "__main__":
    main()
