"""Base and adapter in turns as the model process holds them, one answer at a time, in a process.

arms.py PARAMS ADAPTER merged|beside ROUNDS TURNS STEPS

Each round begins an answer by each arm; in each turn each arm makes STEPS steps, now one first, now
the other, then both make them once more step by step in alternation. Nothing ends an answer, and no
schema holds it. Prints one line of JSON.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import mondrian.model  # noqa: E402,F401  # isort: skip  (before mlx)
import mlx.core as mx  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from mondrian.core.images import resize_to_fit  # noqa: E402
from mondrian.core.params import Params, load_params  # noqa: E402
from mondrian.critique.prompt import prompt_hash, row_messages  # noqa: E402
from mondrian.model import vlm  # noqa: E402
from mondrian.model.batch_generator import BatchGenerator, SamplingParams, SequenceState  # noqa: E402
from mondrian.sample.scene import draw_scene, render  # noqa: E402
from mondrian.serving.engines.ipc import BASE_ARM, AdapterLoadResult, LoadAdapterRequest  # noqa: E402
from mondrian.serving.worker.adapters import AdapterRegistry, Arm  # noqa: E402


class Prompt:
    """One photograph under one advisor's prompt."""

    def __init__(self, arms: AdapterRegistry, params: Params, persona: str) -> None:
        self.arms = arms
        image = params.image
        picture = resize_to_fit(render(draw_scene(1, 1)), image.min_pixels, image.max_pixels)
        self.seen = vlm.encode_image(arms.base, picture)
        self.ids = vlm.prompt_ids(arms.base, row_messages(persona, "")[:-1], self.seen)
        self.image = self.ids.index(arms.base.image_id)

    def begin(self, arm: Arm) -> BatchGenerator:
        """An answer that has its first token."""
        row = SequenceState(self.ids, self.seen, self.image, self.arms.sampling_params, 0)
        row.arm = arm
        decoder = self.arms.decoder(arm, 1)
        decoder.insert(row, self.arms.prefix(arm, self.ids, self.image)[0])
        decoder.step()
        return decoder


def timed(decoders: list[BatchGenerator], steps: int) -> float:
    """Seconds that so many steps of each take, in turn."""
    started = perf_counter()
    for _ in range(steps):
        for decoder in decoders:
            decoder.step()
    return perf_counter() - started


def turn(
    base: BatchGenerator, other: BatchGenerator, steps: int, swapped: bool
) -> tuple[float, float, float]:
    """Seconds of base, of the other, and of both in alternation."""
    if swapped:
        second, first = timed([other], steps), timed([base], steps)
    else:
        first, second = timed([base], steps), timed([other], steps)
    return first, second, timed([base, other], steps)


def adopted(
    arms: AdapterRegistry, params: Params, folder: Path, merge: bool
) -> tuple[AdapterLoadResult, int]:
    """The adapter in place, and by how much memory grew."""
    advisor = json.loads((folder / "recipe.json").read_text())["advisor"]
    image = {"min_pixels": params.image.min_pixels, "max_pixels": params.image.max_pixels}
    asked = LoadAdapterRequest(
        advisor, str(folder), merge, prompt_hash(params.persona(advisor)), image, advisor
    )
    before = mx.get_active_memory()
    said = arms.load_and_verify(asked)
    if said.fault or said.merged != merge:
        raise SystemExit(said.fault or f"{folder} was not merged: too little memory is left")
    gc.collect()
    return said, mx.get_active_memory() - before


def main() -> None:
    file, folder, how, *numbers = sys.argv[1:]
    rounds, turns, steps = map(int, numbers)
    params = load_params(Path(file))
    limit = 4 * turns * steps + 8
    image = (params.image.min_pixels, params.image.max_pixels)
    arms = AdapterRegistry(
        vlm.load(params.base.source), SamplingParams(limit, ignore_eos=True), image
    )
    said, taken = adopted(arms, params, Path(folder), how == "merged")
    prompt = Prompt(arms, params, params.persona(said.name))
    times = []
    for _ in range(rounds):
        both = prompt.begin(arms.arm_by_name[BASE_ARM]), prompt.begin(arms.arm_by_name[said.name])
        times += [turn(*both, steps, bool(i % 2)) for i in range(turns)]
    base, other = (median(t[i] for t in times) / steps for i in (0, 1))
    tensors = load_file(Path(folder) / "adapter_model.safetensors").values()
    told = {
        "base_tokens_per_second": 1 / base,
        "adapter_tokens_per_second": 1 / other,
        "overhead": median(t[1] / t[0] for t in times) - 1,
        "swap_ms": 1000 * max(0.0, median(t[2] - t[1] - t[0] for t in times) / (2 * steps)),
        "prompt_tokens": len(prompt.ids),
        "told_bytes": said.bytes,
        "taken_bytes": taken,
        "file_bytes": sum(value.nbytes for value in tensors),
    }
    sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
