"""evaluate: base and adapter on the same val photographs -> every answer, and what they are worth.

Greedy, through the chat template, each answer held against the critique that the advisor wrote.
Beside both stands the constant predictor, which says the mean train scores and looks at nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)
import numpy as np
from tqdm import tqdm

from mondrian import adapter, lora
from mondrian.critique import DIMENSIONS, complies
from mondrian.errors import AdapterError
from mondrian.features import FeatureCache
from mondrian.files import read_json
from mondrian.forward import Features
from mondrian.params import Evaluate
from mondrian.recipe import RECIPE, Recipe, read_recipe
from mondrian.recover import Recovered, recover
from mondrian.rows import Row
from mondrian.vlm import Answer, Vlm, generate, next_logits, prompt_ids

ARMS = ("base", "fine_tuned")


def evaluate(
    features: FeatureCache, folder: Path, rows: Sequence[Row], params: Evaluate
) -> dict[str, Any]:
    """Answers of both arms and their metrics, ready for comparison_report.json.

    Raises AdapterError where the adapter does not fit the base or the prompt of the rows.
    """
    recipe = read_recipe(folder)
    _same_prompt(recipe, rows, folder)
    _unseen(recipe, rows, folder)
    vlm = features.vlm
    features.look([row.images[0] for row in rows])
    photos = [features.get(row.images[0]) for row in rows]
    prompts = [
        prompt_ids(vlm, row.messages[:-1], seen) for row, seen in zip(rows, photos, strict=True)
    ]
    canary = next_logits(vlm, prompts[0], photos[0])
    adapter.load(vlm.model, vlm.hash, folder)
    vlm.model.eval()
    adapter.prove_applied(next_logits(vlm, prompts[0], photos[0]), canary, folder)
    with lora.detached(vlm.model):
        answers = {"base": _answer_all(vlm, "base", prompts, photos, params)}
    answers["fine_tuned"] = _answer_all(vlm, "fine_tuned", prompts, photos, params)
    lora.detach(vlm.model)
    return _report(vlm, folder, recipe, rows, answers)


def metrics(report: dict[str, Any]) -> dict[str, Any]:
    """What metrics/<advisor>/evaluate.json holds: each arm, and the constant predictor."""
    rows = report["photographs"]
    wanted = np.array([row["reference_scores"] for row in rows], float)
    out = {arm: _arm_metrics([row[arm] for row in rows], wanted) for arm in ARMS}
    means = np.array([report["train_score_means"][name] for name in DIMENSIONS])
    told = np.broadcast_to(means, wanted.shape)
    constant = {"format_compliance": 1.0, "scored": len(rows)}
    out["constant"] = constant | _score_metrics(told, wanted)
    return {"photographs": len(rows), **out}


def summary(advisor: str, found: dict[str, Any]) -> str:
    """A table a person can read at a glance."""
    lines = [f"evaluate {advisor}: {found['photographs']} photographs that were not trained on"]
    head = f"  {'':12}{'compliance':>11}{'scored':>8}{'score MAE':>11}{'bias':>8}{'s/critique':>12}"
    lines.append(head)
    for arm in (*ARMS, "constant"):
        one = found[arm]
        mae, bias = (_number(one[key]) for key in ("score_mae", "score_bias"))
        seconds = _number(one.get("seconds_per_critique"))
        told = f"{one['format_compliance']:>11.2f}{one['scored']:>8}{mae:>11}{bias:>8}{seconds:>12}"
        lines.append(f"  {arm:12}{told}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _same_prompt(recipe: Recipe, rows: Sequence[Row], folder: Path) -> None:
    for row in rows:
        if row.prompt_hash != recipe.prompt_sha256:
            raise AdapterError(
                f"{folder} was trained on another prompt (sha256 {recipe.prompt_sha256[:8]}…) "
                f"than row {row.id} has ({row.prompt_hash[:8]}…); train again: dvc repro"
            )


def _unseen(recipe: Recipe, rows: Sequence[Row], folder: Path) -> None:
    trained = set(recipe.train_photo_groups)
    for row in rows:
        if row.photo_group in trained:
            raise AdapterError(
                f"{folder} was trained on the photograph of row {row.id}; evaluate it on the val "
                "rows of the split it was trained with, or train again: dvc repro"
            )


def _answer_all(
    vlm: Vlm,
    arm: str,
    prompts: Sequence[Sequence[int]],
    photos: Sequence[Features],
    params: Evaluate,
) -> list[Answer]:
    answers: dict[int, Answer] = {}
    with tqdm(total=len(prompts), desc=arm, unit="critique") as bar:
        for batch in _alike(prompts, photos, params.batch_size):
            seen = [photos[i] for i in batch]
            told = generate(vlm, [prompts[i] for i in batch], seen, params.max_new_tokens)
            answers.update(zip(batch, told, strict=True))
            bar.update(len(batch))
    return [answers[i] for i in range(len(prompts))]


def _alike(
    prompts: Sequence[Sequence[int]], photos: Sequence[Features], size: int
) -> Iterator[list[int]]:
    """Batches whose photographs have one grid and whose prompts have one length."""
    groups = defaultdict(list)
    for i, (prompt, seen) in enumerate(zip(prompts, photos, strict=True)):
        groups[seen.grid, len(prompt)].append(i)
    for members in groups.values():
        for i in range(0, len(members), size):
            yield members[i : i + size]


def _report(
    vlm: Vlm,
    folder: Path,
    recipe: Recipe,
    rows: Sequence[Row],
    answers: dict[str, list[Answer]],
) -> dict[str, Any]:
    photographs = []
    for i, row in enumerate(rows):
        reference = row.answer()
        entry: dict[str, Any] = {
            "id": row.id,
            "image": row.images[0],
            "photo_group": row.photo_group,
            "reference": reference.model_dump(mode="json"),
            "reference_scores": reference.scores(),
        }
        photographs.append(entry | {arm: _judged(answers[arm][i]) for arm in ARMS})
    return {
        "advisor": recipe.advisor,
        "base": {"source": vlm.source, "sha256": vlm.hash},
        "adapter": {"folder": folder.as_posix(), "recipe": read_json(folder / RECIPE)},
        "train_score_means": recipe.train_score_means,
        "photographs": photographs,
    }


def _judged(answer: Answer) -> dict[str, Any]:
    """An answer with its scores, where it has them: raw compliance is judged without repair."""
    found = recover(answer.text)
    scores, fault = (
        (found.critique.scores(), None)
        if isinstance(found, Recovered)
        else (None, f"{found.reason}: {found.detail}")
    )
    return {
        "text": answer.text,
        "compliant": complies(answer.text),
        "scores": scores,
        "fault": fault,
        "tokens": answer.tokens,
        "seconds": round(answer.seconds, 4),
        "ended": answer.ended,
    }


def _arm_metrics(told: list[dict[str, Any]], wanted: np.ndarray[Any, Any]) -> dict[str, Any]:
    scored = [i for i, one in enumerate(told) if one["scores"] is not None]
    scores = np.array([told[i]["scores"] for i in scored], float).reshape(-1, len(DIMENSIONS))
    seconds, tokens = (sum(one[key] for one in told) for key in ("seconds", "tokens"))
    return {
        "format_compliance": round(sum(one["compliant"] for one in told) / len(told), 4),
        "scored": len(scored),
        **_score_metrics(scores, wanted[scored]),
        "seconds_per_critique": round(seconds / len(told), 3),
        "tokens_per_critique": round(tokens / len(told), 1),
        "tokens_per_second": round(tokens / seconds, 1),
    }


def _score_metrics(told: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Mean absolute error and mean error over photographs and the seven dimensions."""
    if not len(told):
        return {"score_mae": None, "score_bias": None, "score_mae_by_dimension": None}
    error = told - wanted
    by_dimension = np.abs(error).mean(axis=0)
    return {
        "score_mae": round(float(np.abs(error).mean()), 4),
        "score_bias": round(float(error.mean()), 4),
        "score_mae_by_dimension": {
            name: round(float(e), 4) for name, e in zip(DIMENSIONS, by_dimension, strict=True)
        },
    }
