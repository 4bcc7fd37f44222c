"""What the service says about a model process that ended, and what an idle one keeps."""

import asyncio
import io
import sys
from contextlib import redirect_stderr
from threading import Timer
from typing import Any

import mlx.core as mx
import pytest

from mondrian.serving.engines.ipc import WorkerConfig
from mondrian.serving.engines.local import LocalEngine
from mondrian.serving.worker.batcher import Batcher
from tests.waiting import PATIENCE

ABORT = """
import os, sys
sys.stderr.write("libc++abi: terminating due to uncaught exception of type std::runtime_error: "
    "[METAL] Command buffer execution failed: Impacting Interactivity "
    "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)\\n")
os.abort()
"""
UNCAUGHT = "libc++abi: terminating due to uncaught exception"


def run_until_restart(script: str) -> str:
    """Return the state's message after the model process of a script has ended."""

    async def run() -> str:
        engine = LocalEngine(WorkerConfig("", (1, 1), 1, 1), (sys.executable, "-c", script))
        await engine.start()
        async with asyncio.timeout(PATIENCE):
            while not engine.state.restarts:
                await asyncio.sleep(0.01)
        message = engine.state.message
        await engine.stop()
        return message

    return asyncio.run(run())


def test_an_abort_by_the_gpu_watchdog_is_named_and_its_output_stays_in_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = run_until_restart(ABORT)
    assert message.startswith("restarting: the model process ended (SIGABRT: macOS stopped the GPU")
    assert "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1" in message
    assert "\n" not in message
    assert UNCAUGHT in capsys.readouterr().err


def test_another_end_is_named_by_its_status() -> None:
    message = run_until_restart("print('loading'); raise SystemExit(3)")
    assert message == "restarting: the model process ended (status 3)"


def test_output_without_line_ends_is_copied_while_the_process_runs() -> None:
    script = "import os, time; os.write(2, b'x' * 25_000); time.sleep(3600)"

    async def run() -> int:
        engine = LocalEngine(WorkerConfig("", (1, 1), 1, 1), (sys.executable, "-c", script))
        output = io.StringIO()
        with redirect_stderr(output):
            await engine.start()
            async with asyncio.timeout(PATIENCE):
                while not output.getvalue():
                    await asyncio.sleep(0.01)
            engine._process.kill()  # type: ignore[union-attr]
            await engine.stop()
        return output.getvalue().count("x")

    assert asyncio.run(run()) >= 10_000


def test_an_idle_model_process_gives_its_cache_back() -> None:
    nothing: Any = None
    batcher = Batcher(nothing, nothing, nothing, 1)
    mx.eval(mx.ones(1_000_000) + 1)
    assert mx.get_cache_memory() > 0
    batcher.inbox.put(print)
    assert batcher._wait_for_call() is print
    assert mx.get_cache_memory() > 0  # there was work
    Timer(0.05, batcher.inbox.put, [print]).start()
    assert batcher._wait_for_call() is print
    assert mx.get_cache_memory() == 0
