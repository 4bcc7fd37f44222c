"""Adapters as other trainers write them: other names, bfloat16, no recipe."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mondrian.core.adapter_folder import CONFIG_FILE, WEIGHTS_FILE
from mondrian.core.errors import AdapterError
from mondrian.core.params import load_params
from mondrian.core.training_log import list_loss_points, read_training_log
from mondrian.model import adapter, lora
from mondrian.model.lora import LoraConfig, build_peft_config
from mondrian.model.provenance import read_recipe
from mondrian.training.import_peft import (
    ImportPaths,
    import_adapter,
    normalize_weight_name,
    read_peft_adapter,
)
from tests.conftest import ROOT, run_stage
from tests.training.torch_files import write_tensors, write_torch_file

NORMALIZED = "base_model.model.model.language_model.layers.{}.{}.{}"


def save_peft_adapter(
    base_vlm: Any,
    folder: Path,
    rename: Any = lambda name: name,
    dtype: Any = mx.float32,
    keep: Callable[[str], bool] = lambda name: True,
    **config: Any,
) -> Path:
    settings = LoraConfig(4, 8)
    layers = lora.attach(base_vlm.model, settings, mx.random.key(1))
    for i, layer in enumerate(layers.values()):
        layer.lora_b = 0.05 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(i))
    weights = {
        rename(name): value.astype(dtype)
        for name, value in lora.lora_state_dict(layers).items()
        if keep(name)
    }
    lora.detach(base_vlm.model)
    folder.mkdir()
    mx.save_safetensors(str(folder / WEIGHTS_FILE), weights, {"format": "pt"})
    base_config = build_peft_config(settings, "/data/mondrian-tiny", 4) | {"peft_version": "0.21"}
    (folder / CONFIG_FILE).write_text(json.dumps(base_config | config))
    return folder


def run_import(
    folder: Path, prepared: Path, output: Path, changes: dict[str, Any] | None = None, **flags: bool
) -> str:
    """Import on mondrian-tiny; train.json is written next to the adapter folder."""
    paths = ImportPaths(
        prepared / "train.json", prepared / "val.json", output, output.parent / "train.json"
    )
    params = load_params(ROOT / "params.yaml")
    base = params.base.model_copy(update=changes or {})
    params = params.model_copy(update={"base": base})
    return import_adapter(folder, paths, params, output.parent / "cache", **flags)


@pytest.mark.parametrize(
    ("rename", "dtype"),
    [
        (lambda name: name, mx.bfloat16),
        (
            lambda name: name.replace("model.model.language_model", "model.language_model.model"),
            None,
        ),
        (lambda name: name.replace(".weight", ".default.weight"), None),
        (lambda name: name.replace("base_model.model.model.language_model.", "model."), None),
    ],
    ids=["bfloat16", "older names", "a named adapter", "bare names"],
)
def test_an_adapter_of_another_trainer_is_imported(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path, rename: Any, dtype: Any
) -> None:
    folder = save_peft_adapter(base_vlm, tmp_path / "theirs", rename, dtype or mx.float32)
    output = tmp_path / "models" / "tiny-lora-ansel"
    summary = run_import(folder, prepared_dir, output)
    assert summary.startswith("imported 56 tensors of rank 4 into")
    recipe = read_recipe(output)
    assert (recipe.advisor, recipe.base.sha256) == ("ansel", base_vlm.hash)
    assert len(adapter.load(base_vlm.model, base_vlm.hash, output)) == 28
    lora.detach(base_vlm.model)


@pytest.mark.slow
def test_an_imported_adapter_can_be_evaluated(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "adapter"
    run_import(save_peft_adapter(base_vlm, tmp_path / "theirs"), prepared_dir, output)
    process = run_stage(
        "evaluate",
        "--lora_path",
        output,
        "--val_data",
        prepared_dir / "val.json",
        "--output_report",
        tmp_path / "report.json",
        "--details",
        tmp_path / "evaluate.json",
        "--cache_dir",
        tmp_path / "cache",
    )
    assert process.returncode == 0, process.stderr
    assert "fine_tuned" in (tmp_path / "evaluate.json").read_text()


@pytest.mark.parametrize("layers", [{1, 2}, {0}, {3}], ids=str)
def test_an_adapter_of_some_modules_in_some_layers_is_imported(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path, layers: set[int]
) -> None:
    def keep(name: str) -> bool:
        layer = int(re.findall(r"layers\.(\d+)", name)[0])
        return layer in layers and ("q_proj" in name or layer == max(layers))

    folder = save_peft_adapter(base_vlm, tmp_path / "theirs", keep=keep, layers_to_transform=[1])
    theirs = mx.load(str(folder / WEIGHTS_FILE))
    assert isinstance(theirs, dict)
    summary = run_import(folder, prepared_dir, tmp_path / "out")
    assert summary.startswith(f"imported {len(theirs)} tensors")
    attached = adapter.load(base_vlm.model, base_vlm.hash, tmp_path / "out")
    state = lora.lora_state_dict(attached)
    assert all(mx.array_equal(state[name], value) for name, value in theirs.items())
    extra = [value for name, value in state.items() if name not in theirs]
    assert not any(bool(mx.any(value != 0)) for value in extra)


def test_an_adapter_saved_by_torch_is_imported(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_peft_adapter(base_vlm, tmp_path / "theirs")
    weights = load_file(folder / WEIGHTS_FILE)
    write_tensors(folder / "adapter_model.bin", weights, monkeypatch)
    (folder / WEIGHTS_FILE).unlink()
    run_import(folder, prepared_dir, tmp_path / "out")
    imported = load_file(tmp_path / "out" / WEIGHTS_FILE)
    assert all(np.array_equal(imported[name], value) for name, value in weights.items())
    write_tensors(folder / "adapter_model.bin", {"lm_head": np.ones(1)}, monkeypatch)
    with pytest.raises(AdapterError, match=r"adapter_model.bin: .*'lm_head' cannot be adapted"):
        run_import(folder, prepared_dir, tmp_path / "out")
    write_torch_file(folder / "adapter_model.bin", {"a": Path()}, [], monkeypatch)
    with pytest.raises(AdapterError, match="which is not a tensor; save the adapter again"):
        run_import(folder, prepared_dir, tmp_path / "out")
    (folder / "adapter_model.bin").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(AdapterError, match=r"convert it with torch, in .*torch.load\('adapter_mod"):
        run_import(folder, prepared_dir, tmp_path / "out")


def test_metrics_are_those_that_training_writes(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path
) -> None:
    folder = save_peft_adapter(base_vlm, tmp_path / "theirs")
    run_import(folder, prepared_dir, tmp_path / "out")
    metrics = json.loads((tmp_path / "train.json").read_text())
    val_loss = metrics.pop("val_loss")
    assert 0 < val_loss < 10
    assert metrics == dict.fromkeys(("train_loss", "epoch", "epochs", "steps"))
    log = [
        {"step": 10, "epoch": 1.0, "loss": 2.0, "grad_norm": 1.0},
        {"step": 20, "epoch": 1.9, "loss": 1.0},
        {"step": 22, "epoch": 2.0, "eval_loss": 1.5},
    ]
    state = {"global_step": 22, "epoch": 1.98, "num_train_epochs": 3, "log_history": log}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    run_import(folder, prepared_dir, tmp_path / "out")
    assert json.loads((tmp_path / "train.json").read_text()) == {
        "train_loss": 1.5,
        "val_loss": val_loss,
        "epoch": 2,
        "epochs": 3,
        "steps": 22,
    }
    points = [(10, "train", 2.0), (20, "train", 1.0), (22, "val", val_loss)]
    assert list_loss_points(read_training_log(tmp_path / "out")) == points
    timing = json.loads((tmp_path / "train_timing.json").read_text())
    assert set(timing.values()) == {None}
    saved = (tmp_path / "out" / WEIGHTS_FILE).stat()
    overflow = {"log_history": [{"step": i, "loss": 1e308} for i in range(2)]}
    (folder / "trainer_state.json").write_text(json.dumps(overflow))
    with pytest.raises(AdapterError, match=r"trainer_state.json is damaged .*loss.*delete"):
        run_import(folder, prepared_dir, tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS_FILE).stat() == saved
    (folder / "trainer_state.json").write_text('{"global_step": "many"}')
    with pytest.raises(AdapterError, match=r"trainer_state.json is damaged .*global_step.*delete"):
        run_import(folder, prepared_dir, tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"use_qalora": True, "bias": "all"},
            "use_qalora is True; .*bias is 'all'|bias.*use_qalora",
        ),
        (
            {"rank_pattern": {"q_proj": 8}},
            "adapter_config.json cannot be imported: rank_pattern gives",
        ),
        ({"r": 8}, "lora_A of language_model.layers.0.self_attn.q_proj has rank 4, .* says 8"),
        ({"lora_dropout": 1}, "lora_dropout is 1"),
        ({"base_model_name_or_path": "Qwen/Qwen3-VL-4B-Instruct"}, "is 'Qwen/.*add --same_base"),
        ({"lora_alpha": 1e38}, "theirs: its logits contain NaN or inf$"),
        ({"lora_alpha": 1e-30}, "theirs changes nothing"),
        ({"use_dora": "false"}, "adapter_config.json cannot be imported: use_dora is 'false'"),
    ],
)
def test_an_unsupported_adapter_is_refused_and_nothing_is_written(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    folder = save_peft_adapter(base_vlm, tmp_path / "theirs", **config)
    with pytest.raises(AdapterError, match=message):
        run_import(folder, prepared_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "train.json").exists()


def test_another_name_of_the_same_base_is_accepted_on_request(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path
) -> None:
    folder = save_peft_adapter(base_vlm, tmp_path / "theirs", base_model_name_or_path="mine")
    run_import(folder, prepared_dir, tmp_path / "out", same_base=True)
    assert (tmp_path / "out" / WEIGHTS_FILE).exists()
    folder = save_peft_adapter(base_vlm, tmp_path / "mine", base_model_name_or_path="x/my-base")
    run_import(folder, prepared_dir, tmp_path / "out", {"name": "my-base"})


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda n: "layers.2.mlp.up_proj.lora_B" not in n, "layers.2.mlp.up_proj has no lora_B"),
        (lambda n: "layers.1.self_attn.v_proj.lora_A" not in n, "v_proj has no lora_A"),
    ],
)
def test_half_a_pair_is_refused(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path, keep: Any, message: str
) -> None:
    folder = save_peft_adapter(base_vlm, tmp_path / "theirs", keep=keep)
    with pytest.raises(AdapterError, match=message):
        run_import(folder, prepared_dir, tmp_path / "out")


def test_a_folder_without_an_adapter_is_refused_with_the_one_inside(
    base_vlm: Any, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(AdapterError, match=r"out has no adapter_config.json; give .* saved$"):
        read_peft_adapter(tmp_path / "out")
    save_peft_adapter(base_vlm, tmp_path / "out" / "checkpoint-9")
    with pytest.raises(AdapterError, match=r"there is .*out/checkpoint-9$"):
        read_peft_adapter(tmp_path / "out")


def test_an_adapter_on_the_vision_tower_is_refused_by_name(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path
) -> None:
    def rename(name: str) -> str:
        return name.replace("language_model.layers.0.self_attn", "visual.blocks.0.attn")

    folder = save_peft_adapter(base_vlm, tmp_path / "theirs", rename)
    with pytest.raises(
        AdapterError, match=r"visual\.blocks\.0\.attn.* cannot be adapted in this base"
    ):
        run_import(folder, prepared_dir, tmp_path / "out")
    lora.detach(base_vlm.model)


def test_missing_weights_are_named(base_vlm: Any, tmp_path: Path) -> None:
    folder = save_peft_adapter(base_vlm, tmp_path / "theirs")
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(
        AdapterError, match=r"no adapter_model.safetensors and no adapter_model.bin"
    ):
        read_peft_adapter(folder)


@pytest.mark.parametrize("length", [0, 9, 500])
def test_a_truncated_file_is_refused(base_vlm: Any, tmp_path: Path, length: int) -> None:
    folder = save_peft_adapter(base_vlm, tmp_path / "theirs")
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(AdapterError, match="cannot be read"):
        read_peft_adapter(folder)


@given(
    st.sampled_from(
        [
            "base_model.model.model.language_model.",
            "base_model.model.language_model.",
            "base_model.model.model.",
            "model.language_model.",
            "model.",
            "",
        ]
    ),
    st.integers(0, 99),
    st.sampled_from(["self_attn.q_proj", "mlp.down_proj"]),
    st.sampled_from(["lora_A", "lora_B"]),
    st.sampled_from([".weight", ".default.weight"]),
)
def test_all_spellings_of_a_weight_name_are_normalized(
    prefix: str, layer: int, module: str, kind: str, ending: str
) -> None:
    expected = NORMALIZED.format(layer, module, f"{kind}.weight")
    assert normalize_weight_name(f"{prefix}layers.{layer}.{module}.{kind}{ending}") == expected
    assert normalize_weight_name(expected) == expected
