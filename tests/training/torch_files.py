"""Files as torch.save writes them, written without torch."""

import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


class Storage:
    def __init__(self, kind: str, key: int, array: np.ndarray) -> None:
        self.kind, self.key, self.array = kind, key, array


class Tensor:
    def __init__(self, storage: Storage, *layout: Any) -> None:
        self.storage, self.layout = storage, layout

    def __reduce__(self) -> Any:
        function = sys.modules["torch._utils"]._rebuild_tensor_v2
        return function, (self.storage, *self.layout, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        kind = getattr(sys.modules["torch"], obj.kind)
        return "storage", kind, str(obj.key), "cpu", obj.array.size


def write_torch_file(
    path: Path, content: Any, storages: list[Storage], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Write what torch.save writes, by modules with torch's names."""
    utils, torch = ModuleType("torch._utils"), ModuleType("torch")

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = (
        "torch._utils",
        "_rebuild_tensor_v2",
    )
    utils.__dict__["_rebuild_tensor_v2"] = _rebuild_tensor_v2
    for name in ("FloatStorage", "LongStorage"):
        torch.__dict__[name] = type(name, (), {"__module__": "torch"})
    with monkeypatch.context() as patch, zipfile.ZipFile(path, "w") as archive:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utils)
        with archive.open("archive/data.pkl", "w") as file:
            _Pickler(file, 2).dump(content)
        archive.writestr("archive/byteorder", "little")
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
    return path


def write_tensors(
    path: Path, tensors: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> Path:
    storages = [Storage("FloatStorage", i, array) for i, array in enumerate(tensors.values())]
    content = {
        name: Tensor(
            storage, 0, array.shape, tuple(step // array.itemsize for step in array.strides)
        )
        for (name, array), storage in zip(tensors.items(), storages, strict=True)
    }
    return write_torch_file(path, content, storages, monkeypatch)
