"""The verdict over made-up answers whose worth is known."""

from typing import Any

import numpy as np
import pytest

from mondrian.core.errors import EvaluationError
from mondrian.core.params import Params
from mondrian.critique.schema import DIMENSIONS, Critique, serialize_critique
from mondrian.evaluation.gates import check_gates, list_failed_gates
from mondrian.evaluation.quality_index import compute_index_parts, compute_quality_index
from mondrian.evaluation.report import comparison_page
from mondrian.evaluation.score_metrics import kappa, most_common_fraction, spearman
from mondrian.evaluation.summary import format_metrics_summary
from mondrian.evaluation.verdict import build_metrics
from mondrian.sample.corruptions import replace_scores
from tests.evaluation.test_evaluate import judge

COSTS = (
    "see_seconds",
    "prefill_tokens_per_second",
    "first_token_seconds",
    "decode_tokens_per_second",
    "peak_memory_gb",
)


def scored(critique: Critique, scores: Any) -> str:
    told = tuple(float(round(min(10, max(0, s)), 1)) for s in scores)
    return serialize_critique(replace_scores(critique, told, round(sum(told) / 7, 1)))


def report(
    critique: Critique,
    base: float,
    tuned: float,
    count: int = 20,
    looks: bool = True,
    copies: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Answers whose scores lie so far from the advisor's, on average; shuffled where it looks."""
    draw = np.random.default_rng(seed)
    wanted = draw.uniform(1, 9, (count, 7)).round(1)

    def answer(i: int, far: float) -> dict[str, Any]:
        return judge(scored(critique, wanted[i] + draw.normal(0, far, 7)))

    photographs = []
    for i in range(count):
        text = scored(critique, wanted[i])
        arms = {"base": answer(i, base), "fine_tuned": answer(i, tuned)}
        other = (i + 1) % count if looks else i
        arms |= {f"{arm}_constrained": told for arm, told in arms.items()}
        arms["shuffled"] = judge(scored(critique, wanted[other] + draw.normal(0, tuned, 7)))
        one = {
            "id": f"ansel/{i}",
            "image": "missing.png",
            "photo_group": str(i),
            "reference": {"dimensions": [d.model_dump() for d in critique.dimensions]},
            "reference_text": text,
            "reference_scores": wanted[i].tolist(),
            "reference_copied": False,
            **arms,
        }
        photographs += [one] * copies
    recipe = {"train_rows": 60, "data_sha256": "d", "prompt_sha256": "p"}
    return {
        "advisor": "ansel",
        "train_score_means": dict.fromkeys(DIMENSIONS, 5.0),
        "base": {"source": "tiny", "sha256": "b"},
        "packages": {"mlx": "1"},
        "adapter": {"folder": "models/x", "recipe": recipe},
        "photographs": photographs,
        "cost": {arm: dict.fromkeys(COSTS, 100.0) for arm in ("base", "fine_tuned")},
    }


def test_a_better_adapter_is_better_and_says_by_how_much(
    critique: Critique, params: Params
) -> None:
    found = build_metrics(report(critique, base=3, tuned=0.7), params.evaluate)
    assert found["verdict"] == "BETTER"
    assert found["comparisons"]["index"]["low"] > 0
    assert all(one["p_holm"] < 0.05 for one in found["dimensions"].values())
    assert list_failed_gates(found, params.evaluate.gates) == []
    strict = params.evaluate.gates.model_copy(update={"overhead": -0.5, "compliance": 1.0})
    assert list_failed_gates(found, strict) == ["overhead is 0.0, -0.5 is asked"]
    text = format_metrics_summary("ansel", found)
    assert text.startswith("evaluate ansel: BETTER on 20 critiques of 20 photographs")


def test_a_worse_adapter_is_worse(critique: Critique, params: Params) -> None:
    found = build_metrics(report(critique, base=0.5, tuned=3), params.evaluate)
    assert found["verdict"] == "WORSE"
    assert any("index_low" in line for line in list_failed_gates(found, params.evaluate.gates))


def test_the_same_arm_twice_is_inconclusive(critique: Critique, params: Params) -> None:
    same = report(critique, base=1, tuned=1)
    for row in same["photographs"]:
        row["fine_tuned"] = row["base"]
    found = build_metrics(same, params.evaluate)
    assert found["verdict"] == "INCONCLUSIVE"
    assert found["comparisons"]["index"]["mean"] == 0


def test_better_than_base_but_not_than_a_constant_is_inconclusive(
    critique: Critique, params: Params
) -> None:
    weak = report(critique, base=6, tuned=3.5)
    found = build_metrics(weak, params.evaluate)
    assert found["comparisons"]["index"]["low"] > 0 > found["comparisons"]["constant"]["low"]
    assert found["verdict"] == "INCONCLUSIVE"


def test_an_adapter_that_does_not_look_is_not_better(critique: Critique, params: Params) -> None:
    blind = build_metrics(report(critique, base=3, tuned=0.7, looks=False), params.evaluate)
    assert blind["verdict"] == "INCONCLUSIVE"
    assert not blind["gates"]["looks_low"]["holds"]


def test_copies_count_once_and_few_photographs_conclude_nothing(
    critique: Critique, params: Params
) -> None:
    few = build_metrics(report(critique, base=3, tuned=0.7, count=4, copies=10), params.evaluate)
    assert few["photographs"] == 40
    assert few["photograph_groups"] == 4
    assert few["verdict"] == "INCONCLUSIVE"


def test_an_answer_that_is_no_critique_counts_and_nothing_breaks(
    critique: Critique, params: Params
) -> None:
    broken = report(critique, base=1, tuned=1)
    for row in broken["photographs"]:
        row["fine_tuned"] = judge("I like it.")
    found = build_metrics(broken, params.evaluate)
    assert found["verdict"] == "WORSE"
    assert found["fine_tuned"]["score_mae"] is None
    assert found["comparisons"]["constant"]["low"] is None
    assert "too few photographs" in format_metrics_summary("ansel", found)
    assert "I like it." in comparison_page(broken, found)


def test_the_index_is_the_weighted_mean_of_its_parts(critique: Critique, params: Params) -> None:
    rows = report(critique, base=0, tuned=0)["photographs"]
    parts = compute_index_parts([row["base"] for row in rows], rows)
    assert all(
        one == {"format": 1, "scores": 1, "text": pytest.approx(1), "grounding": 1} for one in parts
    )
    assert compute_quality_index(parts, params.evaluate.index) == pytest.approx([100] * len(rows))
    nothing = compute_index_parts([judge("no") for _ in rows], rows)
    assert nothing[0]["format"] == nothing[0]["scores"] == nothing[0]["grounding"] == 0
    assert max(compute_quality_index(nothing, params.evaluate.index)) < 5


def test_the_page_shows_verdict_worst_first_and_what_was_said(
    critique: Critique, params: Params
) -> None:
    made = report(critique, base=3, tuned=0.7)
    made["photographs"][7]["fine_tuned"] = judge(scored(critique, [10.0] * 7))
    page = comparison_page(made, build_metrics(made, params.evaluate))
    assert "BETTER" in page
    assert page.index("ansel/7,") < page.index("ansel/3,")
    assert page.count("<polygon") == 20 * 4
    assert "not at hand" in page


def test_gates_are_named_and_a_file_without_them_is_refused(
    critique: Critique, params: Params, tmp_path: Any
) -> None:
    import json

    said: list[str] = []
    file = tmp_path / "evaluate.json"
    file.write_text(json.dumps(build_metrics(report(critique, 3, 0.7), params.evaluate)))
    check_gates(file, params, said.append)
    assert said == [f"{file}: BETTER"]
    file.write_text(json.dumps(build_metrics(report(critique, 0.5, 3), params.evaluate)))
    with pytest.raises(
        EvaluationError,
        match=r"gates do not hold\n  .*verdict is WORSE(.|\n)*index_gain_percent is -",
    ):
        check_gates(file, params, said.append)
    file.write_text("{}")
    with pytest.raises(EvaluationError, match="holds no gates"):
        check_gates(file, params, said.append)


def test_agreement_by_known_values() -> None:
    a, b = np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 4])
    assert kappa(a, b) == 1
    assert kappa(a, b[::-1]) == -1
    assert kappa(np.full(4, 2.5), a) == 0
    assert spearman(a, a**3) == 1
    assert spearman(a, np.full(4, 2.0)) is None
    assert most_common_fraction(np.array([5.0, 5, 5, 7])) == 0.75
