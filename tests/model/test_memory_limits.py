"""Limits of MLX's cache and of wired memory by device, and the memory that is reported."""

from collections.abc import Iterator
from dataclasses import replace

import mlx.core as mx
import psutil
import pytest

from mondrian.model import memory_limits
from mondrian.model.device import CPU, CUDA, METAL
from mondrian.model.memory_limits import choose_limits, memory_in_use, set_memory_limits


@pytest.fixture
def restored_limit() -> Iterator[None]:
    previous = mx.set_cache_limit(0)
    mx.set_cache_limit(previous)
    yield
    mx.set_cache_limit(previous)


def test_only_a_gpu_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    working_set = {"max_recommended_working_set_size": 22_906_503_168}
    monkeypatch.setattr(mx, "device_info", lambda: working_set)
    for cpu, version in ((CPU, ""), (CPU, "15.3"), (replace(CPU, own_kernels=False), "")):
        limits = choose_limits(cpu, 2.0, version)
        assert (limits.cache, limits.wired) == (None, None)
    for device, version in ((CUDA, ""), (METAL, "14.7.1"), (METAL, "")):
        limits = choose_limits(device, 2.0, version)
        assert (limits.cache, limits.wired) == (2_000_000_000, None)
    for version in ("15.0", "15.3.1", "26.1"):
        assert choose_limits(METAL, 0.5, version).cache == 500_000_000
        assert choose_limits(METAL, 0.5, version).wired == 22_906_503_168


def test_the_cache_holds_no_more_than_its_limit(
    monkeypatch: pytest.MonkeyPatch, restored_limit: None
) -> None:
    monkeypatch.setattr(memory_limits, "DEVICE", CUDA)
    set_memory_limits(0.008)
    arrays = [mx.full((1_000_000,), i) for i in range(8)]
    mx.eval(arrays)
    in_use = memory_in_use()
    del arrays
    mx.eval(mx.full((1_000_000,), 9.0))  # MLX reduces the cache at the next allocation
    assert mx.get_cache_memory() <= 12_000_000
    assert memory_in_use() == mx.get_active_memory() + mx.get_cache_memory() < in_use


def test_on_a_cpu_nothing_changes_and_the_memory_is_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch, restored_limit: None
) -> None:
    monkeypatch.setattr(memory_limits, "DEVICE", CPU)
    before = mx.set_cache_limit(12_345_678)
    set_memory_limits(2.0)
    assert mx.set_cache_limit(before) == 12_345_678
    assert memory_in_use() == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
