import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mondrian.core.errors import DataError, MondrianError
from mondrian.core.parallel import spread
from tests.conftest import ROOT


def add(state: int, batch: int) -> tuple[int, int]:
    return state + batch, os.getpid()


def refuse(state: int, batch: int) -> int:
    raise DataError(f"batch {batch} of {state}")


def die(state: int, batch: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_few_batches_stay_in_this_process() -> None:
    assert list(spread(add, 10, range(4), alone=4)) == [(10 + i, os.getpid()) for i in range(4)]


def test_many_are_spread_and_come_back_in_order_without_being_read_ahead() -> None:
    drawn = 0

    def batches() -> Iterator[int]:
        nonlocal drawn
        for i in range(60):
            drawn = i
            yield i

    results = spread(add, 10, batches(), alone=2)
    first, process = next(results)
    assert first == 10
    assert process != os.getpid()
    assert drawn < 20 * (os.cpu_count() or 1)
    assert [found for found, _ in results] == list(range(11, 70))


def test_a_fault_of_a_process_is_the_fault_of_all() -> None:
    with pytest.raises(DataError, match="batch 0 of 1"):
        list(spread(refuse, 1, range(9), alone=1))


def test_a_process_that_the_system_ended_is_one_clear_line() -> None:
    with pytest.raises(MondrianError, match="lack of memory"):
        list(spread(die, 1, range(9), alone=1))


def wait(state: str, batch: int) -> int:
    Path(state, str(os.getpid())).touch()
    time.sleep(60)
    return batch


def test_no_process_outlives_a_killed_run(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom mondrian.core.parallel import spread\n"
        "from tests.core.test_parallel import wait\n"
        "if __name__ == '__main__':\n    list(spread(wait, sys.argv[1], range(9), 1))"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    started = tmp_path / "started"
    started.mkdir()
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script, str(started)], env=env) as process:
        _until(lambda: len(list(started.iterdir())) == (os.cpu_count() or 1))
        process.kill()
    _until(lambda: not any(_alive(int(path.name)) for path in started.iterdir()))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().split()[2] != "Z"  # a zombie is gone


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
