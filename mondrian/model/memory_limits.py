"""Limits on the memory that MLX holds on a GPU besides what is in use.

MLX keeps freed buffers for later allocations. On a GPU only the memory limit bounds this cache, so
that rows of different lengths fill the whole memory. Its CPU build caches at most 32 MiB.
"""

import platform
from dataclasses import dataclass

import mlx.core as mx
import psutil

from mondrian.model.device import DEVICE, Device

_WIRED_LIMIT_MACOS = 15  # first version of macOS that keeps a wired limit


@dataclass(frozen=True)
class MemoryLimits:
    """Bytes; None leaves MLX's own limit."""

    cache: int | None = None  # of freed buffers
    wired: int | None = None  # of buffers that macOS must keep resident


def choose_limits(device: Device, cache_limit_gb: float, macos_version: str) -> MemoryLimits:
    """Return the limits for a device; none for a CPU.

    macos_version  as platform.mac_ver() gives it, such as "15.3"; empty on other systems
    """
    if not device.is_gpu:
        return MemoryLimits()
    cache_bytes, major = int(cache_limit_gb * 1e9), macos_version.partition(".")[0]
    if device.kind != "metal" or not major.isdigit() or int(major) < _WIRED_LIMIT_MACOS:
        return MemoryLimits(cache_bytes)
    return MemoryLimits(cache_bytes, int(mx.device_info()["max_recommended_working_set_size"]))


def set_memory_limits(cache_limit_gb: float) -> MemoryLimits:
    """Set and return this process's limits; to be called before a base is loaded."""
    limits = choose_limits(DEVICE, cache_limit_gb, platform.mac_ver()[0])
    if limits.cache is not None:
        mx.set_cache_limit(limits.cache)
    if limits.wired is not None:
        mx.set_wired_limit(limits.wired)
    return limits


def memory_in_use() -> int:
    """Return the bytes that this process takes: on a GPU MLX's active memory and its cache."""
    if DEVICE.is_gpu:
        return int(mx.get_active_memory() + mx.get_cache_memory())
    return int(psutil.Process().memory_info().rss)
