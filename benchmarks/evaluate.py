"""Compare generation speed with mlx-vlm: python benchmarks/evaluate.py

This project and mlx-vlm complete the same prompts on the same photos with the same base and
adapter, each in a separate process on all cores: greedy, float32, compared token by token.

- mondrian-tiny: 32 rendered photos, whole critiques
- random base with the real vocabulary (benchmarks/large_base.py): 16 photos of 640x480, 100 tokens
- constrained decoding: share of schema-valid critiques, also at temperature 1 and with the smallest
  token limit; forward passes; cost of a mask

Writes benchmarks/results/evaluate.json.
"""

import sys
import tempfile
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import numpy as np

from benchmarks import large_base
from benchmarks.large_base import LARGE, TINY, TINY_FOLDER
from benchmarks.measurement import ROOT, markdown_table, run_measurement, write_results
from benchmarks.random_adapter import write_random_adapter
from benchmarks.workload import Workload
from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import build_row_messages
from mondrian.model import adapter, lora, vlm
from mondrian.model.batch_generator import mask_logits
from mondrian.model.constrained import CritiqueGrammar, GrammarState
from mondrian.model.language import compute_logits, hidden_states, make_batch
from mondrian.model.vision import extract_features
from mondrian.sample.scene import draw_scene, render

NUM_PHOTOS = {TINY: 32, LARGE: 16}
MAX_TOKENS = {TINY: 700, LARGE: 100}  # per completion
MAX_ROWS = {TINY: 32, LARGE: 16}  # generated at a time
CONSTRAINED_MAX_TOKENS = 700
NUM_SAMPLES = 1000  # critiques at temperature 1
SEED = 99  # of the scenes
TABLE_COLUMNS = (
    "system model mode photographs_per_second forward_passes_per_critique schema_valid "
    "identical_texts critiques rss_gb"
).split()
Result = dict[str, Any]


def write_tiny_workload(folder: Path) -> Workload:
    """Write rendered scenes with the sample's prompt."""
    base = vlm.load(str(TINY_FOLDER))
    messages = build_row_messages("You are Ansel Adams. You use exact words.", "")[:-1]
    ids, grids, pixels = [], [], []
    for i in range(NUM_PHOTOS[TINY]):
        image = resize_to_fit(render(draw_scene(SEED, i)), 4096, 20_480)
        inputs = base.processor.image_processor([image])
        rows, columns = (int(n) for n in np.array(inputs["image_grid_thw"])[0][1:])
        ids.append(base.tokenizer.tokenize_prompt(messages, rows * columns // 4))
        grids.append((rows, columns))
        pixels.append(np.array(inputs["pixel_values"]))
    return _write(folder, str(TINY_FOLDER), ids, grids, pixels)


def write_large_workload(folder: Path) -> Workload:
    """Write random prompts of 1,100 tokens with a common prefix, like those of one advisor."""
    source = folder.parent / "base"
    large_base.write_base(source)
    rows = large_base.make_rows(NUM_PHOTOS[LARGE], shared_prompt=True)
    ids = [row.ids[: row.prompt_length] for row in rows]
    grids = [large_base.GRID] * len(rows)
    return _write(folder, str(source), ids, grids, [row.pixels for row in rows])


def _write(
    folder: Path, base: str, ids: list[list[int]], grids: list[tuple[int, int]], pixels: list[Any]
) -> Workload:
    workload = Workload(folder, base, ids, [len(prompt) for prompt in ids], grids, batches=[])
    workload.write(pixels)
    write_random_adapter(workload.adapter, base)
    return workload


def generate(workload: Workload, num_threads: int, *arguments: object) -> Result:
    """Run benchmarks/systems/completions.py: all prompts by the base, then by the adapter."""
    script = ROOT / "benchmarks/systems/completions.py"
    env = {"OPENBLAS_NUM_THREADS": str(num_threads)}
    return run_measurement(sys.executable, script, workload.folder, *arguments, env=env)


def logit_gaps(workload: Workload, result: Result, other: Result) -> list[float]:
    """Return the gap between the logits of the first two tokens that differ, for each such pair."""
    base, gaps = vlm.load(workload.base), []
    adapter.attach_from_folder(base.model, workload.adapter)
    end_id = base.processor.tokenizer.eos_token_id
    for i, (ids, other_ids) in enumerate(zip(result["ids"], other["ids"], strict=True)):
        if ids == other_ids:
            continue
        row = i % len(workload.ids)
        pairs = enumerate(zip_longest(ids, other_ids, fillvalue=end_id))
        position, pair = next((k, pair) for k, pair in pairs if pair[0] != pair[1])
        photo = (mx.array(workload.pixels(row)), workload.grids[row])
        features = extract_features(base.model.vision_tower, [photo])
        batch = make_batch([[*workload.ids[row], *ids[:position]]], features, base.image_id)
        is_base = i < len(workload.ids)
        with lora.disable_lora(base.model) if is_base else nullcontext():
            logits = compute_logits(base.model, hidden_states(base.model, batch)[:, -1])[0]
        gaps.append(float(abs(np.subtract(*np.array(logits)[list(pair)]))))
    return gaps


def measure_mask_cost(workload: Workload, result: Result) -> tuple[float, float]:
    """Return microseconds per sampled token: to advance the grammar, and to mask the logits."""
    base = vlm.load(workload.base)
    vocabulary_size = base.model.config.text_config.vocab_size
    grammar = CritiqueGrammar(base.processor.tokenizer, vocabulary_size, CONSTRAINED_MAX_TOKENS)
    grammar_seconds, num_tokens, masks = 0.0, 0, []
    for ids in result["ids"][:16]:
        state = GrammarState(grammar)
        position = len(state.forced)
        while position < len(ids):
            started = perf_counter()
            state.accept_token(ids[position])
            grammar_seconds += perf_counter() - started
            num_tokens += 1
            position += 1 + len(state.forced)
        masks.append(state.mask)
    logits = mx.random.normal((len(masks), vocabulary_size))
    mx.eval(logits, mask_logits(logits, masks))
    started = perf_counter()
    for _ in range(10):
        mx.eval(mask_logits(logits, masks))
    mask_seconds = (perf_counter() - started) / 10 / len(masks)
    return 1e6 * grammar_seconds / num_tokens, 1e6 * mask_seconds


def make_result(system: str, model: str, mode: str, result: Result, **extra: Any) -> Result:
    """Return an entry of evaluate.json; two arms completed each prompt."""
    return {
        "system": system,
        "model": model,
        "mode": mode,
        "photographs_per_second": round(len(result["ids"]) / 2 / result["seconds"], 4),
        "forward_passes_per_critique": round(float(np.mean(result["passes"])), 1),
        "schema_valid": round(float(np.mean(result["valid"])), 4),
        "identical_texts": None,
        "tokens_per_critique": round(float(np.mean([len(ids) for ids in result["ids"]])), 1),
        "critiques": len(result["ids"]),
        "rss_gb": round(result["rss_gb"], 3),
        **extra,
    }


def compare(model: str, workload: Workload) -> list[Result]:
    """Return a model's results: both systems unconstrained, then constrained decoding."""
    rows, max_tokens = MAX_ROWS[model], MAX_TOKENS[model]
    theirs = min(
        (generate(workload, threads, "mlx-vlm", "free", max_tokens, 1) for threads in (1, 2)),
        key=lambda result: result["seconds"],
    )
    ours = generate(workload, 1, "mondrian", "free", max_tokens, rows)
    gaps = logit_gaps(workload, ours, theirs)
    num_texts, largest_gap = len(ours["ids"]), max(gaps, default=0.0)
    constrained = generate(workload, 1, "mondrian", "constrained", CONSTRAINED_MAX_TOKENS, rows)
    grammar_us, mask_us = measure_mask_cost(workload, constrained)
    print(
        f"{model}: {len(gaps)} of {num_texts} texts differ, logits within {largest_gap:.1e}; "
        f"mlx-vlm {theirs['seconds']:.1f} s, mondrian {ours['seconds']:.1f} s",
        flush=True,
    )
    parity = {
        "identical_texts": round(1 - len(gaps) / num_texts, 4),
        "largest_logit_gap": largest_gap,
    }
    cost = {"schema_us_a_token": round(grammar_us, 1), "mask_us_a_token": round(mask_us, 1)}
    return [
        make_result("mondrian", model, "free", ours, **parity),
        make_result("mlx-vlm", model, "free", theirs),
        make_result("mondrian", model, "constrained", constrained, **cost),
    ]


def sample_critiques(workload: Workload) -> list[Result]:
    """Return results at temperature 1, half of the critiques with the smallest allowed limit."""
    base = vlm.load(workload.base)
    vocabulary_size = base.model.config.text_config.vocab_size
    grammar = CritiqueGrammar(base.processor.tokenizer, vocabulary_size, CONSTRAINED_MAX_TOKENS)
    copies = -(-NUM_SAMPLES // 4 // len(workload.ids))
    results = []
    for limit in (CONSTRAINED_MAX_TOKENS, grammar.needed_after[0][0]):
        result = generate(workload, 1, "mondrian", "constrained", limit, 32, 1.0, copies)
        results.append(
            make_result("mondrian", TINY, "constrained", result, temperature=1.0, limit=limit)
        )
    return results


def compare_with_goals(results: list[Result]) -> str:
    lines = []
    for model, goal in ((TINY, 4), (LARGE, 2)):
        free, mlx_vlm, constrained = [r for r in results if r["model"] == model][:3]
        ratio = free["photographs_per_second"] / mlx_vlm["photographs_per_second"]
        lines.append(
            f"{model}: {ratio:.1f} times mlx-vlm's photos/s (goal {goal}); a mask costs "
            f"{constrained['schema_us_a_token']} + {constrained['mask_us_a_token']} us per token"
        )
    free_passes, _, passes = (r["forward_passes_per_critique"] for r in results[:3])
    lines.append(f"{TINY}: {passes / free_passes:.2f} of the passes when constrained (goal 0.75)")
    all_constrained = [r for r in results if r["mode"] == "constrained"]
    lines.append(
        f"{sum(r['critiques'] for r in all_constrained)} constrained critiques, schema-valid: "
        f"{min(r['schema_valid'] for r in all_constrained):.4f} (goal 1)"
    )
    return "\n".join(lines)


def main() -> None:
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as tmp_dir:
        for model, write in ((TINY, write_tiny_workload), (LARGE, write_large_workload)):
            folder = Path(tmp_dir) / model
            folder.mkdir()
            workload = write(folder / "workload")
            results += compare(model, workload)
            if model == TINY:
                results += sample_critiques(workload)
    print(markdown_table(results, TABLE_COLUMNS))
    print(compare_with_goals(results))
    write_results("evaluate.json", results)


if __name__ == "__main__":
    main()
