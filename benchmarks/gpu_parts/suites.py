"""Run pytest on this device: suites.py ARGUMENT...; prints passed, failed and skipped tests."""

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.measurement import ROOT, print_result

_COUNT = re.compile(r"(\d+) (passed|failed|skipped|deselected|errors?)")


def main() -> None:
    command = [sys.executable, "-m", "pytest", "-q", *sys.argv[1:]]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    sys.stderr.write(done.stdout)
    lines = done.stdout.strip().splitlines() or [""]
    counts = {kind: int(count) for count, kind in _COUNT.findall(lines[-1])}
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    print_result(exit_status=done.returncode, failures=failures[:20], **counts)


if __name__ == "__main__":
    main()
