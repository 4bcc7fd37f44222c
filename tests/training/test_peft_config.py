"""adapter_config.json of other trainers: what is a plain LoRA, and what is not."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mondrian.training.peft_config import has_same_base, simplify_peft_config

MODULES = [
    f"model.language_model.layers.{i}.{name}"
    for i in range(2)
    for name in ("self_attn.q_proj", "mlp.down_proj")
]
PLAIN = {"peft_type": "LORA", "r": 16, "lora_alpha": 32}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize(
    "config",
    [
        {"r": 16.0, "lora_alpha": 32.0},
        {"rank_pattern": {"q_proj": 16}, "alpha_pattern": {"down_proj": 32}},
        {"r": 8, "rank_pattern": {"q_proj": 16, "down_proj": 16}},
        {"r": 8, "rank_pattern": {r".*\.layers\.\d+\..*_proj": 16}},
        {"r": 8, "lora_alpha": 1, "rank_pattern": {"q_proj|down_proj": 16},
         "alpha_pattern": {"q_proj|down_proj": 32}},
        {"target_modules": "all-linear", "layers_to_transform": [1], "layers_pattern": "layers"},
        {"bias": "none", "modules_to_save": [], "use_qalora": False, "new_key": None},
    ],
)  # fmt: skip
def test_a_plain_lora_is_accepted_in_each_spelling(config: dict[str, Any]) -> None:
    simple = simplify_peft_config(PLAIN | config, MODULES)
    assert (simple["r"], simple["lora_alpha"], type(simple["r"])) == (16, 32, int)
    assert simple["rank_pattern"] == simple["alpha_pattern"] == {}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"bias": "all"}, "bias is 'all'; train without"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"of_a_later_version": {"a": 1}}, "of_a_later_version is {'a': 1}"),
        ({"init_lora_weights": "pissa"}, "'pissa' changed the base's weights"),
        ({"r": 16.5}, "r is 16.5; it must be a whole number"),
        ({"r": True}, "r is True"),
        ({"r": None}, "r is None"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x'"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        (
            {"rank_pattern": {"q_proj": 8}},
            "rank_pattern gives r 16 for .*down_proj' and 8 for .*q_proj'",
        ),
        ({"alpha_pattern": {"layers.0.*": 8}}, "alpha_pattern gives lora_alpha 8 for .*and 32 for"),
        ({"rank_pattern": {"(": 8}}, r"rank_pattern has the pattern '\('; it must be"),
        ({"alpha_pattern": {"(?=a)b": 8}}, r"has the pattern '\(\?=a\)b'; .* without lookaround"),
        ({"rank_pattern": {"a{9999999999}": 8}}, r"has the pattern 'a\{9999999999}'"),
        ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
        ({"use\x1b": 1}, r"'use\\x1b' is 1"),
        ({"rank_pattern": [8]}, r"rank_pattern is \[8\]"),
    ],
)
def test_what_is_more_than_a_plain_lora_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simplify_peft_config(PLAIN | config, MODULES)


@pytest.mark.parametrize("pattern", ["(a+)+b", "((a*)*)*b", "(a|a)" * 40 + "b"])
def test_no_pattern_takes_exponential_time(pattern: str) -> None:
    simple = simplify_peft_config(PLAIN | {"rank_pattern": {pattern: 8}}, ["a" * 10_000])
    assert simple["r"] == 16


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"use_qalora is True.*; r is 0"):
        simplify_peft_config(PLAIN | {"use_qalora": True, "r": 0}, MODULES)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "bias",
                         "init_lora_weights", "target_modules"]) | st.text(max_size=4),
        json_values,
    )
)  # fmt: skip
def test_any_config_is_simplified_or_refused(config: dict[str, Any]) -> None:
    try:
        simple = simplify_peft_config(config, MODULES)
    except ValueError:
        return
    assert isinstance(simple["r"], int)
    assert simple["r"] > 0
    assert simple["lora_alpha"] > 0


@settings(deadline=None)
@given(st.integers(1, 512), st.integers(1, 512), st.integers(0, 15))
def test_a_pattern_counts_only_if_it_leaves_one_rank(r: int, other: int, mask: int) -> None:
    pattern = {name: other for i, name in enumerate(MODULES) if mask >> i & 1}
    config = PLAIN | {"r": r, "rank_pattern": pattern}
    ranks = {pattern.get(name, r) for name in MODULES}
    if len(ranks) == 1:
        assert simplify_peft_config(config, MODULES)["r"] in ranks
    else:
        with pytest.raises(ValueError, match="train with one r for all modules"):
            simplify_peft_config(config, MODULES)


@pytest.mark.parametrize(
    ("trained_on", "same"),
    [
        ("Qwen/Qwen3-VL-4B-Instruct", True),
        ("/data/models/Qwen3-VL-4B-Instruct/", True),
        (r"C:\models\qwen3-vl-4b-instruct", True),
        ("mlx-community/Qwen3-VL-4B-Instruct-4bit", True),
        ("unsloth/Qwen3-VL-4B-Instruct-unsloth-bnb-4bit", True),
        ("/data/hub/models--Qwen--Qwen3-VL-4B-Instruct/snapshots/89e3a1", True),
        ("Qwen/Qwen3-VL-8B-Instruct", False),
        ("Qwen/Qwen3-VL-4B-Thinking", False),
        ("Qwen/Qwen2.5-VL-3B-Instruct", False),
    ],
)
def test_a_base_is_compared_by_its_own_name(trained_on: str, same: bool) -> None:
    assert has_same_base(trained_on, "Qwen/Qwen3-VL-4B-Instruct", "Qwen3-VL-4B") == same
