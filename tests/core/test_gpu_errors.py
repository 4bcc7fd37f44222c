"""Errors of a GPU as MLX words them, and what a user reads instead."""

import pytest

from mondrian.core.errors import TrainingError
from mondrian.core.gpu_errors import (
    describe_exit,
    explain_gpu_error,
    explain_gpu_errors,
    is_gpu_lost,
)

WATCHDOG = (
    "[METAL] Command buffer execution failed: Impacting Interactivity "
    "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"
)
TIMEOUT = (
    "[METAL] Command buffer execution failed: Caused GPU Timeout Error "
    "(00000002:kIOGPUCommandBufferCallbackErrorTimeout)"
)
COMMAND_OUT_OF_MEMORY = (
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
)
ALLOCATION = (
    "[metal::malloc] Attempting to allocate 95029493760 bytes which is greater than the maximum "
    "allowed buffer size of 77309411328 bytes."
)
CUDA_ALLOCATION = "cudaMallocAsync(&buf, size, stream) failed: out of memory"
UNCAUGHT = "libc++abi: terminating due to uncaught exception of type std::runtime_error: "
FIX = "lower x.batch_size"


@pytest.mark.parametrize("text", [WATCHDOG, TIMEOUT, f"{UNCAUGHT}{WATCHDOG}\n"])
def test_the_watchdog_is_named_with_its_remedies(text: str) -> None:
    message = explain_gpu_error(text, FIX)
    assert message
    for remedy in ("caffeinate -s", "displaysleepnow", "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1"):
        assert remedy in message
    assert "\n" not in message
    assert is_gpu_lost(text)


@pytest.mark.parametrize(
    ("text", "lost"),
    [(COMMAND_OUT_OF_MEMORY, True), (ALLOCATION, False), (CUDA_ALLOCATION, False)],
)
def test_out_of_memory_names_the_settings_that_lower_it(text: str, lost: bool) -> None:
    assert explain_gpu_error(text, FIX) == f"out of memory: {FIX}"
    assert is_gpu_lost(text) == lost


@pytest.mark.parametrize("text", ["", "[matmul] Last dimension of first input", "shapes differ"])
def test_other_errors_are_passed_on(text: str) -> None:
    assert explain_gpu_error(text, FIX) is None
    assert not is_gpu_lost(text)
    with pytest.raises(RuntimeError, match="^" + text[:5].replace("[", r"\[")):
        with explain_gpu_errors(TrainingError, FIX):
            raise RuntimeError(text)


def test_an_error_is_raised_as_one_line_of_the_given_type() -> None:
    for error in (
        RuntimeError(COMMAND_OUT_OF_MEMORY),
        MemoryError(),
        MemoryError("std::bad_alloc"),
    ):
        with pytest.raises(TrainingError, match=f"^out of memory: {FIX}$"):
            with explain_gpu_errors(TrainingError, FIX):
                raise error


def test_the_end_of_a_process_is_explained_by_its_last_lines() -> None:
    assert describe_exit(9, ["loading\n"], FIX) == "status 9"
    assert describe_exit(-9, [], FIX) == "SIGKILL"
    lines = [f"{UNCAUGHT}{WATCHDOG}\n", "another line\n"]
    assert describe_exit(-6, lines, FIX).startswith("SIGABRT: macOS stopped the GPU")
    assert describe_exit(70, [f"error: {ALLOCATION}"], FIX) == f"status 70: out of memory: {FIX}"
    lines = ["error: MONDRIAN_DEVICE is 'tpu'\n", "another line\n"]
    assert describe_exit(1, lines, FIX) == "status 1: MONDRIAN_DEVICE is 'tpu'"


def test_every_signal_has_a_name() -> None:
    assert describe_exit(-50, [], FIX) == "signal 50"  # Signals names few real-time signals
