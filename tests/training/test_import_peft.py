"""Adapters as other trainers leave them: other names, bfloat16, no recipe."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.core.adapter_folder import CONFIG, WEIGHTS
from mondrian.core.errors import AdapterError
from mondrian.core.params import load_params
from mondrian.model import adapter, lora
from mondrian.model.lora_config import LoraConfig, peft_config
from mondrian.model.provenance import read_recipe
from mondrian.training.import_peft import import_adapter, normalize_weight_name, read_peft_adapter
from mondrian.training.plan_report import PreparedFiles
from tests.conftest import ROOT, run_stage

OWN = "base_model.model.model.language_model.layers.{}.{}.{}"


def foreign(
    base_vlm: Any,
    folder: Path,
    rename: Any = lambda name: name,
    kind: Any = mx.float32,
    **config: Any,
) -> Path:
    settings = LoraConfig(4, 8)
    layers = lora.attach(base_vlm.model, settings, mx.random.key(1))
    for i, layer in enumerate(layers.values()):
        layer.lora_b = 0.05 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(i))
    weights = {
        rename(name): value.astype(kind) for name, value in lora.lora_state_dict(layers).items()
    }
    lora.detach(base_vlm.model)
    folder.mkdir()
    mx.save_safetensors(str(folder / WEIGHTS), weights, {"format": "pt"})
    told = peft_config(settings, "Qwen/Qwen3-VL-4B-Instruct", 4) | {"peft_version": "0.21"}
    (folder / CONFIG).write_text(json.dumps(told | config))
    return folder


def run_import(folder: Path, prepared: Path, output: Path) -> str:
    files = PreparedFiles(prepared / "train.json", prepared / "val.json")
    params = load_params(ROOT / "params.yaml")
    return import_adapter(folder, output, files, params, output.parent / "c")


@pytest.mark.parametrize(
    ("rename", "kind"),
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
def test_an_adapter_of_another_trainer_is_adopted_and_evaluated(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path, rename: Any, kind: Any
) -> None:
    folder = foreign(base_vlm, tmp_path / "theirs", rename, kind or mx.float32)
    output = tmp_path / "models" / "tiny-lora-ansel"
    said = run_import(folder, prepared_dir, output)
    assert said.startswith("imported 56 tensors of rank 4")
    recipe = read_recipe(output)
    assert (recipe.advisor, recipe.base.sha256) == ("ansel", base_vlm.hash)
    assert len(adapter.load(base_vlm.model, base_vlm.hash, output)) == 28
    lora.detach(base_vlm.model)


@pytest.mark.slow
def test_an_adopted_adapter_goes_through_evaluate(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "adapter"
    run_import(foreign(base_vlm, tmp_path / "theirs"), prepared_dir, output)
    done = run_stage(
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
    assert done.returncode == 0, done.stderr
    assert "fine_tuned" in (tmp_path / "evaluate.json").read_text()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "is not PEFT's of a LoRA"),
        ({"bias": "all"}, "bias: 'all'"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"r": 8}, r"is \(4, .*here \(8, "),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save: \['lm_head'\]"),
        ({"lora_alpha": "x"}, "is damaged"),
        ({"init_lora_weights": "pissa"}, "'pissa' took a part"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    ],
)
def test_what_cannot_be_taken_in_says_so_and_leaves_nothing(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    folder = foreign(base_vlm, tmp_path / "theirs", **config)
    with pytest.raises(AdapterError, match=words):
        run_import(folder, prepared_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    lora.detach(base_vlm.model)


def test_an_adapter_on_the_vision_tower_is_refused_by_name(
    base_vlm: Any, prepared_dir: Path, tmp_path: Path
) -> None:
    def rename(name: str) -> str:
        return name.replace("language_model.layers.0.self_attn", "visual.blocks.0.attn")

    folder = foreign(base_vlm, tmp_path / "theirs", rename)
    with pytest.raises(AdapterError, match=r"visual\.blocks\.0\.attn.* has no place in this base"):
        run_import(folder, prepared_dir, tmp_path / "out")
    lora.detach(base_vlm.model)


@pytest.mark.parametrize("keep", [0, 9, 500])
def test_a_cut_file_is_refused(base_vlm: Any, tmp_path: Path, keep: int) -> None:
    folder = foreign(base_vlm, tmp_path / "theirs")
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
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
def test_every_spelling_of_a_name_is_the_same_name(
    prefix: str, layer: int, place: str, kind: str, ending: str
) -> None:
    wanted = OWN.format(layer, place, f"{kind}.weight")
    assert normalize_weight_name(f"{prefix}layers.{layer}.{place}.{kind}{ending}") == wanted
    assert normalize_weight_name(wanted) == wanted
