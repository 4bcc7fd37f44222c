import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mondrian.core.errors import DataError, MondrianError
from mondrian.core.parallel import map_in_processes
from tests.conftest import ROOT
from tests.waiting import is_alive, wait_for


def add(state: int, batch: int) -> tuple[int, int]:
    return state + batch, os.getpid()


def fail(state: int, batch: int) -> int:
    raise DataError(f"batch {batch} of {state}")


def die(state: int, batch: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_few_batches_run_in_this_process() -> None:
    assert list(map_in_processes(add, 10, range(4), max_serial_batches=4)) == [
        (10 + i, os.getpid()) for i in range(4)
    ]


def test_many_batches_run_in_processes_in_order_and_are_not_read_ahead() -> None:
    last_batch = 0

    def batches() -> Iterator[int]:
        nonlocal last_batch
        for i in range(60):
            last_batch = i
            yield i

    results = map_in_processes(add, 10, batches(), max_serial_batches=2)
    first, process = next(results)
    assert first == 10
    assert process != os.getpid()
    assert last_batch < 20 * (os.cpu_count() or 1)
    assert [result for result, _ in results] == list(range(11, 70))


def test_an_error_in_one_process_ends_the_run() -> None:
    with pytest.raises(DataError, match="batch 0 of 1"):
        list(map_in_processes(fail, 1, range(9), max_serial_batches=1))


def test_a_process_killed_by_the_system_is_one_clear_line() -> None:
    with pytest.raises(MondrianError, match="lack of memory"):
        list(map_in_processes(die, 1, range(9), max_serial_batches=1))


def wait(state: str, batch: int) -> int:
    Path(state, str(os.getpid())).touch()
    time.sleep(3600)
    return batch


def test_no_process_outlives_a_killed_run(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom mondrian.core.parallel import map_in_processes\n"
        "from tests.core.test_parallel import wait\n"
        "if __name__ == '__main__':\n    list(map_in_processes(wait, sys.argv[1], range(9), 1))"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    started = tmp_path / "started"
    started.mkdir()
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script, str(started)], env=env) as process:
        wait_for(lambda: len(list(started.iterdir())) == (os.cpu_count() or 1))
        process.kill()
    wait_for(lambda: not any(is_alive(int(path.name)) for path in started.iterdir()))
