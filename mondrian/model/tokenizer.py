"""Tokenize rows with a base's own tokenizer, or approximately if it is not installed."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from mondrian.core.errors import BaseModelError, one_line
from mondrian.core.params import IMAGE_PLACEHOLDER
from mondrian.critique.prompt import build_chat_messages

Spans = list[tuple[int, int]]  # first character and end of each token
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class ChatTokenizer:
    """A base's own tokenizer and chat template."""

    tokenizer: Any
    image_id: int

    def tokenize_prompt(self, messages: Messages, image_tokens: int) -> list[int]:
        """Tokenize everything before the completion, image tokens included."""
        text = self.tokenizer.apply_chat_template(
            build_chat_messages(messages), tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids.count(self.image_id) != 1:
            raise BaseModelError(
                f"the prompt has {ids.count(self.image_id)} image tokens, expected one; see "
                "personas in params.yaml and the base's chat template"
            )
        image_start = ids.index(self.image_id)
        return [*ids[:image_start], *[self.image_id] * image_tokens, *ids[image_start + 1 :]]

    def tokenize_completion(self, text: str) -> tuple[list[int], Spans]:
        """Tokenize a completion and its end token, with the characters of each token."""
        encoding = self.tokenizer(
            text + self.tokenizer.eos_token, add_special_tokens=False, return_offsets_mapping=True
        )
        return list(encoding["input_ids"]), list(encoding["offset_mapping"])


class ApproximateTokenizer:
    """Count words of up to seven letters, signs and line ends as tokens; for plans only."""

    image_id = -1
    _PIECE = re.compile(r" ?\w{1,7}|[^\w\s]+|\s+")

    def tokenize_prompt(self, messages: Messages, image_tokens: int) -> list[int]:
        prompt_text = "".join(f"<|{m['role']}\n{m['content']}|>\n" for m in messages)
        before, after = prompt_text.split(IMAGE_PLACEHOLDER)
        return [*self._ids(before), *[self.image_id] * image_tokens, *self._ids(after + "<|")]

    def tokenize_completion(self, text: str) -> tuple[list[int], Spans]:
        spans = [match.span() for match in self._PIECE.finditer(text)]
        return [*self._ids(text), 0], [*spans, (len(text), len(text))]

    def _ids(self, text: str) -> list[int]:
        return [crc32(piece.encode()) >> 1 for piece in self._PIECE.findall(text)]


RowTokenizer = ChatTokenizer | ApproximateTokenizer


def load_tokenizer(folder: Path | None, image_id: int) -> RowTokenizer:
    """Load the tokenizer of a base's folder, or an approximate one if it has none."""
    if folder is None or not (folder / "tokenizer_config.json").is_file():
        return ApproximateTokenizer()
    from mlx_vlm.models.base import load_chat_template
    from transformers import AutoTokenizer

    try:
        part = "tokenizer"
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        part = "chat_template.json"
        load_chat_template(tokenizer, folder)  # as mlx-vlm does for training
    except Exception as error:  # transformers raises many types for a damaged file
        message = one_line(error, 160)
        raise BaseModelError(f"{folder} has a damaged {part}: {message}; copy it again") from None
    check_chat_template(tokenizer, str(folder))
    return ChatTokenizer(tokenizer, image_id)


def check_chat_template(tokenizer: Any, source: str) -> None:
    """Raise BaseModelError if a base has no chat template, or one that starts with thoughts."""
    if not tokenizer.chat_template:
        raise BaseModelError(
            f"{source} has no chat template: copy chat_template.jinja or chat_template.json of "
            "the model too"
        )
    messages = build_chat_messages([{"role": "user", "content": "?"}])
    try:
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # jinja2 raises many types for a damaged template
        message = one_line(error, 160)
        raise BaseModelError(
            f"{source} has a damaged chat template: {message}; copy it again"
        ) from None
    if prompt.rstrip().endswith("<think>"):
        raise BaseModelError(
            f"{source} writes thoughts before its answer, which the critique's format forbids; use "
            "an Instruct model"
        )
