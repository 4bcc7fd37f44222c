"""The model card of a version: README.md in the form of the Hugging Face hub.

It names no person, no file and no folder of the machine on which the adapter was made.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from huggingface_hub import ModelCardData

from mondrian.core.adapter_folder import CONFIG_FILE, RECIPE_FILE
from mondrian.core.base_source import is_hub_id
from mondrian.core.files import read_json
from mondrian.core.html import render_template
from mondrian.critique.prompt import INSTRUCTIONS, USER_PROMPT
from mondrian.critique.rows import MIN_GROUPS
from mondrian.evaluation.headline import VAL, choose_headline
from mondrian.evaluation.preference import Preference
from mondrian.evaluation.summary import COMPARISON_LABELS, format_mean_interval
from mondrian.registry.release_record import FinalTest, Release

_PACKED = re.compile(r"-\d-?bit\b", re.IGNORECASE)


@dataclass(frozen=True)
class AdapterResults:
    """What is known about an adapter besides its test.

    evaluations  content of evaluate.json as `val`, and of the cross-validation if there is one
    preference   blind votes of a person, if there are any
    """

    evaluations: dict[str, dict[str, Any]]
    preference: Preference | None = None


def render_model_card(
    release: Release, results: AdapterResults, folder: Path, max_new_tokens: int
) -> str:
    """Return the content of README.md.

    folder  the adapter
    """
    evaluations = results.evaluations
    recipe, config = read_json(folder / RECIPE_FILE), read_json(folder / CONFIG_FILE)
    base = public_base_name(release.base.source)
    splits = evaluations | ({"test": release.test.model_dump()} if release.test else {})
    return render_template(
        "registry/model_card.md",
        metadata=_build_metadata(base),
        release=release,
        base=base,
        python_base=json.dumps(base, ensure_ascii=False),
        shell_base=quote(base),
        splits=list(splits),
        verdict_rows=_build_verdict_rows(list(splits.values())),
        data_rows=_build_data_rows(recipe, splits),
        preference=results.preference.describe() if results.preference else "",
        headline=choose_headline(evaluations[VAL])[0],
        calibration=release.calibration,
        instructions=INSTRUCTIONS,
        user_prompt=USER_PROMPT,
        max_new_tokens=max_new_tokens,
        lora=config,
        is_packed=bool(_PACKED.search(base)),
        runs_in_vllm=not (config["use_dora"] or "visual" in str(config["target_modules"])),
        test_limit=_describe_test_limit(release.test),
    )


def public_base_name(source: str) -> str:
    """Return the hub id of a base, or only the name of its folder."""
    if is_hub_id(source) and not Path(source).exists():
        return source
    return source.rstrip("/").rpartition("/")[2]


def _build_metadata(base: str) -> str:
    data = ModelCardData(
        base_model=base,
        base_model_relation="adapter",
        library_name="peft",
        pipeline_tag="image-text-to-text",
        tags=["lora", "photography", "critique", "mondrian"],
    )
    return str(data.to_yaml())


def _build_verdict_rows(splits: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    rows = [
        ("verdict", [split["verdict"] for split in splits]),
        ("photos", [str(split["photograph_groups"]) for split in splits]),
    ]
    for name, label in COMPARISON_LABELS.items():
        estimates = [split["comparisons"].get(name) for split in splits]
        if any(estimates):
            rows.append((label, [format_mean_interval(e) if e else "-" for e in estimates]))
    return rows


def _build_data_rows(
    recipe: dict[str, Any], splits: dict[str, dict[str, Any]]
) -> list[tuple[str, int, int]]:
    """Return name, critiques and critiques without scores of train, val and test."""
    train = ("train", recipe.get("train_rows", 0), recipe.get("train_text_only_rows", 0))
    held_out = [
        (name, split["photographs"], split["text_only_photographs"])
        for name, split in splits.items()
        if name in ("val", "test")
    ]
    return [train, *held_out]


def _describe_test_limit(test: FinalTest | None) -> str:
    if test is None:
        return "There is no test split: if settings were chosen by val, it favors the adapter."
    if test.photograph_groups < MIN_GROUPS:
        return f"The final test has {test.photograph_groups} photos, too few for a verdict."
    return "If settings were chosen by val, it favors the adapter; test chose nothing."
