"""Read the tensors of a file by torch.save, such as adapter_model.bin, without torch.

The file is a zip archive of a pickle and raw arrays. Unpickling can call only the three functions
that a dictionary of tensors needs; a pickle that names any other is refused.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # numpy has no bfloat16: the upper half of a float32
}


class ForeignFileError(ValueError):
    """The file contains what torch.save does not write for tensors; torch may not be safe."""


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Return tensors in float32; raise ValueError if the file holds anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive, path.stat().st_size)
            (pickle_name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
            folder = pickle_name.removesuffix("data.pkl")
            names = set(archive.namelist())
            if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
                raise ValueError("its byte order is not little-endian")
            with archive.open(pickle_name) as file:
                tensors = _TensorUnpickler(file, archive, folder).load()
    except ValueError:
        raise
    except Exception as error:  # any is possible in a pickle that torch did not write
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, np.ndarray) for name, value in tensors.items()
    ):
        raise ValueError("it holds more than tensors by name")
    return tensors


def _check_sizes(archive: zipfile.ZipFile, file_size: int) -> None:
    """Raise ForeignFileError if reading the members could take more memory than the file."""
    members = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in members):
        raise ForeignFileError("it is compressed, which torch never does")
    if sum(info.file_size for info in members) > file_size:
        raise ForeignFileError("its members are larger than the file")


class _TensorUnpickler(pickle.Unpickler):
    """An unpickler that can build dictionaries of tensors and nothing else."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return name
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        }
        if (module, name) not in allowed:
            raise ForeignFileError(f"it contains {f'{module}.{name}'!r}, which is not a tensor")
        function = allowed[module, name]
        return lambda *args: function(*args)  # a pickle may set attributes of what it gets

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Return a storage as a flat float32 array."""
        _, storage_type, key, _, _ = pid
        data = self._archive.read(f"{self._folder}data/{key}")
        array = np.frombuffer(data, _DTYPES[storage_type])
        if storage_type == "BFloat16Storage":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32)


def _rebuild_tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    if any(length < 0 for length in shape):
        raise ValueError(f"a tensor has the shape {shape}")
    size = prod(shape)
    contiguous = (prod(shape[i + 1 :]) for i in range(len(shape)))
    steps = zip(shape, stride, contiguous, strict=True)
    if any(length > 1 and step != expected for length, step, expected in steps):
        raise ValueError("a tensor is not contiguous")
    if not 0 <= offset <= storage.size - size:
        raise ValueError("a tensor is longer than its data")
    return storage[offset : offset + size].reshape(shape)


def _rebuild_parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor
