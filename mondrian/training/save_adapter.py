"""A trained adapter into its folder: written beside, loaded afresh, proved, and then renamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mondrian.core.adapter_folder import LOG, SAVED_FILES
from mondrian.core.errors import AdapterError
from mondrian.core.files import atomic_folder
from mondrian.core.params import Train
from mondrian.model import adapter, lora
from mondrian.model.lora_config import make_lora_config
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import next_logits
from mondrian.training.dataset import Example
from mondrian.training.progress import TrainResult


def save_adapter(
    features: FeatureCache,
    run: TrainResult,
    params: Train,
    canary: Example,
    recipe: dict[str, Any],
    folder: Path,
) -> None:
    """Save what a run has kept.

    Raises AdapterError where it is not applied once it is loaded again.
    """
    layers = len(features.vlm.model.language_model.model.layers)
    with atomic_folder(folder, SAVED_FILES) as beside:
        adapter.save(beside, run.weights, make_lora_config(params), recipe, layers)
        (beside / LOG).write_text(run.log_text())
        try:
            check_saved_adapter(features, beside, canary)
        except AdapterError as error:
            raise AdapterError(str(error).replace(str(beside), str(folder))) from None


def check_saved_adapter(features: FeatureCache, folder: Path, canary: Example) -> None:
    """Load a saved adapter afresh and prove that it is applied.

    Raises AdapterError where it is not.
    """
    vlm, prompt = features.vlm, canary.ids[: canary.start]
    image_features = features.get(canary.photo)
    lora.detach(vlm.model)
    vlm.model.eval()
    plain = next_logits(vlm, prompt, image_features)
    adapter.load(vlm.model, vlm.hash, folder)
    vlm.model.eval()
    adapter.check_adapter_changes_logits(next_logits(vlm, prompt, image_features), plain, folder)
