"""Answering side by side: python benchmarks/evaluate.py

This project and mlx-vlm answer the same prompts about the same photographs, base and adapter, each
in a process of its own on all cores: greedy, float32, token for token. On mondrian-tiny 32 rendered
photographs and whole critiques; on a random base with the real vocabulary
(benchmarks/large_base.py) 16 photographs of 640x480 and 100 tokens. Then critiques held to the
schema: how many comply, at temperature 1 and where they are cut, in how many passes, and what a
mask costs. Writes benchmarks/results/evaluate.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import mondrian.model  # noqa: E402,F401  # isort: skip  (before mlx)
import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import large_base  # noqa: E402
from benchmarks.first_adapter import write_adapter  # noqa: E402
from benchmarks.job import Job  # noqa: E402
from mondrian.core.images import resize_to_fit  # noqa: E402
from mondrian.critique.prompt import row_messages  # noqa: E402
from mondrian.model import adapter, lora, vlm  # noqa: E402
from mondrian.model.batch_generator import mask_logits  # noqa: E402
from mondrian.model.constrained import CritiqueGrammar  # noqa: E402
from mondrian.model.language import compute_logits, hidden_states, make_batch  # noqa: E402
from mondrian.model.vision import extract_features  # noqa: E402
from mondrian.sample.scene import draw_scene, render  # noqa: E402

LARGE, TINY = "large-vocabulary", "mondrian-tiny"
PHOTOGRAPHS = {TINY: 32, LARGE: 16}
LIMIT = {TINY: 700, LARGE: 100}  # tokens of an answer
ROWS = {TINY: 32, LARGE: 16}
HELD_LIMIT = 700  # of answers held to the schema
DRAWN = 1000  # critiques at temperature 1
SEED = 99  # of the scenes
Told = dict[str, Any]


def write_tiny(folder: Path) -> Job:
    """Rendered scenes under the sample's prompt."""
    source = str(ROOT / "models/base/mondrian-tiny")
    base = vlm.load(source)
    messages = row_messages("You are Ansel Adams. You use exact words.", "")[:-1]
    ids, grids, pixels = [], [], []
    for i in range(PHOTOGRAPHS[TINY]):
        picture = resize_to_fit(render(draw_scene(SEED, i)), 4096, 20_480)
        seen = base.processor.image_processor([picture])
        rows, columns = (int(n) for n in np.array(seen["image_grid_thw"])[0][1:])
        ids.append(base.tokens.prompt(messages, rows * columns // 4))
        grids.append((rows, columns))
        pixels.append(np.array(seen["pixel_values"]))
    return _write(folder, source, ids, grids, pixels)


def write_large(folder: Path) -> Job:
    """Random prompts of 1,100 tokens that begin alike, as those of one advisor do."""
    large_base.write_base(folder.parent / "base")
    rows = large_base.rows(PHOTOGRAPHS[LARGE], shared_prompt=True)
    ids = [row.ids[: row.start] for row in rows]
    grids = [large_base.GRID] * len(rows)
    return _write(folder, str(folder.parent / "base"), ids, grids, [row.pixels for row in rows])


def _write(folder: Path, base: str, ids: Any, grids: Any, pixels: Any) -> Job:
    job = Job(folder, base, [], ids, [len(one) for one in ids], grids)
    job.write(pixels)
    write_adapter(job.adapter, base)
    return job


def answers(job: Job, threads: int, *told: object) -> Told:
    """What benchmarks/systems/answers.py says."""
    script = str(ROOT / "benchmarks/systems/answers.py")
    command = [sys.executable, script, str(job.folder), *map(str, told)]
    env = os.environ | {"OPENBLAS_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=3600)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-3000:]}")
    found: Told = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def parted(job: Job, one: Told, other: Told) -> list[float]:
    """Where two answers part, how far apart the two tokens' logits lie; for each that does."""
    base, found = vlm.load(job.base), []
    adapter.attach_folder(base.model, job.adapter)
    for k, (a, b) in enumerate(zip(one["ids"], other["ids"], strict=True)):
        if a == b:
            continue
        i = k % len(job.ids)
        at = next((j for j, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        if at is None:  # one ended where the other went on
            longer, at = (a, len(b)) if len(a) > len(b) else (b, len(a))
            pair = [longer[at], base.processor.tokenizer.eos_token_id]
        else:
            pair = [a[at], b[at]]
        seen = extract_features(base.model.vision_tower, [(mx.array(job.pixels(i)), job.grids[i])])[
            0
        ]
        batch = make_batch([[*job.ids[i], *a[:at]]], [seen], base.image_id)
        with lora.disable_lora(base.model) if k < len(job.ids) else nullcontext():
            last = np.array(compute_logits(base.model, hidden_states(base.model, batch)[:, -1])[0])
        one_of, other_of = last[pair]
        found.append(float(abs(one_of - other_of)))
    return found


def mask_cost(job: Job, told: Told) -> tuple[float, float]:
    """Microseconds a drawn token: of following the schema, and of taking away what it forbids."""
    base = vlm.load(job.base)
    vocabulary = base.model.config.text_config.vocab_size
    form = CritiqueGrammar(base.processor.tokenizer, vocabulary, HELD_LIMIT)
    spent, count, masks = 0.0, 0, []
    for ids in told["ids"][:16]:
        guide = form.create_state()
        at = len(guide.forced)
        while at < len(ids):
            started = perf_counter()
            guide.accept_token(ids[at])
            spent += perf_counter() - started
            count, at = count + 1, at + 1 + len(guide.forced)
        masks.append(guide.mask)
    rows = mx.random.normal((len(masks), vocabulary))
    mx.eval(rows, mask_logits(rows, masks))
    started = perf_counter()
    for _ in range(10):
        mx.eval(mask_logits(rows, masks))
    return 1e6 * spent / count, 1e6 * (perf_counter() - started) / 10 / len(masks)


def entry(system: str, model: str, mode: str, told: Told, **more: Any) -> Told:
    """A line of the results; each photograph was answered by two arms."""
    return {
        "system": system,
        "model": model,
        "mode": mode,
        "photographs_per_second": round(len(told["ids"]) / 2 / told["seconds"], 4),
        "forward_passes_per_critique": round(float(np.mean(told["passes"])), 1),
        "schema_valid": round(float(np.mean(told["valid"])), 4),
        "identical_texts": None,
        "tokens_per_critique": round(float(np.mean([len(ids) for ids in told["ids"]])), 1),
        "critiques": len(told["ids"]),
        "rss_gb": round(told["rss_gb"], 3),
        **more,
    }


def compare(model: str, job: Job) -> list[Told]:
    """One model's lines: free side by side, then held to the schema."""
    rows, limit = ROWS[model], LIMIT[model]
    both = [answers(job, threads, "mlx-vlm", "free", limit, 1) for threads in (1, 2)]
    theirs = both[int(both[1]["seconds"] < both[0]["seconds"])]  # whichever serves it better
    ours = answers(job, 1, "mondrian", "free", limit, rows)
    gaps = parted(job, ours, theirs)
    same = 1 - len(gaps) / len(ours["ids"])
    told = {"identical_texts": round(same, 4), "largest_logit_gap": max(gaps, default=0.0)}
    held = answers(job, 1, "mondrian", "constrained", HELD_LIMIT, rows)
    follow, take_away = mask_cost(job, held)
    cost = {"schema_us_a_token": round(follow, 1), "mask_us_a_token": round(take_away, 1)}
    print(
        f"{model}: {len(gaps)} of {len(ours['ids'])} texts part, logits within "
        f"{max(gaps, default=0.0):.1e}; mlx-vlm {theirs['seconds']:.1f} s, "
        f"mondrian {ours['seconds']:.1f} s",
        flush=True,
    )
    return [
        entry("mondrian", model, "free", ours, **told),
        entry("mlx-vlm", model, "free", theirs),
        entry("mondrian", model, "constrained", held, **cost),
    ]


def drawn(job: Job) -> list[Told]:
    """DRAWN critiques at temperature 1, half of them under the tightest limit there is."""
    base = vlm.load(job.base)
    vocabulary = base.model.config.text_config.vocab_size
    least = CritiqueGrammar(base.processor.tokenizer, vocabulary, HELD_LIMIT).after[0][0]
    copies = -(-DRAWN // 4 // len(job.ids))
    out = []
    for limit in (HELD_LIMIT, least):
        told = answers(job, 1, "mondrian", "constrained", limit, 32, 1.0, copies)
        out.append(entry("mondrian", TINY, "constrained", told, temperature=1.0, limit=limit))
    return out


def main() -> None:
    results: list[Told] = []
    with tempfile.TemporaryDirectory() as scratch:
        for model, write in ((TINY, write_tiny), (LARGE, write_large)):
            (Path(scratch) / model).mkdir()
            job = write(Path(scratch) / model / "job")
            results += compare(model, job)
            results += drawn(job) if model == TINY else []
    keys = [
        "system",
        "model",
        "mode",
        "photographs_per_second",
        "forward_passes_per_critique",
        "schema_valid",
        "identical_texts",
        "critiques",
        "rss_gb",
    ]
    print("| " + " | ".join(keys) + " |\n" + "|---" * len(keys) + "|")
    for one in results:
        print("| " + " | ".join(str(one[key]) for key in keys) + " |")
    for model, goal in ((TINY, 4), (LARGE, 2)):
        free = {r["system"]: r for r in results if r["model"] == model and r["mode"] == "free"}
        held = next(r for r in results if r["model"] == model and r["mode"] == "constrained")
        ratio = (
            free["mondrian"]["photographs_per_second"] / free["mlx-vlm"]["photographs_per_second"]
        )
        print(
            f"{model}: {ratio:.1f} times mlx-vlm's photographs/s (goal {goal}); a mask costs "
            f"{held['schema_us_a_token']} + {held['mask_us_a_token']} us a token"
        )
    free, _, held = (one["forward_passes_per_critique"] for one in results[:3])
    print(f"{TINY}: {held / free:.2f} of the passes when constrained (goal 0.75)")
    every = [r for r in results if r["mode"] == "constrained"]
    print(
        f"{sum(r['critiques'] for r in every)} constrained critiques, valid: "
        f"{min(r['schema_valid'] for r in every):.4f} (goal 1)"
    )
    out = ROOT / "benchmarks/results/evaluate.json"
    out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
