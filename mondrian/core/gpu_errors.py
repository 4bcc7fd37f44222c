"""Errors with which a GPU ends a computation: what they mean, and what to do.

MLX raises them as RuntimeError. If a GPU fails while no call waits for it, MLX may end the process
instead (SIGABRT), after a line with the same text on stderr.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from signal import Signals

from mondrian.core.errors import ERROR_PREFIX, MondrianError, one_line

_WATCHDOG = (
    "Impacting Interactivity",
    "ErrorImpactingInteractivity",
    "Caused GPU Timeout Error",
    "CallbackErrorTimeout",
)
_OUT_OF_MEMORY = (
    "out of memory",
    "ErrorOutOfMemory",
    "Insufficient Memory",
    "MemoryAllocation",
    "MemoryError",
    "malloc",
    "bad_alloc",
)
_COMMAND_FAILED = ("Command buffer execution failed", "ErrorSubmissionsIgnored")


def is_watchdog_abort(text: str) -> bool:
    return _contains(text, _WATCHDOG)


def is_out_of_memory(text: str) -> bool:
    return _contains(text, _OUT_OF_MEMORY)


def is_gpu_lost(text: str) -> bool:
    """Return whether an error leaves the GPU unusable for this process."""
    return is_watchdog_abort(text) or _contains(text, _COMMAND_FAILED)


def explain_gpu_error(text: str, memory_fix: str) -> str | None:
    """Return one line for an error of the GPU or of memory; None for any other text.

    memory_fix  what lowers the memory, such as "lower train.batch_size"
    """
    if is_watchdog_abort(text):
        return (
            "macOS stopped the GPU because it delayed the display (GPU watchdog): keep the Mac "
            "awake with `caffeinate -s` and its display asleep with `pmset displaysleepnow`, or "
            "set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1"
        )
    if is_out_of_memory(text):
        return f"out of memory: {memory_fix}"
    return None


@contextmanager
def explain_gpu_errors(error_type: type[MondrianError], memory_fix: str) -> Iterator[None]:
    """Raise error_type with an explanation for errors of the GPU or of memory; pass on others."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = one_line(error)
        message = explain_gpu_error(text, memory_fix)
        if message is None:
            raise
        suffix = "; then run again, finished work is kept" if is_watchdog_abort(text) else ""
        raise error_type(message + suffix) from None


def describe_exit(status: int, last_lines: Sequence[str], memory_fix: str) -> str:
    """Return why a process ended, from its exit status and the last lines of its output."""
    messages = (_explain_line(line, memory_fix) for line in reversed(last_lines))
    message = next(filter(None, messages), None)
    name = name_status(status)
    return f"{name}: {message}" if message else name


def name_status(status: int) -> str:
    """Return a word for an exit status: the signal that ended a process if it is negative."""
    if status >= 0:
        return f"status {status}"
    names = {signal.value: signal.name for signal in Signals}  # without most real-time signals
    return names.get(-status, f"signal {-status}")


def _explain_line(line: str, memory_fix: str) -> str | None:
    """Return what a line of output says about the end of a process, or None."""
    if explanation := explain_gpu_error(line, memory_fix):
        return explanation
    return line.removeprefix(ERROR_PREFIX).strip() if line.startswith(ERROR_PREFIX) else None


def _contains(text: str, signs: tuple[str, ...]) -> bool:
    return any(sign.lower() in text.lower() for sign in signs)
