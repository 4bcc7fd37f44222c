"""Files by torch.save, read without torch."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mondrian.training import torch_file
from mondrian.training.torch_file import ForeignFileError, read_torch_file
from tests.training.torch_files import Storage, Tensor, write_torch_file

SAVED = Path(__file__).parent / "torch_saved.bin"  # written by torch 2.13 from three tensors


def test_the_tensors_that_torch_saved_are_read() -> None:
    tensors = read_torch_file(SAVED)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    expected = {
        name.format("A"): np.arange(6).reshape(2, 3) / 8,  # bfloat16
        name.format("B"): np.arange(8).reshape(4, 2),  # float32
        "h": np.ones(2),  # float16
    }
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():
        assert tensors[key].dtype == np.float32
        assert np.array_equal(tensors[key], value)


def test_other_content_is_refused_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    path = write_torch_file(tmp_path / "a.bin", {"a": Attack()}, [], monkeypatch)
    with pytest.raises(ValueError, match="which is not a tensor"):
        read_torch_file(path)
    assert not (tmp_path / "executed").exists()
    path = write_torch_file(tmp_path / "b.bin", {"a": 1}, [], monkeypatch)
    with pytest.raises(ValueError, match="more than tensors by name"):
        read_torch_file(path)


def test_a_pickle_changes_nothing_in_this_process(tmp_path: Path) -> None:
    rebuild = b"ctorch._utils\n_rebuild_parameter\n"
    state = b"N}U\x08__name__U\x03bads\x86"  # (None, {"__name__": "bad"}), set by BUILD
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + rebuild + state + b"b.")
    before = torch_file._rebuild_parameter.__name__
    with pytest.raises(ValueError, match="more than tensors by name"):
        read_torch_file(tmp_path / "a.bin")
    assert torch_file._rebuild_parameter.__name__ == before


@pytest.mark.parametrize(
    ("kind", "layout", "message"),
    [
        ("FloatStorage", (0, (3, 2), (1, 3)), "not contiguous"),
        ("FloatStorage", (0, (-2, -3), (-3, 1)), r"has the shape \(-2, -3\)"),
        ("FloatStorage", (1, (2, 3), (3, 1)), "longer than its data"),
        ("FloatStorage", (-1, (2, 3), (3, 1)), "longer than its data"),
        ("LongStorage", (0, (2, 3), (3, 1)), "'torch.LongStorage', which is not"),
    ],
)
def test_a_tensor_that_is_none_of_an_adapter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, layout: Any, message: str
) -> None:
    storage = Storage(kind, 0, np.zeros(6, np.float32))
    content = {"a": Tensor(storage, *layout)}
    path = write_torch_file(tmp_path / "a.bin", content, [storage], monkeypatch)
    with pytest.raises(ValueError, match=message):
        read_torch_file(path)


@pytest.mark.parametrize("name", ["data.pkl", "byteorder", "data/0"])
def test_a_compressed_member_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with zipfile.ZipFile(SAVED) as saved, zipfile.ZipFile(tmp_path / "a.bin", "w") as archive:
        for info in saved.infolist():
            kind = zipfile.ZIP_DEFLATED if info.filename.endswith(name) else zipfile.ZIP_STORED
            archive.writestr(info.filename, saved.read(info), kind)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(ForeignFileError, match="it is compressed"):
        read_torch_file(tmp_path / "a.bin")


def test_members_that_are_larger_than_the_file_are_refused(tmp_path: Path) -> None:
    content = SAVED.read_bytes()
    with zipfile.ZipFile(SAVED) as archive:
        directory = archive.start_dir
    sizes = directory + 20  # of the first member: compressed, uncompressed
    path = tmp_path / "a.bin"
    path.write_bytes(content[:sizes] + b"\0\0\0\x7f" * 2 + content[sizes + 8 :])
    with pytest.raises(ForeignFileError, match="larger than the file"):
        read_torch_file(path)


@pytest.mark.parametrize("length", [0, 10, 500, 1500])
def test_a_truncated_torch_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(SAVED.read_bytes()[:length])
    with pytest.raises(ValueError, match="BadZipFile"):
        read_torch_file(path)
