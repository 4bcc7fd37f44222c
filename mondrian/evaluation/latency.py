"""What a critique costs: base and adapter in turn, one photograph at a time, nothing cached."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from statistics import median
from time import perf_counter

import mlx.core as mx
from PIL import Image
from tqdm import tqdm

from mondrian.model import lora
from mondrian.model.batch_generator import BatchGenerator, SamplingParams, SequenceState
from mondrian.model.vlm import Vlm, encode_image

TOKENS_PER_MEASUREMENT = 64  # decoded for a measurement
ROUNDS = 3  # times each photograph is measured, base and adapter in turn

ImagePrompt = tuple[Image.Image, Sequence[int]]  # a photograph as the model sees it, and its prompt


def measure_cost(
    vlm: Vlm, image_prompts: Sequence[ImagePrompt], raw: bool
) -> dict[str, dict[str, float]]:
    """Medians for base and fine_tuned; the adapter is attached.

    see_seconds                the vision tower
    prefill_tokens_per_second  the prompt with its image tokens, and the first token
    first_token_seconds        from the photograph to the first token
    decode_tokens_per_second   the tokens behind it
    peak_memory_gb             10^9 bytes that MLX held at most, the base's weights among them
    """
    measurements: dict[str, list[dict[str, float]]] = {"base": [], "fine_tuned": []}
    turns = [image_prompt for image_prompt in image_prompts for _ in range(ROUNDS)]
    _measure(vlm, *turns[0], raw)  # warm
    for turn in tqdm(turns, "cost", unit="turn", leave=False):
        for arm, measured in measurements.items():
            with lora.disable_lora(vlm.model) if arm == "base" else nullcontext():
                measured.append(_measure(vlm, *turn, raw))
    return {
        arm: {
            name: round(median(one[name] for one in arm_measurements), 5)
            for name in arm_measurements[0]
        }
        for arm, arm_measurements in measurements.items()
    }


def _measure(vlm: Vlm, picture: Image.Image, prompt: Sequence[int], raw: bool) -> dict[str, float]:
    mx.reset_peak_memory()
    started = perf_counter()
    features = encode_image(vlm, picture, raw)
    looked = perf_counter()
    decoder, sampling_params = (
        BatchGenerator(vlm, 1),
        SamplingParams(TOKENS_PER_MEASUREMENT + 1, ignore_eos=True),
    )
    decoder.insert(SequenceState(prompt, features, prompt.index(vlm.image_id), sampling_params, 0))
    decoder.step()
    first = perf_counter()
    while decoder.active_sequences:
        decoder.step()
    return {
        "see_seconds": looked - started,
        "prefill_tokens_per_second": len(prompt) / (first - looked),
        "first_token_seconds": first - started,
        "decode_tokens_per_second": TOKENS_PER_MEASUREMENT / (perf_counter() - first),
        "peak_memory_gb": mx.get_peak_memory() / 1e9,
    }
