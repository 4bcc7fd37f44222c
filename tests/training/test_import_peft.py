"""Adapters as other trainers write them: other names, bfloat16, no recipe."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.core.adapter_folder import CONFIG_FILE, WEIGHTS_FILE
from mondrian.core.errors import AdapterError
from mondrian.core.params import load_params
from mondrian.model import adapter, lora
from mondrian.model.lora import LoraConfig, build_peft_config
from mondrian.model.provenance import read_recipe
from mondrian.training.import_peft import import_adapter, normalize_weight_name, read_peft_adapter
from mondrian.training.plan_report import PreparedFiles
from tests.conftest import ROOT, run_stage

NORMALIZED = "base_model.model.model.language_model.layers.{}.{}.{}"


def save_peft_adapter(
    base_vlm: Any,
    folder: Path,
    rename: Any = lambda name: name,
    dtype: Any = mx.float32,
    **config: Any,
) -> Path:
    settings = LoraConfig(4, 8)
    layers = lora.attach(base_vlm.model, settings, mx.random.key(1))
    for i, layer in enumerate(layers.values()):
        layer.lora_b = 0.05 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(i))
    weights = {
        rename(name): value.astype(dtype) for name, value in lora.lora_state_dict(layers).items()
    }
    lora.detach(base_vlm.model)
    folder.mkdir()
    mx.save_safetensors(str(folder / WEIGHTS_FILE), weights, {"format": "pt"})
    base_config = build_peft_config(settings, "Qwen/Qwen3-VL-4B-Instruct", 4) | {
        "peft_version": "0.21"
    }
    (folder / CONFIG_FILE).write_text(json.dumps(base_config | config))
    return folder


def run_import(folder: Path, prepared: Path, output: Path) -> str:
    files = PreparedFiles(prepared / "train.json", prepared / "val.json")
    params = load_params(ROOT / "params.yaml")
    return import_adapter(folder, output, files, params, output.parent / "cache")


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
    assert summary.startswith("imported 56 tensors of rank 4")
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
        "--metrics",
        tmp_path / "evaluate.json",
        "--cache_dir",
        tmp_path / "cache",
    )
    assert process.returncode == 0, process.stderr
    assert "fine_tuned" in (tmp_path / "evaluate.json").read_text()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "is not of a PEFT LoRA"),
        ({"bias": "all"}, "bias: 'all'"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"r": 8}, r"has shape \(4, .*expected \(8, "),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save: \['lm_head'\]"),
        ({"lora_alpha": "x"}, "is damaged"),
        ({"init_lora_weights": "pissa"}, "'pissa' changed the base's weights"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    ],
)
def test_an_unsupported_adapter_is_refused_and_nothing_is_written(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    folder = save_peft_adapter(base_vlm, tmp_path / "theirs", **config)
    with pytest.raises(AdapterError, match=message):
        run_import(folder, prepared_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    lora.detach(base_vlm.model)


def test_an_adapter_on_the_vision_tower_is_refused_by_name(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path
) -> None:
    def rename(name: str) -> str:
        return name.replace("language_model.layers.0.self_attn", "visual.blocks.0.attn")

    folder = save_peft_adapter(base_vlm, tmp_path / "theirs", rename)
    with pytest.raises(
        AdapterError, match=r"visual\.blocks\.0\.attn.* does not exist in this base"
    ):
        run_import(folder, prepared_dir, tmp_path / "out")
    lora.detach(base_vlm.model)


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
