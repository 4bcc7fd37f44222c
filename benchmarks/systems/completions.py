"""Generate completions by base and adapter for a workload of benchmarks/evaluate.py.

completions.py FOLDER mondrian free|constrained MAX_TOKENS ROWS [TEMPERATURE COPIES]
completions.py FOLDER mlx-vlm free MAX_TOKENS ROWS

mlx-vlm runs with this project's BLAS, malloc and LoRA layers, so that only generation differs.
Prints one line of JSON.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[2]))

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx

from benchmarks.measurement import peak_rss_gb, print_result
from benchmarks.workload import Workload
from mondrian.critique.schema import is_schema_valid
from mondrian.model import adapter, lora, vlm
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.generate import generate
from mondrian.model.vision import extract_features

Completion = tuple[list[int], str, int]  # token ids, text, forward passes


def generate_in_batches(
    base: vlm.Vlm, workload: Workload, sampling_params: SamplingParams, copies: int
) -> Iterator[Completion]:
    """Run this project: one tower pass per photo, one prefix per arm."""
    features = [
        extract_features(base.model.vision_tower, [(mx.array(workload.pixels(row)), grid)])[0]
        for row, grid in enumerate(workload.grids)
    ]
    for arm in ("base", "adapter"):
        with use_arm(base, arm):
            for completion in generate(
                base, workload.ids * copies, features * copies, sampling_params
            ):
                yield list(completion.ids), completion.text, completion.passes


def generate_with_mlx_vlm(
    base: vlm.Vlm, workload: Workload, max_tokens: int
) -> Iterator[Completion]:
    """Run mlx_vlm.stream_generate, which mlx_vlm.generate joins: it yields the token ids too."""
    from mlx_vlm import stream_generate

    for arm in ("base", "adapter"):
        with use_arm(base, arm):
            for row, (prompt_ids, grid) in enumerate(
                zip(workload.ids, workload.grids, strict=True)
            ):
                chunks = stream_generate(
                    base.model,
                    base.processor,
                    "",
                    input_ids=mx.array([prompt_ids]),
                    pixel_values=mx.array(workload.pixels(row)),
                    mask=None,
                    image_grid_thw=mx.array([[1, *grid]]),
                    max_tokens=max_tokens,
                    temperature=0.0,
                )
                ids = [int(c.token) for c in chunks if c.token is not None]
                ids = ids[: next((i for i, t in enumerate(ids) if t in base.end_ids), max_tokens)]
                text = str(base.processor.tokenizer.decode(ids, skip_special_tokens=True))
                yield ids, text, len(ids) + (len(ids) < max_tokens)


@contextmanager
def use_arm(base: vlm.Vlm, arm: str) -> Iterator[None]:
    if arm == "adapter":
        yield
    else:
        with lora.disable_lora(base.model):
            yield


def main() -> None:
    folder, system, mode, *numbers = sys.argv[1:]
    max_tokens, max_rows = map(int, numbers[:2])
    temperature, copies = (float(numbers[2]), int(numbers[3])) if numbers[2:] else (0.0, 1)
    workload = Workload.read(Path(folder))
    base = vlm.load(workload.base)
    adapter.attach_from_folder(base.model, workload.adapter)
    mx.eval(base.model.parameters())
    grammar = None
    if mode == "constrained":
        vocabulary_size = base.model.config.text_config.vocab_size
        grammar = CritiqueGrammar(base.processor.tokenizer, vocabulary_size, max_tokens)
    sampling_params = SamplingParams(max_tokens, max_rows, grammar, temperature)
    started = perf_counter()
    if system == "mondrian":
        completions = list(generate_in_batches(base, workload, sampling_params, copies))
    else:
        completions = list(generate_with_mlx_vlm(base, workload, max_tokens))
    seconds = perf_counter() - started
    print_result(
        seconds=seconds,
        ids=[ids for ids, _, _ in completions],
        passes=[passes for _, _, passes in completions],
        valid=[is_schema_valid(text) for _, text, _ in completions],
        rss_gb=peak_rss_gb(),
    )


if __name__ == "__main__":
    main()
