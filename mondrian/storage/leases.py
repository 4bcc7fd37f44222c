"""Leases of running jobs: which process runs a job, and whether it still does."""

import os
import socket
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import uuid4

import psutil


@dataclass(frozen=True)
class LeasePolicy:
    lease_seconds: float
    max_attempts: int  # attempts after which a job has failed


def identify_process() -> str:
    """Return an id of this process: machine, process id, start time and a random part."""
    pid = os.getpid()
    return f"{_machine_id()}:{pid}:{_process_start_time(pid)}:{uuid4().hex[:8]}"


def new_lease(process: str) -> str:
    """Return an id of one more lease of a process; two runs of a job have different ones."""
    return f"{process}-{uuid4().hex[:8]}"


def is_abandoned(lease: str, leased_until: float | None, lease_seconds: float) -> bool:
    """Check a lease by the clock, which may have been set back, and by its process."""
    now = time.time()
    if leased_until is None or not now <= leased_until <= now + 2 * lease_seconds:
        return True
    machine, pid, start_time, _ = lease.rsplit(":", 3)
    return machine == _machine_id() and _process_start_time(int(pid)) != start_time


@cache
def _machine_id() -> str:
    """Return the scope of process ids: host name, boot id and, in a container, pid namespace."""
    parts = [socket.gethostname()]
    if Path("/proc/self/ns/pid").exists():
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]]
        parts += [str(os.stat("/proc/self/ns/pid").st_ino)]
    return "/".join(parts)


def _process_start_time(pid: int) -> str:
    """Return when a process started, or "" if it has ended."""
    try:
        if Path("/proc/self/stat").exists():
            # proc(5): starttime, the 22nd field, does not depend on the system clock
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        return f"{psutil.Process(pid).create_time():.2f}"
    except (OSError, psutil.NoSuchProcess):
        return ""
