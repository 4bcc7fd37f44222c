"""Preference rows: two critiques of one photo, the better and the worse, in the form of TRL.

A line of the file has `prompt`, `chosen`, `rejected` and `images` as TRL reads them (its
docs/source/dataset_formats.md: preference, conversational, with images), and what Mondrian needs
to keep photos of val and test out of training.
"""

import json
from pathlib import Path
from typing import Any, Self

from mondrian.core.errors import DataError, one_line
from mondrian.core.params import IMAGE_PLACEHOLDER
from mondrian.critique.prompt import build_chat_messages
from mondrian.critique.rows import ChatRow, locate_image
from mondrian.critique.schema import validate_critique

_FIX = "run the stage preferences again: dvc repro"
_ROW_FIELDS = ("images", "id", "photo", "photo_group", "prompt_hash")  # copied from ChatRow


class PreferenceRow(ChatRow):
    """A critique, which is the last message, and a worse one of the same photo."""

    rejected: str

    @classmethod
    def prefer(cls, row: ChatRow, rejected: str) -> Self:
        return cls(**row.model_dump(), rejected=rejected)

    def format_line(self, provenance: dict[str, str]) -> str:
        """Return the row as a line of JSON; contents are lists, as a column has one type."""
        *prompt, chosen = [_with_parts(**m) for m in build_chat_messages(self.messages)]
        row: dict[str, Any] = {
            "prompt": prompt,
            "chosen": [chosen],
            "rejected": [_with_parts("assistant", self.rejected)],
        }
        row |= {name: getattr(self, name) for name in _ROW_FIELDS}
        return json.dumps(row | {"provenance": provenance}, ensure_ascii=False)

    @classmethod
    def parse_line(cls, line: str) -> Self:
        """Parse what `format_line` returns; raises ValueError, KeyError or TypeError."""
        row = json.loads(line)
        messages = [
            {"role": message["role"], "content": _join_parts(message["content"])}
            for message in (*row["prompt"], *row["chosen"])
        ]
        (rejected,) = row["rejected"]
        fields = {name: row[name] for name in _ROW_FIELDS}
        parsed = cls(messages=messages, rejected=_join_parts(rejected["content"]), **fields)
        for text in (parsed.messages[-1]["content"], parsed.rejected):
            validate_critique(text)
        return parsed


def preferences_path(folder: Path, advisor: str) -> Path:
    return folder / f"preferences_{advisor}.jsonl"


def read_preference_rows(path: Path) -> list[PreferenceRow]:
    """Read the rows, perhaps none; raises DataError if they are invalid or an image is missing."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; {_FIX}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason}); {_FIX}") from None
    rows = []
    for number, line in enumerate(filter(None, text.split("\n")), 1):
        try:
            rows.append(PreferenceRow.parse_line(line))
        except (TypeError, ValueError, KeyError, RecursionError) as error:
            raise DataError(
                f"{path}: line {number} is not a preference row: {one_line(error, 160)}"
            ) from None
    return [locate_image(row, path, _FIX) for row in rows]


def _with_parts(role: str, content: Any) -> dict[str, Any]:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return {"role": role, "content": parts}


def _join_parts(parts: list[dict[str, str]]) -> str:
    return "".join(IMAGE_PLACEHOLDER if p["type"] == "image" else p["text"] for p in parts)
