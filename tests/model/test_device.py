"""The device policy: what it reads from the environment, and the type it gives a base."""

import mlx.core as mx
import pytest

from mondrian.model.device import CPU, CUDA, FORCED_GPU, METAL, detect_device


def test_a_small_base_is_computed_in_float32_on_every_device() -> None:
    assert METAL.for_base(2_000_000).float_type == mx.float32
    assert CUDA.for_base(2_000_000).float_bytes == 4
    assert METAL.for_base(4_000_000_000).float_type is None
    assert METAL.for_base(4_000_000_000).float_bytes == 2
    assert CPU.for_base(4_000_000_000).float_type == mx.float32


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_forced_gpu_computes_every_base_in_its_type(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONDRIAN_DEVICE", f"gpu-{name}")
    device = detect_device()
    assert (device.own_kernels, device.num_streams) == (False, 1)
    assert device.for_base(2_000_000).float_type == getattr(mx, name)
    assert FORCED_GPU.float_type is None


def test_an_unknown_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONDRIAN_DEVICE", "tpu")
    with pytest.raises(ValueError, match="MONDRIAN_DEVICE is 'tpu'; it may be gpu-float16"):
        detect_device()
