"""How often each verdict is given to simulated adapters of known ability."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from mondrian.core.fields import FloatArray
from mondrian.core.params import Params
from mondrian.critique.schema import DIMENSIONS
from mondrian.evaluation import statistics
from mondrian.evaluation.calibration import calibrate_report
from mondrian.evaluation.metrics import compute_indexes
from mondrian.evaluation.verdict import compute_comparisons, decide_verdict
from tests.evaluation.simulated_scores import MEDIAN, draw_scores, look, to_scores

TRIALS = 200
ADVISOR = ("murky", "thin", "held", "firm", "luminous")  # its word for a score, from low to high
BASE = ("bad", "weak", "okay", "good", "great")
NOUNS = ("frame", "light", "edge", "color", "space", "weight", "mood")


@pytest.fixture(autouse=True)
def _fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_RESAMPLES", 2000)
    monkeypatch.setattr(statistics, "_PERMUTATIONS", 999)


def write_text(scores: FloatArray, words: tuple[str, ...]) -> str:
    levels = np.clip(scores // 2, 0, 4).astype(int)
    return " ".join(f"The {noun} is {words[i]}." for noun, i in zip(NOUNS, levels, strict=True))


def give_verdict(
    truth: FloatArray,
    arms: Mapping[str, tuple[FloatArray, tuple[str, ...]]],
    params: Params,
    calibrate: bool,
) -> str:
    """Return the verdict on arms of deviations and words."""
    references = to_scores(truth)
    photos: list[dict[str, Any]] = [
        {
            "photo_group": str(i),
            "reference_scores": references[i].tolist(),
            "reference_text": write_text(references[i], ADVISOR),
        }
        | {
            f"{arm}_constrained": {
                "scores": to_scores(deviations[i]).tolist(),
                "text": write_text(to_scores(deviations[i]), words),
            }
            for arm, (deviations, words) in arms.items()
        }
        for i in range(len(truth))
    ]
    report: dict[str, Any] = {
        "photographs": photos,
        "train_score_medians": dict.fromkeys(DIMENSIONS, MEDIAN),
        "adapter": {"version": "v"},
    }
    report = calibrate_report(report, calibrate)
    indexes = compute_indexes(report, params.evaluate.index)
    return decide_verdict(compute_comparisons(report, indexes))


def count_verdicts(
    adapter: str, base: float, count: int, params: Params, calibrate: bool = True
) -> Counter[str]:
    """Return the verdicts of TRIALS evaluations; `base` is the base's correlation."""
    verdicts: Counter[str] = Counter()
    for seed in range(TRIALS):
        rng = np.random.default_rng(seed)
        truth = draw_scores(rng, count)
        untrained = look(rng, truth, base)
        low = untrained - 2.5  # the same order of the photos, at another level
        tuned = {
            "blind": (draw_scores(rng, count), ADVISOR),
            "constant": (np.zeros((count, 7)), ADVISOR),
            "equal": (look(rng, truth, base), BASE),
            "equal scores": (look(rng, truth, base), ADVISOR),
            "voice only": (untrained, ADVISOR),
            "format only": (untrained + rng.normal(0, 0.05, untrained.shape), BASE),
            "correlation 0.5": (look(rng, truth, 0.5), ADVISOR),
            "correlation 0.8": (look(rng, truth, 0.8), ADVISOR),
            "level only": (untrained + rng.normal(0, 0.3, untrained.shape), ADVISOR),
            "level, other answers": (look(rng, truth, base), ADVISOR),
        }[adapter]
        arms = {"base": (low if "level" in adapter else untrained, BASE), "fine_tuned": tuned}
        verdicts[give_verdict(truth, arms, params, calibrate)] += 1
    return verdicts


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, 21, 25])
@pytest.mark.parametrize(
    ("adapter", "base"),
    [
        ("blind", 0.0),
        ("constant", 0.0),
        ("equal", 0.8),
        ("equal scores", 0.5),
        ("voice only", 0.8),
        ("level only", 0.8),
        ("level, other answers", 0.8),
        ("format only", 0.8),
    ],
)
def test_an_adapter_without_better_judgement_is_rarely_better(
    adapter: str, base: float, count: int, params: Params
) -> None:
    verdicts = count_verdicts(adapter, base, count, params)
    assert verdicts["BETTER"] <= 0.05 * TRIALS
    if adapter in ("constant", "voice only", "level only", "level, other answers"):
        assert verdicts["BETTER_MANNER"] > (0.8 if count == 12 else 0.9) * TRIALS


@pytest.mark.slow
def test_worse_scores_are_worse_in_any_voice(params: Params) -> None:
    assert count_verdicts("blind", 0.8, 21, params)["WORSE"] > 0.95 * TRIALS


@pytest.mark.slow
def test_better_judgement_is_noticed(params: Params) -> None:
    """As generated, scores of a correlation of 0.5 are no closer than a constant."""
    better = {
        (adapter, calibrate): count_verdicts(adapter, 0.0, 21, params, calibrate)["BETTER"] / TRIALS
        for adapter, calibrate in (
            ("correlation 0.5", False),
            ("correlation 0.5", True),
            ("correlation 0.8", True),
        )
    }
    assert better["correlation 0.5", False] < 0.1
    assert better["correlation 0.5", True] >= 0.3
    assert better["correlation 0.8", True] > 0.8
