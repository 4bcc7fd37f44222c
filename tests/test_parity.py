"""The shipped base and an adapter in transformers and PEFT on torch, where those are installed.

Not part of requirements-dev.lock (torch is large): `pip install torch peft` beside it.
"""

from pathlib import Path
from typing import Any

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mondrian import adapter, lora
from mondrian.forward import hidden_states, logits, make_batch
from mondrian.lora_settings import LoraSettings
from mondrian.photo import fit
from mondrian.prompt import row_messages
from mondrian.vlm import encode, prompt_ids
from tests.conftest import ROOT

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of other people's packages
]


@pytest.fixture
def inputs(plain: Any, photos: list[Image.Image]) -> tuple[dict[str, Any], list[int], Any]:
    picture = fit(photos[0], 4096, 20_480)
    seen = encode(plain, picture)
    messages = row_messages("You are an editor.", "")[:-1]
    ids = prompt_ids(plain, messages, seen) + plain.tokens.answer('{"image_description": "A')[0]
    pixels = plain.processor.image_processor([picture])
    tensor = torch.tensor([ids])
    return (
        {
            "input_ids": tensor,
            "attention_mask": torch.ones_like(tensor),
            "pixel_values": torch.tensor(np.array(pixels["pixel_values"])),
            "image_grid_thw": torch.tensor(np.array(pixels["image_grid_thw"])),
            "mm_token_type_ids": (tensor == plain.image_id).int(),
        },
        ids,
        seen,
    )


def ours(plain: Any, ids: list[int], seen: Any) -> np.ndarray[Any, Any]:
    batch = make_batch([ids], [seen], plain.image_id)
    return np.array(logits(plain.model, hidden_states(plain.model, batch)))


def test_transformers_says_the_same(plain: Any, inputs: Any) -> None:
    from transformers import Qwen3VLForConditionalGeneration

    model, info = Qwen3VLForConditionalGeneration.from_pretrained(
        ROOT / "models/base/mondrian-tiny", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        theirs = model.eval()(**inputs[0]).logits.numpy()
    assert np.abs(theirs - ours(plain, *inputs[1:])).max() < 1e-4


def test_peft_applies_our_adapter_as_we_do(plain: Any, inputs: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import Qwen3VLForConditionalGeneration

    settings = LoraSettings(rank=16, alpha=32)
    layers = lora.attach(plain.model, settings, mx.random.key(0))
    for i, layer in enumerate(layers.values()):
        layer.lora_b = 0.05 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(i))
    recipe = {"base": {"source": "x", "sha256": "x"}}
    adapter.save(tmp_path, lora.tensors(layers), settings, recipe, 4)
    model = Qwen3VLForConditionalGeneration.from_pretrained(
        ROOT / "models/base/mondrian-tiny", dtype=torch.float32
    )
    with torch.no_grad():
        base = model.eval()(**inputs[0]).logits.numpy()
        adapted = peft.PeftModel.from_pretrained(model, tmp_path).eval()
        theirs = adapted(**inputs[0]).logits.numpy()
    assert np.abs(theirs - base).max() > 0.1
    assert np.abs(theirs - ours(plain, *inputs[1:])).max() < 1e-4
