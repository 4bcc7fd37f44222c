"""Measurements in separate processes: a script prints its result as JSON on its last line."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"


def run_measurement(
    *command: object, env: Mapping[str, str] | None = None, timeout: float = 3600
) -> dict[str, Any]:
    """Run a command and return the JSON object on its last line.

    env  variables that are set in addition to those of this process

    Raises SystemExit with the command and the end of its stderr if it fails.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=timeout, env=os.environ | (env or {})
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def print_result(**values: Any) -> None:
    """Print a result for the process that called run_measurement."""
    sys.stdout.write("\n" + json.dumps(values) + "\n")
    sys.stdout.flush()


def write_results(name: str, results: Any) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(results, indent=2) + "\n")


def markdown_table(results: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    rows = [["" if r[name] is None else str(r[name]) for name in columns] for r in results]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def peak_rss_gb() -> float:
    """Return the peak memory of this process in 10^9 bytes.

    VmHWM on Linux, because getrusage would count the parent's memory there.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9
