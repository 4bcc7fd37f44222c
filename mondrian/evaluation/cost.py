"""Cost of a critique: base and adapter in turn, one photo at a time, nothing cached."""

from collections.abc import Sequence
from contextlib import nullcontext
from statistics import median
from time import perf_counter

import mlx.core as mx
from PIL import Image

from mondrian.core.terminal import progress_bar
from mondrian.model import lora
from mondrian.model.batch_generator import BatchGenerator, SamplingParams, SequenceState
from mondrian.model.vlm import Vlm, encode_image

TOKENS_PER_MEASUREMENT = 32
ROUNDS = 3  # measurements per photo and arm

ImagePrompt = tuple[Image.Image, Sequence[int]]  # a photo as the model sees it, and its prompt


def measure_cost(
    vlm: Vlm, image_prompts: Sequence[ImagePrompt], with_pre_merger: bool
) -> dict[str, dict[str, float]]:
    """Return medians for base and fine_tuned; the adapter must be attached."""
    measurements: dict[str, list[dict[str, float]]] = {"base": [], "fine_tuned": []}
    rounds = [image_prompt for image_prompt in image_prompts for _ in range(ROUNDS)]
    _measure(vlm, *rounds[0], with_pre_merger)  # warm-up
    for image, prompt in progress_bar(rounds, "cost", unit="round"):
        for arm, arm_measurements in measurements.items():
            with lora.disable_lora(vlm.model) if arm == "base" else nullcontext():
                arm_measurements.append(_measure(vlm, image, prompt, with_pre_merger))
    return {
        arm: {name: round(median(m[name] for m in repeats), 5) for name in repeats[0]}
        for arm, repeats in measurements.items()
    }


def _measure(
    vlm: Vlm, image: Image.Image, prompt: Sequence[int], with_pre_merger: bool
) -> dict[str, float]:
    mx.reset_peak_memory()
    started = perf_counter()
    features = encode_image(vlm, image, with_pre_merger)
    encoded = perf_counter()
    generator, image_start = BatchGenerator(vlm, 1), prompt.index(vlm.image_id)
    sampling_params = SamplingParams(TOKENS_PER_MEASUREMENT + 1, ignore_eos=True)
    generator.insert(SequenceState(prompt, features, image_start, sampling_params, 0))
    generator.step()
    first_token = perf_counter()
    while generator.active_sequences:
        generator.step()
    return {
        "vision_seconds": encoded - started,
        "prefill_tokens_per_second": len(prompt) / (first_token - encoded),  # with image tokens
        "first_token_seconds": first_token - started,  # from the photo
        "decode_tokens_per_second": TOKENS_PER_MEASUREMENT / (perf_counter() - first_token),
        "peak_memory_gb": mx.get_peak_memory() / 1e9,  # MLX's, including the base's weights
    }
