"""The shipped base and an adapter in transformers and PEFT on torch, where those are installed.

Not part of requirements-dev.lock (torch is large): benchmarks/requirements-torch.txt beside it.
"""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import row_messages
from mondrian.model import adapter, lora
from mondrian.model.export import mlx_name
from mondrian.model.language import compute_logits, hidden_states, make_batch
from mondrian.model.lora_config import PROJECTIONS, LoraConfig
from mondrian.model.vlm import encode_image, prompt_ids
from mondrian.training.chunked_cross_entropy import LMHead, chunked_cross_entropy
from mondrian.training.dataset import Example
from mondrian.training.packing import compute_answer_states, pack
from tests.conftest import ROOT

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of other people's packages
]


@pytest.fixture
def inputs(base_vlm: Any, photos: list[Image.Image]) -> tuple[dict[str, Any], list[int], Any]:
    picture = resize_to_fit(photos[0], 4096, 20_480)
    seen = encode_image(base_vlm, picture, raw=True)
    messages = row_messages("You are an editor.", "")[:-1]
    ids = (
        prompt_ids(base_vlm, messages, seen) + base_vlm.tokens.answer('{"image_description": "A')[0]
    )
    pixels = base_vlm.processor.image_processor([picture])
    tensor = torch.tensor([ids])
    return (
        {
            "input_ids": tensor,
            "attention_mask": torch.ones_like(tensor),
            "pixel_values": torch.tensor(np.array(pixels["pixel_values"])),
            "image_grid_thw": torch.tensor(np.array(pixels["image_grid_thw"])),
            "mm_token_type_ids": (tensor == base_vlm.image_id).int(),
        },
        ids,
        seen,
    )


def ours(base_vlm: Any, ids: list[int], seen: Any) -> np.ndarray[Any, Any]:
    batch = make_batch([ids], [seen], base_vlm.image_id)
    return np.array(compute_logits(base_vlm.model, hidden_states(base_vlm.model, batch)))


def test_transformers_says_the_same(base_vlm: Any, inputs: Any) -> None:
    from transformers import Qwen3VLForConditionalGeneration

    model, info = Qwen3VLForConditionalGeneration.from_pretrained(
        ROOT / "models/base/mondrian-tiny", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        theirs = model.eval()(**inputs[0]).logits.numpy()
    assert np.abs(theirs - ours(base_vlm, *inputs[1:])).max() < 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        LoraConfig(16, 32),
        LoraConfig(8, 16, rslora=True),
        LoraConfig(8, 16, num_layers=2),
        LoraConfig(8, 16, dora=True),
        LoraConfig(8, 16, train_projector=True),
        LoraConfig(
            8, 16, target_modules=PROJECTIONS["mlp"], num_layers=1, train_projector=True, dora=True
        ),
    ],
    ids=["plain", "rslora", "last_layers", "dora", "projector", "several"],
)
def test_peft_applies_our_adapter_and_its_gradients_are_ours(
    base_vlm: Any, inputs: Any, tmp_path: Path, settings: LoraConfig
) -> None:
    peft = pytest.importorskip("peft")
    from transformers import Qwen3VLForConditionalGeneration

    given, ids, seen = inputs
    layers = lora.attach(base_vlm.model, settings, mx.random.key(0))
    lora.unfreeze_lora(layers)
    for i, layer in enumerate(layers.values()):
        layer.lora_b = 0.05 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(i))
        if settings.dora:
            layer.magnitude = layer.magnitude * 1.1
    recipe = {"base": {"source": "x", "sha256": "x"}}
    adapter.save(tmp_path, lora.lora_state_dict(layers), settings, recipe, 4)
    model = Qwen3VLForConditionalGeneration.from_pretrained(
        ROOT / "models/base/mondrian-tiny", dtype=torch.float32
    )
    with torch.no_grad():
        base = model.eval()(**given).logits.numpy()
    adapted = peft.PeftModel.from_pretrained(model, tmp_path, is_trainable=True).eval()
    theirs = adapted(**given).logits
    assert np.abs(theirs.detach().numpy() - base).max() > 0.1
    assert np.abs(theirs.detach().numpy() - ours(base_vlm, ids, seen)).max() < 1e-4

    start = len(ids) - 12
    told, answer = theirs[0, start - 1 : -1], torch.tensor(ids[start:])
    torch.nn.functional.cross_entropy(told, answer, reduction="sum").backward()
    wanted = {
        mlx_name(
            name.replace(".default", "").removesuffix(".weight")
            + (".weight" if "lora_mag" not in name else "")
        ): parameter.grad.numpy()
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad
    }
    found = our_gradients(base_vlm, Example("", ids, start, "", [1.0] * 12), seen)
    assert wanted.keys() == found.keys()
    assert len(wanted) == len(lora.lora_state_dict(layers))
    size = np.sqrt(sum((w**2).sum() for w in wanted.values()))
    apart = np.sqrt(sum(((wanted[name] - found[name]) ** 2).sum() for name in wanted))
    assert apart / size < 1e-4


def our_gradients(base_vlm: Any, row: Example, seen: Any) -> dict[str, Any]:
    """Of the loss as training computes it, by mlx-vlm's names and PEFT's layout."""

    def loss(model: Any) -> mx.array:
        packed = pack([row], [seen], base_vlm.image_id)
        hidden = compute_answer_states(model, packed)
        targets, weights = mx.array(packed.targets), mx.array(packed.weights)
        return chunked_cross_entropy(LMHead(model), hidden, targets, weights, 5)

    _, found = nn.value_and_grad(base_vlm.model, loss)(base_vlm.model)
    return {
        name.replace(".magnitude", ".m"): np.array(value.T if value.ndim == 2 else value)
        for name, value in tree_flatten(found)
    }
