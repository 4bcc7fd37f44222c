import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from mondrian.core.adapter_folder import CONFIG_FILE, WEIGHTS_FILE
from mondrian.core.errors import AdapterError
from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import build_row_messages
from mondrian.model import adapter, lora, vlm
from mondrian.model.export import export_adapter, export_merged, to_mlx_name
from mondrian.model.lora import LoraConfig
from tests.conftest import ROOT
from tests.model.random_adapters import save_random_adapter
from tests.tolerances import by_type, to_numpy
from tests.waiting import PATIENCE

TINY = "models/base/mondrian-tiny"


@pytest.fixture
def smoke_test(base_vlm: Any, photos: list[Image.Image]) -> Any:
    features = vlm.encode_image(
        base_vlm, resize_to_fit(photos[0], 4096, 20_480), with_pre_merger=True
    )
    return vlm.tokenize_prompt(
        base_vlm, build_row_messages("You are an editor.", "")[:-1], features
    ), features


def logits_with_adapter(base_vlm: Any, folder: Path, smoke_test: Any) -> Any:
    adapter.load(base_vlm.model, base_vlm.hash, folder)
    logits = to_numpy(vlm.next_logits(base_vlm, *smoke_test))
    lora.detach(base_vlm.model)
    return logits


@pytest.mark.device
@pytest.mark.parametrize(
    "settings",
    [
        LoraConfig(4, 8),
        LoraConfig(4, 8, rslora=True),
        LoraConfig(4, 8, num_layers=2),
        LoraConfig(4, 8, dora=True),
        LoraConfig(4, 8, train_projector=True),
    ],
    ids=["plain", "rslora", "num_layers", "dora", "train_projector"],
)
def test_mlx_vlm_applies_an_exported_adapter_as_we_do(
    base_vlm: Any, smoke_test: Any, tmp_path: Path, settings: LoraConfig
) -> None:
    from mlx_vlm.trainer.peft import load_adapters

    folder = save_random_adapter(base_vlm, tmp_path / "adapter", settings)
    ours = logits_with_adapter(base_vlm, folder, smoke_test)
    export_adapter(folder, tmp_path / "mlx", "mlx")
    fresh = vlm.load(TINY)
    base = to_numpy(vlm.next_logits(fresh, *smoke_test))
    load_adapters(fresh.model, tmp_path / "mlx")
    fresh.model.eval()
    theirs = to_numpy(vlm.next_logits(fresh, *smoke_test))
    assert np.abs(theirs - base).max() > 0.05
    assert np.abs(theirs - ours).max() < by_type(1e-4, 0.02, 0.2)
    assert (tmp_path / "mlx" / "recipe.json").exists()


@pytest.mark.device
@pytest.mark.parametrize("settings", [LoraConfig(4, 8), LoraConfig(4, 8, dora=True)])
def test_a_merged_base_answers_as_base_and_adapter(
    base_vlm: Any, smoke_test: Any, tmp_path: Path, settings: LoraConfig
) -> None:
    base = to_numpy(vlm.next_logits(base_vlm, *smoke_test))
    folder = save_random_adapter(base_vlm, tmp_path / "adapter", settings)
    ours = logits_with_adapter(base_vlm, folder, smoke_test)
    export_merged(TINY, folder, tmp_path / "merged")
    theirs = to_numpy(vlm.next_logits(vlm.load(str(tmp_path / "merged")), *smoke_test))
    rounding = by_type(0.02, 0.02, 0.2)  # the base is stored in float16
    assert np.abs(ours - base).max() > 0.4
    assert np.abs(theirs - ours).max() < rounding
    base_weights, merged = (
        load_file(path / "model.safetensors") for path in (ROOT / TINY, tmp_path / "merged")
    )
    dtypes = {name: value.dtype for name, value in base_weights.items()}
    assert {name: value.dtype for name, value in merged.items()} == dtypes


def test_an_adapter_is_not_merged_into_a_packed_base(base_vlm: Any, tmp_path: Path) -> None:
    from mlx_vlm.convert import convert

    folder = save_random_adapter(base_vlm, tmp_path / "adapter", LoraConfig(4, 8))
    convert(TINY, str(tmp_path / "packed"), quantize=True, q_bits=4)
    with pytest.raises(AdapterError, match="is quantized: rounding would remove"):
        export_merged(str(tmp_path / "packed"), folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_merge_never_overwrites_the_base(base_vlm: Any, tmp_path: Path) -> None:
    folder = save_random_adapter(base_vlm, tmp_path / "adapter", LoraConfig(4, 8))
    with pytest.raises(AdapterError, match="is the base itself"):
        export_merged(TINY, folder, Path(TINY))


def test_an_export_in_pefts_layout_is_a_copy(base_vlm: Any, tmp_path: Path) -> None:
    folder = save_random_adapter(base_vlm, tmp_path / "adapter", LoraConfig(4, 8))
    export_adapter(folder, tmp_path / "peft", "peft")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        assert (tmp_path / "peft" / name).read_bytes() == (folder / name).read_bytes()


def test_a_name_that_is_not_an_adapter_weight_is_refused() -> None:
    name = "base_model.model.model.language_model.layers.3.mlp.up_proj.lora_A.weight"
    assert to_mlx_name(name) == "language_model.model.layers.3.mlp.up_proj.lora_a"
    with pytest.raises(AdapterError, match=r"model\.norm is not a weight"):
        to_mlx_name("model.norm")


@pytest.mark.slow
def test_the_command_names_a_folder_without_an_adapter(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mondrian", "export", str(tmp_path), "--output_dir", "x"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
    assert process.returncode == 1
    assert process.stderr.startswith("error: ")
    assert "has no recipe.json" in process.stderr
    assert not (ROOT / "x").exists()


def test_what_systems_put_into_a_base_changes_no_hash(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_text(name)
    before = vlm.base_hash(tmp_path)
    for name in ("._model.safetensors", "._config.json", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_text("junk")
    assert vlm.base_hash(tmp_path) == before
    (tmp_path / "vocab.json").write_text("{}")
    assert vlm.base_hash(tmp_path) != before
