"""Inputs meant to break train, export and import, each answered with one clear error."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mondrian.core.adapter_folder import WEIGHTS_FILE
from mondrian.core.errors import AdapterError, BaseModelError, DataError, ParamsError, TrainingError
from mondrian.core.files import check_output_file, check_output_folder
from mondrian.core.params import Params, load_params
from mondrian.critique.rows import ChatRow, read_rows, read_train_and_val
from mondrian.model.architecture import find_base_folder, read_architecture
from mondrian.model.device import CPU
from mondrian.model.export import export_adapter, export_merged
from mondrian.model.lora import LoraConfig
from mondrian.model.tokenizer import load_tokenizer
from mondrian.training.checkpoint import Checkpoint, CheckpointState
from mondrian.training.plan import build_setup
from mondrian.training.progress import TrainingProgress
from tests.conftest import ROOT, run_stage
from tests.model.random_adapters import save_random_adapter

TINY = ROOT / "models/base/mondrian-tiny"


@pytest.fixture
def adapter_folder(base_vlm: Any, tmp_path: Path) -> Path:
    return save_random_adapter(base_vlm, tmp_path / "adapter", LoraConfig(4, 8))


def edit_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    change(weights)
    save_file(weights, folder / WEIGHTS_FILE)


@pytest.mark.parametrize("kind", ["mlx", "peft"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({k: v * np.nan for k, v in w.items()}), "contains NaN or inf"),
        (
            lambda w: w.update({k: v * 0 for k, v in w.items() if "lora_B" in k}),
            "every lora_B is zero",
        ),
        (lambda w: w.pop(next(k for k in w if "lora_A" in k)), "no 2-D lora_A and lora_B"),
        (lambda w: w.update({k: v[:2] for k, v in w.items() if "lora_A" in k}), "has rank 2"),
        (lambda w: w.update({k: v.ravel() for k, v in w.items()}), "no 2-D"),
    ],
)
def test_damaged_weights_are_not_exported(
    adapter_folder: Path, tmp_path: Path, kind: str, change: Any, message: str
) -> None:
    edit_weights(adapter_folder, change)
    with pytest.raises(AdapterError, match=message):
        export_adapter(adapter_folder, tmp_path / "out", kind)
    assert not (tmp_path / "out").exists()


def test_an_export_never_overwrites_its_source(adapter_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is the adapter itself"):
        export_adapter(adapter_folder, adapter_folder, "mlx")
    other = tmp_path / "other"
    shutil.copytree(TINY, other)
    with pytest.raises(AdapterError, match="is not empty and not a merged base"):
        export_merged(str(TINY), adapter_folder, other)
    with pytest.raises(AdapterError, match="or inside it"):
        export_merged(str(TINY), adapter_folder, TINY / "sub")
    assert (other / "README.md").exists()
    for _ in range(2):  # a merged base may be replaced
        export_merged(str(TINY), adapter_folder, tmp_path / "merged")


def test_a_sum_that_overflows_the_bases_type_is_not_written(
    adapter_folder: Path, tmp_path: Path
) -> None:
    edit_weights(adapter_folder, lambda w: w.update({k: v * 1e6 for k, v in w.items()}))
    with pytest.raises(AdapterError, match="is NaN or inf in"):
        export_merged(str(TINY), adapter_folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        check_output_folder(tmp_path / "file", [])
    with pytest.raises(DataError, match="did not write"):
        check_output_folder(tmp_path, ["*.json"])
    with pytest.raises(DataError, match="is a folder"):
        check_output_file(tmp_path)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises((DataError, OSError)):
        check_output_folder(loop, [])


def test_a_checkpoint_whose_bytes_changed_is_damaged(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, {})
    adapter, optimizer = {"a": mx.ones((64, 64))}, {"m": mx.zeros((8,))}
    checkpoint.save(CheckpointState(TrainingProgress(), adapter, optimizer, {}))
    assert checkpoint.load() is not None
    content = bytearray(checkpoint.path.read_bytes())
    content[-100] ^= 1
    checkpoint.path.write_bytes(content)
    with pytest.raises(TrainingError, match="is damaged .checksum mismatch"):
        checkpoint.load()


def test_rows_that_do_not_belong_together_are_refused(rows: list[ChatRow], tmp_path: Path) -> None:
    def write(name: str, part: list[ChatRow]) -> Path:
        (tmp_path / name).write_text(json.dumps([row.model_dump() for row in part]))
        return tmp_path / name

    train = write("train.json", rows[:3])
    assert len(read_train_and_val(train, write("val.json", rows[3:]))[1]) == len(rows) - 3
    with pytest.raises(DataError, match=r"has the photo of row ansel/0 of"):
        read_train_and_val(train, write("same.json", rows[:1]))
    other = rows[3].model_copy(update={"prompt_hash": "0" * 64})
    with pytest.raises(DataError, match="has another prompt than row"):
        read_train_and_val(train, write("other.json", [other]))
    for update in (
        {"derived": ["nonsense"]},
        {"derived": [], "messages": _with_lone_surrogate(rows[0])},
    ):
        odd = rows[0].model_copy(update=update)
        path = tmp_path / "odd.json"
        path.write_text(json.dumps([odd.model_dump()]))
        with pytest.raises(DataError, match="is not a file of prepared rows"):
            read_rows(path)


def _with_lone_surrogate(row: ChatRow) -> list[dict[str, str]]:
    system, *rest = row.messages
    return [{**system, "content": system["content"] + "\ud800"}, *rest]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "loss_chunk_size", 10**11),
        ("train", "epochs", 10**9),
        ("train", "score_weight", 1.0e38),
        ("machine", "feature_cache_gb", 1.0e300),
        ("machine", "collective_timeout_seconds", 10**20),
        ("personas", "ansel", "You see <|image_pad|>."),
    ],
)
def test_unusable_values_of_params_are_refused(
    tmp_path: Path, section: str, key: str, value: Any
) -> None:
    import yaml

    raw_params = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw_params[section][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw_params))
    with pytest.raises(ParamsError, match=key if section != "personas" else "personas"):
        load_params(tmp_path / "params.yaml")


def test_more_layers_than_the_base_has_are_refused(params: Params) -> None:
    settings = params.train.model_copy(update={"num_layers": 5})
    with pytest.raises(TrainingError, match="num_layers is 5, and the base has 4"):
        build_setup(read_architecture(str(TINY)), settings, CPU)


@pytest.mark.parametrize("source", ["./typo", "../typo", "/typo", "a b/c", "", "x/" + "y" * 300])
def test_a_mistyped_base_is_not_found(source: str) -> None:
    assert find_base_folder(source) is None
    with pytest.raises(BaseModelError, match="no base model at"):
        read_architecture(source)


@pytest.mark.parametrize("text", ["", "{}", "[]", "\x00"])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(TINY, folder)
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(BaseModelError, match="has a damaged tokenizer"):
        load_tokenizer(folder, 1278)


@pytest.mark.parametrize("size", ["hidden_size", "num_attention_heads", "num_hidden_layers"])
@pytest.mark.parametrize("value", [0, -1, "4", 1.5])
def test_an_invalid_size_in_config_json_is_refused(tmp_path: Path, size: str, value: Any) -> None:
    config = json.loads((TINY / "config.json").read_text())
    config["text_config"][size] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match="is not a Qwen3-VL's"):
        read_architecture(str(tmp_path))


@pytest.mark.parametrize("bits", [7, 1000, -4, "4", 4.5])
def test_bits_that_mlx_does_not_pack_to_are_refused(tmp_path: Path, bits: Any) -> None:
    config = json.loads((TINY / "config.json").read_text())
    config["quantization"] = {"group_size": 64, "bits": bits}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match="quantization.bits is .*; it may be 2 to 6, or 8"):
        read_architecture(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["nan", "inf", "0", "-5"])
def test_an_invalid_memory_flag_is_refused(memory: str) -> None:
    process = run_stage("train", "--plan", "--memory_gb", memory)
    assert process.returncode == 2
    assert "--memory_gb is" in process.stderr
    assert "Traceback" not in process.stderr
