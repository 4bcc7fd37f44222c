"""The model card of a version: in the hub's form, true, and without personal data."""

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from mondrian.critique.calibration import Calibration
from mondrian.critique.schema import DIMENSIONS
from mondrian.evaluation.preference import Preference
from mondrian.registry.model_card import AdapterResults, public_base_name, render_model_card
from mondrian.registry.release_record import Release
from tests.releasing import make_final_test, make_metrics, write_release

CONFIG = {
    "r": 16,
    "lora_alpha": 32.0,
    "use_dora": False,
    "use_rslora": False,
    "target_modules": ["q_proj"],
}
RECIPE = {"train_rows": 76, "train_text_only_rows": 2}


def render(
    folder: Path,
    update: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    preference: Preference | None = None,
    **evaluations: Any,
) -> str:
    """Render the card of a version with fields of its record and its config replaced."""
    release = write_release(folder).model_copy(update=update or {})
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | (config or {})))
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    results = AdapterResults({"val": make_metrics()} | evaluations, preference)
    return render_model_card(release, results, folder, 700)


def with_base(source: str, release: Release) -> dict[str, Any]:
    return {"base": release.base.model_copy(update={"source": source})}


def test_the_hub_reads_the_card(tmp_path: Path) -> None:
    card = ModelCard(render(tmp_path / "v1", {"test": make_final_test()}))
    assert card.data.to_dict() == {
        "base_model": "b",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "image-text-to-text",
        "tags": ["lora", "photography", "critique", "mondrian"],
    }
    assert card.text.lstrip().startswith("# ansel@v1.0.0\n")
    assert str(ModelCard(str(card))) == str(card)


@pytest.mark.parametrize(
    "name", ["R&D 'x'", 'a"b', "a|b", "a: b # c", "C:\\Users\\q", "$(touch x)`é"]
)
def test_any_name_of_a_base_is_quoted_in_the_commands(tmp_path: Path, name: str) -> None:
    release = write_release(tmp_path / "v0")
    card = ModelCard(render(tmp_path / "v1", with_base(f"models/{name}", release)))
    assert card.data.base_model == name
    code = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert code
    constants = [n.value for n in ast.walk(ast.parse(code[1])) if isinstance(n, ast.Constant)]
    assert constants.count(name) == 2
    (command,) = (line for line in card.text.splitlines() if line.startswith("vllm serve"))
    assert shlex.split(command)[2] == name


def test_the_card_has_verdict_intervals_and_counts(tmp_path: Path) -> None:
    crossvalidation = make_metrics("BETTER_MANNER") | {"photograph_groups": 88}
    update = {"test": make_final_test()}
    evaluations: dict[str, Any] = {"cross-validation": crossvalidation}
    val = make_metrics() | {"crossvalidation": crossvalidation}
    card = render(tmp_path / "v1", update, val=val, **evaluations)
    assert "The column\ncross-validation decides about a release" in card
    assert "| | val | cross-validation | test |\n|---|---|---|---|\n" in card
    assert "| verdict | BETTER | BETTER_MANNER | INCONCLUSIVE |\n| photos | 21 | 88 | 11 |" in card
    interval = "+80.00 (+75.00 to +85.00)"
    assert f"(points) | {interval} | {interval} | +9.50 (-1.25 to +20.00) |\n" in card
    assert f"few-shot base (points) | {interval} | {interval} | - |\n" in card
    assert "| train | 76 | 2 |\n| val | 21 | 0 |\n| test | 12 | 0 |\n" in card
    assert "test was read once, at this release, and selected nothing" in card
    assert "test chose nothing" in card


def test_the_card_has_the_blind_votes_if_there_are_any(tmp_path: Path) -> None:
    card = render(tmp_path / "v1", preference=Preference(fine_tuned=15, base=5, equal=1))
    assert "adapter 15, base 5, equal 1; the adapter is preferred in 75% (95 % interval" in card
    assert "blind votes" not in render(tmp_path / "v2")


def test_a_card_without_a_test_or_with_a_small_one_says_so(tmp_path: Path) -> None:
    without = render(tmp_path / "v1")
    assert "There is no test split" in without
    assert "The column\nval decides about a release." in without
    assert "test was read" not in without
    small = render(tmp_path / "v2", {"test": make_final_test(groups=5)})
    assert "The final test has 5 photos, too few for a verdict" in small


def test_the_calibration_is_on_the_card(tmp_path: Path) -> None:
    calibration = Calibration(
        adapter_version="0" * 12,
        medians=dict.fromkeys(DIMENSIONS, 6.5),
        weights=dict.fromkeys(DIMENSIONS, 0.5) | {"Lighting": 0.0},
        step=0.5,
    )
    card = render(tmp_path / "v1", {"calibration": calibration})
    assert "rounded to 0.5" in card
    assert "| Composition | 0.5 | 6.5 |\n| Lighting | 0.0 | 6.5 |\n" in card
    assert "only the comparison with the constant is of calibrated scores" in card
    assert "## Score calibration" not in render(tmp_path / "v2")


def test_a_card_names_no_person_and_no_folder(tmp_path: Path) -> None:
    release = write_release(tmp_path / "v0")
    private = {
        **with_base(f"{tmp_path}/home/ann/Qwen3-VL-4B", release),
        "by": "ann <ann@example.org>",
        "reason": "the club's evening at ann's",
        "path": "models/secret-lora-ansel",
    }
    card = render(tmp_path / "v1", private)
    assert "base_model: Qwen3-VL-4B\n" in card
    for word in ("ann", "home", str(tmp_path), "club", "secret", "/Users"):
        assert not re.search(rf"\b{re.escape(word)}\b", card), word


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-4B-Instruct"),
        ("models/base/mondrian-tiny", "mondrian-tiny"),
        ("/Users/ann/models/Qwen3-VL-4B/", "Qwen3-VL-4B"),
        ("./Qwen3-VL-4B", "Qwen3-VL-4B"),
    ],
)
def test_the_base_is_named_by_its_hub_id_or_its_folder(source: str, name: str) -> None:
    assert public_base_name(source) == name


def test_a_folder_that_looks_like_a_hub_id_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ann/base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_base_name("ann/base") == "base"


def test_vllm_is_only_shown_for_adapters_that_it_loads(tmp_path: Path) -> None:
    assert "vllm serve b --enable-lora --max-lora-rank 16" in render(tmp_path / "v1")
    configs: list[dict[str, Any]] = [{"use_dora": True}, {"target_modules": r".*visual\.merger"}]
    for i, config in enumerate(configs):
        card = render(tmp_path / f"c{i}", config=config)
        assert "vllm serve" not in card
        assert "vLLM cannot load it" in card


def test_a_packed_base_is_named(tmp_path: Path) -> None:
    source = "mlx-community/Qwen3-VL-4B-Instruct-4bit"
    card = render(tmp_path / "v1", with_base(source, write_release(tmp_path / "v0")))
    assert "trained on a packed copy" in card
    assert "trained on a packed copy" not in render(tmp_path / "v2")
