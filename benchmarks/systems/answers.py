"""Answers of base and adapter to one job of benchmarks/evaluate.py, in a process of its own.

answers.py FOLDER mondrian free|constrained LIMIT ROWS [TEMPERATURE COPIES]
answers.py FOLDER mlx-vlm free LIMIT ROWS

mlx-vlm gets this project's BLAS and malloc and its LoRA layers too, so that what differs is how
answers are generated. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import mondrian.model  # noqa: E402,F401  # isort: skip  (before mlx)
import mlx.core as mx  # noqa: E402

from benchmarks.job import Job, highest  # noqa: E402
from mondrian.critique.schema import is_schema_valid  # noqa: E402
from mondrian.model import adapter, lora, vlm  # noqa: E402
from mondrian.model.batch_generator import SamplingParams  # noqa: E402
from mondrian.model.constrained import CritiqueGrammar  # noqa: E402
from mondrian.model.generate import generate  # noqa: E402
from mondrian.model.vision import extract_features  # noqa: E402


def ours(
    base: vlm.Vlm, job: Job, how: SamplingParams, copies: int
) -> Iterator[tuple[list[int], str, int]]:
    """This project: every photograph looked at once, each arm's prefix computed once."""
    seen = [
        extract_features(base.model.vision_tower, [(mx.array(job.pixels(i)), grid)])[0]
        for i, grid in enumerate(job.grids)
    ]
    for arm in ("base", "adapter"):
        with arm_of(base, arm):
            for answer in generate(base, job.ids * copies, seen * copies, how):
                yield list(answer.ids), answer.text, answer.passes


def one_by_one(base: vlm.Vlm, job: Job, limit: int) -> Iterator[tuple[list[int], str, int]]:
    """mlx_vlm.generate, which joins what stream_generate yields; that one gives the ids too."""
    from mlx_vlm import stream_generate

    for arm in ("base", "adapter"):
        with arm_of(base, arm):
            for i, (ids, grid) in enumerate(zip(job.ids, job.grids, strict=True)):
                chunks = stream_generate(
                    base.model,
                    base.processor,
                    "",
                    input_ids=mx.array([ids]),
                    pixel_values=mx.array(job.pixels(i)),
                    mask=None,
                    image_grid_thw=mx.array([[1, *grid]]),
                    max_tokens=limit,
                    temperature=0.0,
                )
                told = [int(c.token) for c in chunks if c.token is not None]
                told = told[: next((k for k, t in enumerate(told) if t in base.end_ids), limit)]
                yield told, text_of(base, told), len(told) + (len(told) < limit)


@contextmanager
def arm_of(base: vlm.Vlm, arm: str) -> Iterator[None]:
    """The adapter is attached; base is without it."""
    if arm == "adapter":
        yield
    else:
        with lora.disable_lora(base.model):
            yield


def text_of(base: vlm.Vlm, ids: list[int]) -> str:
    return str(base.processor.tokenizer.decode(ids, skip_special_tokens=True))


def main() -> None:
    folder, system, mode, limit, rows, *more = sys.argv[1:]
    job = Job.read(Path(folder))
    base = vlm.load(job.base)
    adapter.attach_folder(base.model, job.adapter)
    mx.eval(base.model.parameters())
    vocabulary = base.model.config.text_config.vocab_size
    form = (
        CritiqueGrammar(base.processor.tokenizer, vocabulary, int(limit))
        if mode == "constrained"
        else None
    )
    how = SamplingParams(int(limit), int(rows), form, float(more[0]) if more else 0.0)
    started = perf_counter()
    if system == "mondrian":
        found = list(ours(base, job, how, int(more[1]) if more else 1))
    else:
        found = list(one_by_one(base, job, int(limit)))
    seconds = perf_counter() - started
    told = {
        "seconds": seconds,
        "ids": [ids for ids, _, _ in found],
        "passes": [passes for _, _, passes in found],
        "valid": [is_schema_valid(text) for _, text, _ in found],
        "rss_gb": highest(),
    }
    sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
