"""The short form of benchmarks/full_size.py: four layers of a quarter of the width of a 4B."""

from pathlib import Path

import pytest

from benchmarks.full_size import rehearse

LAYERS = 4


@pytest.mark.slow
def test_a_base_of_the_4b_s_shape_is_planned_trained_and_answers(tmp_path: Path) -> None:
    results = rehearse(tmp_path, LAYERS)

    if results["build"]["tokenizer"] == "Qwen3's":  # else npm or its registry is missing
        assert results["count_tokens"]["prompt_tokens_768"] == 945
    constrained = results["decode_constrained"]
    assert constrained["schema_valid"] == constrained["critiques"]
    assert constrained["longest_tokens"] <= constrained["max_new_tokens"]
    training = results["train"]
    assert training["steps"] == 2
    # The plan leaves out what packed products hold in flight: a chunk of logits and 0.1 GB.
    assert training["planned_peak_gb"] == pytest.approx(training["peak_gb"], abs=0.25)
    assert results["compare_with_peft"]["tensors"] == LAYERS * 7 * 2
    answers = results["compare_answers"]
    assert answers["largest_difference_from_mlx_vlm"] < 1e-4 * answers["largest_logit"]
    assert answers["base_tokens"] != answers["adapter_tokens"]
