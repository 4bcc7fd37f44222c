"""A prepared row of a rendered photo, for self-tests, benchmarks and tests."""

from pathlib import Path

from mondrian.critique.prompt import build_row_messages, prompt_hash
from mondrian.critique.rows import ChatRow
from mondrian.critique.schema import Critique, serialize_critique


def build_chat_row(critique: Critique, image: Path, persona: str) -> ChatRow:
    """Return the row of a critique by ansel; the image's name is its id, and a group of its own."""
    return ChatRow(
        messages=build_row_messages(persona, serialize_critique(critique)),
        images=[str(image)],
        id=f"ansel/{image.stem}",
        photo="",
        photo_group=image.stem,
        prompt_hash=prompt_hash(persona),
    )
