"""The shipped base and an adapter in transformers and PEFT on torch, if those are installed.

They are not in requirements-dev.lock (torch is large) but in benchmarks/requirements-torch.txt.
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
from mondrian.critique.prompt import build_row_messages
from mondrian.model import adapter, lora
from mondrian.model.export import to_mlx_name
from mondrian.model.language import compute_logits, hidden_states, make_batch
from mondrian.model.lora import PROJECTIONS, LoraConfig
from mondrian.model.vlm import encode_image, tokenize_prompt
from mondrian.training.dataset import Example
from mondrian.training.loss import LMHead, chunked_cross_entropy
from mondrian.training.packing import compute_target_states, pack
from tests.conftest import ROOT

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of torch, transformers and PEFT
]


@pytest.fixture
def inputs(base_vlm: Any, photos: list[Image.Image]) -> tuple[dict[str, Any], list[int], Any]:
    image = resize_to_fit(photos[0], 4096, 20_480)
    features = encode_image(base_vlm, image, with_pre_merger=True)
    messages = build_row_messages("You are an editor.", "")[:-1]
    ids = tokenize_prompt(base_vlm, messages, features)
    ids += base_vlm.tokenizer.tokenize_completion('{"image_description": "A')[0]
    pixels = base_vlm.processor.image_processor([image])
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
        features,
    )


def our_logits(base_vlm: Any, ids: list[int], features: Any) -> np.ndarray[Any, Any]:
    batch = make_batch([ids], [features], base_vlm.image_id)
    return np.array(compute_logits(base_vlm.model, hidden_states(base_vlm.model, batch)))


def test_logits_equal_those_of_transformers(base_vlm: Any, inputs: Any) -> None:
    from transformers import Qwen3VLForConditionalGeneration

    model, info = Qwen3VLForConditionalGeneration.from_pretrained(
        ROOT / "models/base/mondrian-tiny", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        theirs = model.eval()(**inputs[0]).logits.numpy()
    assert np.abs(theirs - our_logits(base_vlm, *inputs[1:])).max() < 1e-4


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
    ids=["plain", "rslora", "num_layers", "dora", "train_projector", "several"],
)
def test_peft_applies_our_adapter_with_equal_logits_and_gradients(
    base_vlm: Any, inputs: Any, tmp_path: Path, settings: LoraConfig
) -> None:
    peft = pytest.importorskip("peft")
    from transformers import Qwen3VLForConditionalGeneration

    torch_inputs, ids, features = inputs
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
        base = model.eval()(**torch_inputs).logits.numpy()
    adapted = peft.PeftModel.from_pretrained(model, tmp_path, is_trainable=True).eval()
    theirs = adapted(**torch_inputs).logits
    assert np.abs(theirs.detach().numpy() - base).max() > 0.1
    assert np.abs(theirs.detach().numpy() - our_logits(base_vlm, ids, features)).max() < 1e-4

    start = len(ids) - 12
    logits, targets = theirs[0, start - 1 : -1], torch.tensor(ids[start:])
    torch.nn.functional.cross_entropy(logits, targets, reduction="sum").backward()
    peft_gradients = {
        to_mlx_name(
            name.replace(".default", "").removesuffix(".weight")
            + (".weight" if "lora_mag" not in name else "")
        ): parameter.grad.numpy()
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad
    }
    gradients = our_gradients(base_vlm, Example("", ids, start, "", [1.0] * 12), features)
    assert peft_gradients.keys() == gradients.keys()
    assert len(gradients) == len(lora.lora_state_dict(layers))
    norm = np.sqrt(sum((g**2).sum() for g in peft_gradients.values()))
    error = np.sqrt(
        sum(((peft_gradients[name] - gradients[name]) ** 2).sum() for name in gradients)
    )
    assert error / norm < 1e-4


def our_gradients(base_vlm: Any, row: Example, features: Any) -> dict[str, Any]:
    """Return gradients of the training loss by mlx-vlm's names and in PEFT's layout."""

    def loss(model: Any) -> mx.array:
        packed = pack([row], [features], base_vlm.image_id)
        hidden = compute_target_states(model, packed)
        targets, weights = mx.array(packed.targets), mx.array(packed.weights)
        return chunked_cross_entropy(LMHead(model), hidden, targets, weights, 5).sum()

    _, gradients = nn.value_and_grad(base_vlm.model, loss)(base_vlm.model)
    return {
        name.replace(".magnitude", ".m"): np.array(value.T if value.ndim == 2 else value)
        for name, value in tree_flatten(gradients)
    }
