"""Rehearse a Qwen3-VL-4B of true shape with random weights: python benchmarks/full_size.py

Builds it in 4 bits with Qwen3's own tokenizer (npm), then plans and trains two steps with the stage
script, counts tokens, compares the adapter's tensors with torch PEFT's (--torch PYTHON), its logits
with mlx-vlm's forward, and base with adapter. Each step is a process of its own. --layers 4 is a
short form of a quarter of the width. Writes benchmarks/results/full_size.json.
"""

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measurement import (
    ROOT,
    peak_rss_gb,
    print_result,
    run_measurement,
    write_results,
)
from mondrian.core.errors import run_command

Result = dict[str, Any]
LAYERS, SHORT_NARROWING = 36, 4
NUM_SAMPLES, NUM_CONSTRAINED, NUM_NEW_TOKENS = 81, 20, 10
TIMEOUT = 7200  # seconds of a step
STAGE = ROOT / "stages/train.py"


def build(folder: Path, layers: int) -> Result:
    """Write base, rows and parameters; return sizes."""
    from benchmarks import full_size_rows as rows
    from benchmarks.random_base import fetch_tokenizer, write_full_base
    from mondrian.model.architecture import read_architecture

    tokenizer = fetch_tokenizer(folder)
    base = folder / "base"
    write_full_base(
        base, layers, tokenizer=tokenizer, narrowing=1 if layers == LAYERS else SHORT_NARROWING
    )
    rows.write_rows(folder / "real", rows.real_length_critiques(3), rows.REAL_SIZE)
    rows.write_rows(folder / "short", rows.short_critiques(3), rows.SHORT_SIZE)
    rows.write_params(folder / "params.yaml", base)
    architecture = read_architecture(str(base))
    return {
        "tokenizer": "Qwen3's" if tokenizer else "mondrian-tiny's, filled up",
        "weights": architecture.num_weights(),
        "disk_gb": sum(file.stat().st_size for file in base.iterdir()) / 1e9,
    }


def count_tokens(folder: Path, _: int) -> Result:
    """Count tokens of prompts and critiques, and the context of a row."""
    from benchmarks import full_size_rows as rows
    from mondrian.critique.prompt import build_row_messages
    from mondrian.critique.schema import serialize_critique
    from mondrian.model.architecture import read_architecture
    from mondrian.model.tokenizer import load_tokenizer

    config = json.loads((folder / "base/config.json").read_text())
    image_id = read_architecture(str(folder / "base")).image_id
    tokenizer = load_tokenizer(folder / "base", image_id)
    messages = build_row_messages(rows.persona(), "")[:-1]
    lengths = {}
    for name, critiques in (
        ("sample", rows.sample_critiques(NUM_SAMPLES)),
        ("real_length", rows.real_length_critiques(NUM_SAMPLES)),
    ):
        texts = [serialize_critique(critique) for critique in critiques]
        tokens = [len(tokenizer.tokenize_completion(text)[0]) for text in texts]
        lengths[f"{name}_characters"] = statistics.median(map(len, texts))
        lengths[f"{name}_tokens"] = statistics.median(tokens)
    return lengths | {
        "prompt_tokens_768": len(tokenizer.tokenize_prompt(messages, 768)),
        "context": config["text_config"]["max_position_embeddings"],
    }


def decode_constrained(folder: Path, layers: int) -> Result:
    """Sample critiques from random logits that only the grammar limits."""
    import numpy as np

    from mondrian.core.params import load_params
    from mondrian.critique.schema import is_schema_valid
    from mondrian.model.architecture import read_architecture
    from mondrian.model.constrained import CritiqueGrammar, GrammarState
    from mondrian.model.tokenizer import ChatTokenizer, load_tokenizer

    base = read_architecture(str(folder / "base"))
    tokenizer = load_tokenizer(folder / "base", base.image_id)
    assert isinstance(tokenizer, ChatTokenizer)
    max_tokens = load_params(folder / "params.yaml").evaluate.max_new_tokens
    grammar = CritiqueGrammar(tokenizer.tokenizer, base.vocabulary, max_tokens)
    count = NUM_CONSTRAINED if layers == LAYERS else NUM_CONSTRAINED // 5
    lengths, num_valid = [], 0
    for seed in range(count):
        rng, state = np.random.default_rng(seed), GrammarState(grammar)
        ids = list(state.forced)
        while not state.ended and len(ids) <= max_tokens:
            bits = np.unpackbits(state.mask.view(np.uint8), bitorder="little")
            allowed = np.flatnonzero(bits)
            token = int(allowed[rng.integers(len(allowed))])
            state.accept_token(token)
            ids += [token, *state.forced]
        lengths.append(len(ids))
        num_valid += is_schema_valid(tokenizer.tokenizer.decode(ids, skip_special_tokens=True))
    return {
        "critiques": count,
        "schema_valid": num_valid,
        "longest_tokens": max(lengths),
        "max_new_tokens": max_tokens,
    }


def compare_answers(folder: Path, _: int) -> Result:
    """Compare logits with mlx-vlm's forward, and the base's first tokens with the adapter's."""
    import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
    import mlx.core as mx
    import numpy as np

    from mondrian.core.images import read_photo
    from mondrian.critique.rows import read_rows
    from mondrian.model import adapter, vlm
    from mondrian.model.batch_generator import SamplingParams
    from mondrian.model.generate import generate
    from mondrian.model.language import compute_logits, hidden_states, make_batch

    base = vlm.load(str(folder / "base"))
    row = read_rows(folder / "short/val.json")[0]
    photo = read_photo(Path(row.images[0]))
    features = vlm.encode_image(base, photo)
    prompt = vlm.tokenize_prompt(base, row.messages[:-1], features)
    batch = make_batch([prompt], [features], base.image_id)
    ours = compute_logits(base.model, hidden_states(base.model, batch))
    pixels = base.processor.image_processor([photo])
    patches, grid = (np.array(pixels[name]) for name in ("pixel_values", "image_grid_thw"))
    mx.eval(ours)
    theirs = base.model(mx.array([prompt]), mx.array(patches), image_grid_thw=mx.array(grid)).logits
    difference = float(mx.abs(ours - theirs).max())
    sampling_params = SamplingParams(NUM_NEW_TOKENS, ignore_eos=True)
    base_ids = generate(base, [prompt], [features], sampling_params)[0].ids
    adapter.load(base.model, base.hash, folder / "adapter")
    adapter_ids = generate(base, [prompt], [features], sampling_params)[0].ids
    return {
        "prompt_tokens": len(prompt),
        "largest_logit": float(mx.abs(ours).max()),
        "largest_difference_from_mlx_vlm": difference,
        "base_tokens": list(base_ids),
        "adapter_tokens": list(adapter_ids),
        "peak_memory_gb": mx.get_peak_memory() / 1e9,
    }


STEPS: dict[str, Callable[[Path, int], Result]] = {
    "build": build,
    "count_tokens": count_tokens,
    "decode_constrained": decode_constrained,
    "compare_answers": compare_answers,
}


def run_step(name: str, folder: Path, layers: int) -> Result:
    """Run a step in a process of its own; return its result, seconds and peak memory."""
    return run_measurement(
        sys.executable, __file__, "--layers", layers, "--step", name, folder, timeout=TIMEOUT
    )


def run_stage(folder: Path, rows: str, *flags: object) -> tuple[str, float, float]:
    """Run stages/train.py on rows; return its output, seconds and CPU seconds."""
    data = ["--train_data", folder / rows / "train.json", "--val_data", folder / rows / "val.json"]
    output = ["--output_dir", folder / "adapter", "--metrics", folder / "metrics/train.json"]
    command = [sys.executable, STAGE, *data, *output, "--params", folder / "params.yaml"]
    command += ["--cache_dir", folder / "cache", *flags]
    started, before = perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{STAGE}: {done.stderr[-3000:]}")
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, perf_counter() - started, cpu_seconds


def plan(folder: Path, rows: str) -> Result:
    """Return what `stages/train.py --plan` prints about memory and time."""
    text, _, _ = run_stage(folder, rows, "--plan", "--memory_gb", 1000)
    patterns = {"peak_gb": r"peak memory +([\d.]+) GB", "longest_row": r"longest row ([\d,]+)"}
    values = {name: _find(pattern, text) for name, pattern in patterns.items()}
    duration = re.search(r"time +about (.+)", text)
    return values | {"time": duration[1] if duration else ""}


def _find(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"{STAGE} --plan has no {pattern}: {text}")
    return float(match[1].replace(",", ""))


def train(folder: Path) -> Result:
    """Train two steps and validate; return planned and measured peak, and time."""
    planned = plan(folder, "short")
    _, seconds, cpu_seconds = run_stage(folder, "short")
    metrics = json.loads((folder / "metrics/train.json").read_text())
    timing = json.loads((folder / "metrics/train_timing.json").read_text())
    return {
        "row_tokens": int(planned["longest_row"]),
        "steps": metrics["steps"],
        "planned_peak_gb": planned["peak_gb"],
        "peak_gb": timing["peak_memory_gb"],
        "planned_time": planned["time"],
        "training_seconds": timing["seconds"],
        "stage_seconds": round(seconds, 1),
        "stage_cpu_seconds": round(cpu_seconds, 1),
    }


def compare_with_peft(folder: Path, torch: str) -> Result:
    """Compare the adapter's tensor names and shapes with PEFT's on torch's meta device."""
    file = folder / "adapter/adapter_model.safetensors"
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(size))
    shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    counts = {
        "tensors": len(shapes),
        "weights": sum(rows * columns for rows, columns in shapes.values()),
    }
    if not torch:
        return counts
    script = ROOT / "benchmarks/systems/peft_shapes.py"
    peft = run_measurement(torch, script, folder / "base", folder / "adapter")["shapes"]
    return counts | {"peft_tensors": len(peft), "equal_to_peft": peft == shapes}


def rehearse(folder: Path, layers: int, torch: str = "") -> dict[str, Result]:
    """Run all steps in a folder; print a line for each."""
    results: dict[str, Result] = {}

    def record(name: str, result: Result) -> None:
        results[name] = result
        print(f"{name}: {_describe(result)}", flush=True)

    record("build", run_step("build", folder, layers))
    record("count_tokens", run_step("count_tokens", folder, layers))
    record("decode_constrained", run_step("decode_constrained", folder, layers))
    record("plan_real_length", plan(folder, "real"))
    record("train", train(folder))
    record("compare_with_peft", compare_with_peft(folder, torch))
    record("compare_answers", run_step("compare_answers", folder, layers))
    return results


def _describe(result: Result) -> str:
    values = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in result.items()}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Rehearse a random Qwen3-VL-4B of true shape.")
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer for a short form")
    parser.add_argument("--torch", default="", help="python of an environment with torch and PEFT")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("folder", type=Path, nargs="?", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not 1 <= args.layers <= LAYERS:
        parser.error(f"--layers is {args.layers}; it must be from 1 to {LAYERS}")
    if args.torch and not shutil.which(args.torch):
        parser.error(f"--torch {args.torch} cannot be run; name the python of an environment")
    return args


def main() -> None:
    args = parse_args()
    if args.step:
        started = perf_counter()
        result = STEPS[args.step](args.folder, args.layers)
        usage = {"seconds": perf_counter() - started, "cpu_seconds": process_time()}
        print_result(**result, **usage, process_gb=peak_rss_gb())
        return
    with tempfile.TemporaryDirectory() as tmp_dir:
        results = rehearse(Path(tmp_dir), args.layers, args.torch)
    if args.layers == LAYERS:
        write_results("full_size.json", {"cores": os.cpu_count(), **results})


if __name__ == "__main__":
    run_command(main)
