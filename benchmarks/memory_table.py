"""Print the planned peak memory on a Mac by base, bits, batch and checkpointing, as Markdown.

python benchmarks/memory_table.py

Rows have a prompt of 945 tokens, 768 of them of the photo, and fill up to the length with a
critique; lengths of 2,000 and 2,240 tokens. Rank 16 on all projections, 100 photos, MLX's cache at
its limit. Nothing is loaded or measured: this is mondrian/training/step_cost.py for Metal.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
from benchmarks.measurement import ROOT
from mondrian.core.params import Params, load_params
from mondrian.model.architecture import Architecture, read_architecture
from mondrian.model.device import METAL
from mondrian.model.vision_cache import MAX_MEMORY_BYTES
from mondrian.training.plan import build_setup
from mondrian.training.step_cost import BatchShape, memory_breakdown

LENGTHS = (2000, 2240)
PROMPT, IMAGE = 945, 768
PHOTOS = 100
SETTINGS = [(1, True), (1, False), (2, True), (2, False)]  # batch, checkpointing


def make_batch(length: int, size: int) -> BatchShape:
    """Return rows of this length in one packed sequence, without a shared prompt."""
    answer = length - PROMPT
    return BatchShape(
        tokens=size * length,
        pairs=((length, length),) * size,
        last_layer_pairs=((answer, length),) * size,
        supervised_positions=size * answer,
        image_tokens=size * IMAGE,
    )


def predict_gb(base: Architecture, params: Params, batch: BatchShape, checkpointing: bool) -> float:
    """Return the peak in 10^9 bytes, with the features of all photos and MLX's cache."""
    train = params.train.model_copy(update={"gradient_checkpointing": checkpointing})
    setup = build_setup(base, train, METAL)
    features = PHOTOS * IMAGE * base.width * (1 + base.deepstack_levels) * METAL.float_bytes
    peak = sum(memory_breakdown(setup, batch).values()) + min(MAX_MEMORY_BYTES, features)
    return peak / 1e9 + params.machine.cache_limit_gb


def table_rows(params: Params) -> Iterator[list[str]]:
    for size in ("2B", "4B", "8B"):
        for bits in (4, 8, 0):
            base = replace(read_architecture(f"Qwen/Qwen3-VL-{size}-Instruct"), bits=bits)
            cells = [f"{size}, {bits or 16} bit"]
            for rows, checkpointing in SETTINGS:
                batches = (make_batch(length, rows) for length in LENGTHS)
                low, high = (predict_gb(base, params, batch, checkpointing) for batch in batches)
                cells.append(f"{low:.1f} to {high:.1f}")
            yield cells


def main() -> None:
    columns = [f"batch {n}{', checkpointing' if c else ''}" for n, c in SETTINGS]
    rows = [
        ["GB", *columns],
        ["---"] * (1 + len(columns)),
        *table_rows(load_params(ROOT / "params.yaml")),
    ]
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    main()
