"""Compare decoding speed of base and adapter in the model process, one sequence at a time.

adapter_overhead.py PARAMS ADAPTER merged|unmerged ROUNDS TURNS STEPS

Each round starts a sequence per arm. In each turn, each arm decodes STEPS tokens in a row, in an
order that changes from turn to turn; then both decode STEPS tokens alternately, which adds the cost
of switching. No sequence ends, and decoding is unconstrained. Prints one line of JSON.
"""

import gc
import json
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[2]))

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
from safetensors.numpy import load_file

from benchmarks.measurement import print_result
from mondrian.core.images import resize_to_fit
from mondrian.core.params import Params, load_params
from mondrian.critique.prompt import build_row_messages, prompt_hash
from mondrian.model import vlm
from mondrian.model.batch_generator import BatchGenerator, SamplingParams, SequenceState
from mondrian.sample.scene import draw_scene, render
from mondrian.serving.engines.base import Adapter
from mondrian.serving.engines.ipc import BASE_ARM, LoadAdapterRequest
from mondrian.serving.worker.adapters import AdapterRegistry, Arm


class Prompt:
    """One photo with one advisor's prompt."""

    def __init__(self, registry: AdapterRegistry, params: Params, persona: str) -> None:
        self.registry = registry
        bounds = params.image
        image = resize_to_fit(render(draw_scene(1, 1)), bounds.min_pixels, bounds.max_pixels)
        self.features = vlm.encode_image(registry.base, image)
        messages = build_row_messages(persona, "")[:-1]
        self.ids = vlm.tokenize_prompt(registry.base, messages, self.features)
        self.image_start = self.ids.index(registry.base.image_id)

    def start_sequence(self, arm: Arm) -> BatchGenerator:
        """Return a decoder whose sequence has its first token."""
        sequence = SequenceState(
            self.ids, self.features, self.image_start, self.registry.sampling_params, 0
        )
        sequence.arm = arm
        decoder = self.registry.create_generator(arm, 1)
        decoder.insert(sequence, self.registry.get_prefix(arm, self.ids[: self.image_start])[0])
        decoder.step()
        return decoder


def time_steps(decoders: list[BatchGenerator], steps: int) -> float:
    """Return the seconds for some steps of each decoder, alternately."""
    started = perf_counter()
    for _ in range(steps):
        for decoder in decoders:
            decoder.step()
    return perf_counter() - started


def time_turn(
    base: BatchGenerator, adapter: BatchGenerator, steps: int, adapter_first: bool
) -> tuple[float, float, float]:
    """Return the seconds of the base, of the adapter, and of both alternately."""
    if adapter_first:
        adapter_seconds, base_seconds = time_steps([adapter], steps), time_steps([base], steps)
    else:
        base_seconds, adapter_seconds = time_steps([base], steps), time_steps([adapter], steps)
    return base_seconds, adapter_seconds, time_steps([base, adapter], steps)


def load_adapter(
    registry: AdapterRegistry, params: Params, folder: Path, merge: bool
) -> tuple[Adapter, int]:
    """Load an adapter; return the result and the bytes by which MLX's memory grew."""
    advisor = json.loads((folder / "recipe.json").read_text())["advisor"]
    bounds = {"min_pixels": params.image.min_pixels, "max_pixels": params.image.max_pixels}
    request = LoadAdapterRequest(
        advisor, str(folder), merge, prompt_hash(params.persona(advisor)), bounds, advisor
    )
    before = mx.get_active_memory()
    result = registry.load_and_verify(request)
    if result.fault or result.merged != merge:
        raise SystemExit(result.fault or f"{folder} was not merged: not enough memory is left")
    gc.collect()
    return result, mx.get_active_memory() - before


def main() -> None:
    params_file, folder, mode, *numbers = sys.argv[1:]
    rounds, turns, steps = map(int, numbers)
    params = load_params(Path(params_file))
    sampling_params = SamplingParams(4 * turns * steps + 8, ignore_eos=True)
    bounds = (params.image.min_pixels, params.image.max_pixels)
    registry = AdapterRegistry(vlm.load(params.base.source), sampling_params, bounds)
    adapter, allocated_bytes = load_adapter(registry, params, Path(folder), mode == "merged")
    prompt = Prompt(registry, params, params.persona(adapter.name))
    times = []
    for _ in range(rounds):
        base_decoder = prompt.start_sequence(registry.arm_by_name[BASE_ARM])
        adapter_decoder = prompt.start_sequence(registry.arm_by_name[adapter.name])
        times += [
            time_turn(base_decoder, adapter_decoder, steps, bool(i % 2)) for i in range(turns)
        ]
    tensors = load_file(Path(folder) / "adapter_model.safetensors").values()
    print_result(
        base_tokens_per_second=steps / median(base for base, _, _ in times),
        adapter_tokens_per_second=steps / median(adapted for _, adapted, _ in times),
        overhead=median(adapted / base for base, adapted, _ in times) - 1,
        swap_ms=1000 * max(0.0, median(both - a - b for a, b, both in times) / (2 * steps)),
        reported_bytes=adapter.bytes,
        allocated_bytes=allocated_bytes,
        file_bytes=sum(tensor.nbytes for tensor in tensors),
    )


if __name__ == "__main__":
    main()
