"""The chat template of a base, in the files in which models are published."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mondrian.core.errors import BaseModelError
from mondrian.critique.rows import ChatRow
from mondrian.model import vlm
from mondrian.model.tokenizer import load_tokenizer
from tests.conftest import ROOT

TINY = ROOT / "models/base/mondrian-tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of mondrian-tiny without its chat template."""
    shutil.copytree(TINY, tmp_path / "base", ignore=shutil.ignore_patterns("*.jinja"))
    return tmp_path / "base"


def write_template(folder: Path, template: str) -> None:
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))


def test_a_template_in_chat_template_json_gives_the_same_prompt_in_plan_and_training(
    folder: Path, base_vlm: Any, rows: list[ChatRow]
) -> None:
    write_template(folder, (TINY / "chat_template.jinja").read_text())
    prompt = rows[0].messages[:-1]
    expected = base_vlm.tokenizer.tokenize_prompt(prompt, 20)
    assert load_tokenizer(folder, base_vlm.image_id).tokenize_prompt(prompt, 20) == expected
    assert vlm.load(str(folder)).tokenizer.tokenize_prompt(prompt, 20) == expected


def test_a_base_without_a_template_is_refused(folder: Path) -> None:
    message = "has no chat template: copy chat_template.jinja or chat_template.json"
    with pytest.raises(BaseModelError, match=message):
        load_tokenizer(folder, 0)
    with pytest.raises(BaseModelError, match=message):
        vlm.load(str(folder))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{- '<|im_start|>assistant\\n<think>\\n' }}", "writes thoughts before its answer"),
        ("{%- for message in messages %}", "has a damaged chat template"),
        ("{{ raise_exception('no system message') }}", "no system message"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(
    folder: Path, template: str, message: str
) -> None:
    write_template(folder, template)
    with pytest.raises(BaseModelError, match=message) as caught:
        load_tokenizer(folder, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{}"])
def test_a_damaged_chat_template_json_is_named(folder: Path, text: str) -> None:
    (folder / "chat_template.json").write_text(text)
    with pytest.raises(BaseModelError, match="has a damaged chat_template.json"):
        load_tokenizer(folder, 0)


def test_a_base_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"has no weights \(\*\.safetensors\); hf download"):
        vlm.load(str(folder))
