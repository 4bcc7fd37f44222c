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
from mondrian.model.batch_generator import Decoder, How, Row
from mondrian.model.vlm import Vlm, encode

TOKENS = 64  # decoded for a measurement
ROUNDS = 3  # times each photograph is measured, base and adapter in turn

Asked = tuple[Image.Image, Sequence[int]]  # a photograph as the model sees it, and its prompt


def cost(vlm: Vlm, asked: Sequence[Asked], raw: bool) -> dict[str, dict[str, float]]:
    """Medians for base and fine_tuned; the adapter is attached.

    see_seconds                the vision tower
    prefill_tokens_per_second  the prompt with its image tokens, and the first token
    first_token_seconds        from the photograph to the first token
    decode_tokens_per_second   the tokens behind it
    peak_memory_gb             10^9 bytes that MLX held at most, the base's weights among them
    """
    found: dict[str, list[dict[str, float]]] = {"base": [], "fine_tuned": []}
    turns = [one for one in asked for _ in range(ROUNDS)]
    _measure(vlm, *turns[0], raw)  # warm
    for one in tqdm(turns, "cost", unit="turn", leave=False):
        for arm, measured in found.items():
            with lora.detached(vlm.model) if arm == "base" else nullcontext():
                measured.append(_measure(vlm, *one, raw))
    return {
        arm: {name: round(median(one[name] for one in told), 5) for name in told[0]}
        for arm, told in found.items()
    }


def _measure(vlm: Vlm, picture: Image.Image, prompt: Sequence[int], raw: bool) -> dict[str, float]:
    mx.reset_peak_memory()
    started = perf_counter()
    seen = encode(vlm, picture, raw)
    looked = perf_counter()
    decoder, how = Decoder(vlm, 1), How(TOKENS + 1, through_ends=True)
    decoder.admit(Row(prompt, seen, prompt.index(vlm.image_id), how, 0))
    decoder.step()
    first = perf_counter()
    while decoder.live:
        decoder.step()
    return {
        "see_seconds": looked - started,
        "prefill_tokens_per_second": len(prompt) / (first - looked),
        "first_token_seconds": first - started,
        "decode_tokens_per_second": TOKENS / (perf_counter() - first),
        "peak_memory_gb": mx.get_peak_memory() / 1e9,
    }
