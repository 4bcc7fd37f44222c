"""Time critiques by batch size: generation.py FOLDER TOKENS BATCH_SIZE...

The adapter of a workload completes the prompts of its rows with TOKENS tokens each: free, up to the
last of them even after an end token, and constrained to the schema. Prints a line for each.
"""

import sys
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[2]))

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx

from benchmarks.measurement import print_result
from benchmarks.workload import Workload
from mondrian.critique.schema import is_schema_valid
from mondrian.model import adapter, vlm
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.generate import generate
from mondrian.model.language import Features
from mondrian.model.vision import extract_features


def run(
    base: vlm.Vlm, workload: Workload, features: list[Features], sampling_params: SamplingParams
) -> dict[str, float]:
    """Complete one batch of prompts."""
    rows = [row % len(workload.ids) for row in range(sampling_params.max_sequences)]
    prompts = [workload.ids[row][: workload.prompt_lengths[row]] for row in rows]
    started = perf_counter()
    completions = generate(base, prompts, [features[row] for row in rows], sampling_params)
    seconds = perf_counter() - started
    num_tokens = sum(completion.num_tokens for completion in completions)
    return {
        "critiques_per_second": round(len(rows) / seconds, 3),
        "tokens_per_second": round(num_tokens / seconds, 1),
        "tokens_per_critique": round(num_tokens / len(rows), 1),
        "schema_valid": sum(is_schema_valid(c.text) for c in completions) / len(rows),
    }


def main() -> None:
    workload, max_tokens = Workload.read(Path(sys.argv[1])), int(sys.argv[2])
    base = vlm.load(workload.base)
    adapter.attach_from_folder(base.model, workload.adapter)
    photos = [(mx.array(workload.pixels(row)), grid) for row, grid in enumerate(workload.grids)]
    features = [extract_features(base.model.vision_tower, [photo])[0] for photo in photos]
    vocabulary_size = base.model.config.text_config.vocab_size
    shortest = CritiqueGrammar(base.processor.tokenizer, vocabulary_size, 2**15).needed_after[0][0]
    max_tokens = max(max_tokens, shortest)
    grammar = CritiqueGrammar(base.processor.tokenizer, vocabulary_size, max_tokens)
    run(base, workload, features, SamplingParams(8, 2, ignore_eos=True))  # compiles kernels
    for size in map(int, sys.argv[3:]):
        free = run(base, workload, features, SamplingParams(max_tokens, size, ignore_eos=True))
        print_result(mode="free", batch=size, **free | {"schema_valid": None})
        constrained = run(base, workload, features, SamplingParams(max_tokens, size, grammar))
        print_result(mode="constrained", batch=size, **constrained)


if __name__ == "__main__":
    main()
