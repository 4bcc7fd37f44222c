"""Compare scores by greedy decoding in 16 bit and in float32: python benchmarks/score_bias.py

Needs adapters on the sample (`dvc repro train` first; one advisor suffices). Critiques of the val
photos are generated as a GPU would in float16 and in bfloat16 (MONDRIAN_DEVICE), and in float32 as
on a CPU, each in a process of its own: about five minutes an advisor. Scores of a critique that
differs before them are compared too. Prints a table.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measurement import ROOT, markdown_table, print_result, run_measurement
from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import run_command
from mondrian.core.params import load_params
from mondrian.critique.rows import read_rows
from mondrian.critique.schema import validate_critique
from mondrian.evaluation.prompts import build_eval_prompts
from mondrian.model import adapter, vlm
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.generate import generate
from mondrian.model.vision_cache import FeatureCache

DEVICES = ("", "gpu-float16", "gpu-bfloat16")  # "" for float32
COLUMNS = ("type", "scores", "bias", "changed", "lower", "higher", "equal texts", "critiques")
BATCH_SIZE = 8


def generate_critiques(advisor_index: int) -> list[str]:
    """Return a critique of each val photo by the adapter of an advisor, constrained and greedy."""
    params = load_params(ROOT / "params.yaml")
    flags = read_stage_flags("train", ["val_data", "output_dir"], params)
    if not 0 <= advisor_index < len(flags):
        raise SystemExit(f"error: --advisor_index {advisor_index}; it may be 0 to {len(flags) - 1}")
    val_file, folder = flags[advisor_index]
    base = vlm.load(params.base.source)
    features = FeatureCache(base, None, 0)
    prompts = build_eval_prompts(features, read_rows(val_file), [], 0)["fine_tuned"]
    token_ids, photo_features = [p.token_ids for p in prompts], [p.features for p in prompts]
    adapter.load_and_verify(base, folder, token_ids[0], photo_features[0])
    limit = params.evaluate.max_new_tokens
    vocabulary_size = base.model.config.text_config.vocab_size
    grammar = CritiqueGrammar(base.processor.tokenizer, vocabulary_size, limit)
    sampling_params = SamplingParams(limit, BATCH_SIZE, grammar)
    return [g.text for g in generate(base, token_ids, photo_features, sampling_params)]


def compare(name: str, texts: Sequence[str], float32_texts: Sequence[str]) -> dict[str, Any]:
    differences = [
        score - expected
        for text, float32_text in zip(texts, float32_texts, strict=True)
        for score, expected in zip(scores_of(text), scores_of(float32_text), strict=True)
    ]
    return {
        "type": name,
        "scores": len(differences),
        "bias": f"{mean(differences):+.4f}",
        "changed": sum(d != 0 for d in differences),
        "lower": sum(d < 0 for d in differences),
        "higher": sum(d > 0 for d in differences),
        "equal texts": sum(a == b for a, b in zip(texts, float32_texts, strict=True)),
        "critiques": len(texts),
    }


def scores_of(text: str) -> tuple[float, ...]:
    return validate_critique(text).scores()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--advisor_index", type=int, help="generate only, for this advisor")
    args = parser.parse_args()
    if args.advisor_index is not None:
        print_result(texts=generate_critiques(args.advisor_index))
        return
    params = load_params(ROOT / "params.yaml")
    folders = [flags[0] for flags in read_stage_flags("train", ["output_dir"], params)]
    trained = [i for i, folder in enumerate(folders) if folder.is_dir()]
    if not trained:
        raise SystemExit("error: no adapter of the sample; run: dvc repro train")
    texts: dict[str, list[str]] = {device: [] for device in DEVICES}
    for device in DEVICES:
        for i in trained:
            command = (sys.executable, __file__, "--advisor_index", i)
            texts[device] += run_measurement(*command, env={"MONDRIAN_DEVICE": device})["texts"]
    rows = [compare(device, texts[device], texts[""]) for device in DEVICES[1:]]
    print(markdown_table(rows, COLUMNS))


if __name__ == "__main__":
    run_command(main)
