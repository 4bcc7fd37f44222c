"""Loss and gradients of ORPO compared with TRL's ORPOTrainer on torch, if that is installed.

Packages: benchmarks/requirements-torch.txt.
"""

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from mondrian.core.params import Params
from mondrian.critique.preference_rows import PreferenceRow
from mondrian.critique.rows import ChatRow
from mondrian.model import adapter, lora
from mondrian.model.export import to_mlx_name
from mondrian.model.lora import LoraConfig
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.dataset import Example, build_examples
from mondrian.training.loss import Loss, StepSize
from tests.conftest import ROOT
from tests.training.worse_critiques import worsen

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of torch, transformers, PEFT and TRL
]
BETA, IGNORED, PADDING = 0.5, -100, 0


class TorchInputs:
    """Calls transformers' model with the photos; TRL passes tokens only.

    TRL's loss includes the prompt, ours does not. TRL gets an attention mask of 0 for the prompt,
    which excludes it from its loss, and the model the true one.
    """

    def __init__(self, model: Any, base_vlm: Any, examples: list[Example]) -> None:
        self.model, self.image_id = model, base_vlm.image_id
        photos = [Image.open(example.photo).convert("RGB") for example in examples]
        pixels = base_vlm.processor.image_processor([*photos, *photos])  # chosen, then rejected
        self.images = {
            name: torch.tensor(np.array(pixels[name]))
            for name in ("pixel_values", "image_grid_thw")
        }

    def __call__(self, ids: Any, attention_mask: Any, use_cache: bool) -> Any:
        types = (ids == self.image_id).int()
        mask = (ids != PADDING).int()
        return self.model(
            input_ids=ids, attention_mask=mask, mm_token_type_ids=types, **self.images
        )


def make_batch(examples: list[Example]) -> dict[str, Any]:
    """Return the batch that TRL's collator makes, without attention to the prompt."""
    batch: dict[str, Any] = {}
    for side in ("chosen", "rejected"):
        completions = [e.ids[e.start :] if side == "chosen" else e.rejected for e in examples]
        rows = [[*e.ids[: e.start], *c] for e, c in zip(examples, completions, strict=True)]
        length = max(map(len, rows))
        padding = [[PADDING] * (length - len(row)) for row in rows]
        masks = [
            [0] * e.start + [1] * (len(row) - e.start) + [0] * len(pad)
            for e, row, pad in zip(examples, rows, padding, strict=True)
        ]
        ids = torch.tensor([row + pad for row, pad in zip(rows, padding, strict=True)])
        batch[f"{side}_input_ids"] = ids
        batch[f"{side}_attention_mask"] = torch.tensor(masks)
        batch[f"{side}_labels"] = torch.where(torch.tensor(masks) == 1, ids, IGNORED)
    return batch


def compute_trl_loss(model: Any, batch: dict[str, Any]) -> Any:
    """Return the loss of an ORPOTrainer that has no data and trains nothing."""
    from trl.experimental.orpo import ORPOTrainer

    trainer = ORPOTrainer.__new__(ORPOTrainer)
    trainer.beta, trainer.padding_value = BETA, PADDING
    trainer.is_encoder_decoder = trainer.aux_loss_enabled = False
    trainer.accelerator = SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x)
    return trainer.get_batch_loss_metrics(model, batch)[0]


def attach_random_adapter(base_vlm: Any, folder: Any) -> dict[str, Any]:
    settings = LoraConfig(8, 16)
    layers = lora.attach(base_vlm.model, settings, mx.random.key(0))
    lora.unfreeze_lora(layers)
    for i, layer in enumerate(layers.values()):
        layer.lora_b = 0.05 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(i))
    recipe = {"base": {"source": "x", "sha256": "x"}}
    adapter.save(folder, lora.lora_state_dict(layers), settings, recipe, 4)
    return layers


def test_loss_and_gradients_equal_those_of_trls_orpo_trainer(
    base_vlm: Any, rows: list[ChatRow], params: Params, tmp_path: Any
) -> None:
    peft = pytest.importorskip("peft")
    pytest.importorskip("trl")
    from transformers import Qwen3VLForConditionalGeneration

    settings = params.train.model_copy(
        update={"method": "orpo", "orpo_beta": BETA, "score_weight": 1.0, "lora_dropout": 0.0}
    )
    cache = FeatureCache(base_vlm, None, 0)
    pairs = [PreferenceRow.prefer(row, worsen(row)) for row in rows[:2]]
    examples = build_examples(pairs, settings, cache)
    assert PADDING not in {i for e in examples for i in (*e.ids, *e.rejected)}
    layers = attach_random_adapter(base_vlm, tmp_path)
    loss = Loss(cache, layers, settings)
    size = StepSize.of(examples)
    sums, gradients = loss.compute_loss_and_grad(examples, 1, size)
    ours = float(sums[0]) / size.weight + BETA * float(sums[1]) / size.rows

    model = Qwen3VLForConditionalGeneration.from_pretrained(
        ROOT / "models/base/mondrian-tiny", dtype=torch.float32
    )
    adapted = peft.PeftModel.from_pretrained(model, tmp_path, is_trainable=True).eval()
    theirs = compute_trl_loss(TorchInputs(adapted, base_vlm, examples), make_batch(examples))
    theirs.backward()
    assert ours == pytest.approx(theirs.item(), rel=1e-5)
    expected = {
        to_mlx_name(name.replace(".default", "")): parameter.grad.numpy().T
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad
    }
    actual = {name: np.array(value) for name, value in tree_flatten(gradients)}
    assert actual.keys() == expected.keys()
    norm = np.sqrt(sum((g**2).sum() for g in expected.values()))
    error = np.sqrt(sum(((actual[name] - g) ** 2).sum() for name, g in expected.items()))
    assert error / norm < 1e-4
