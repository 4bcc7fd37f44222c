"""The one prompt of prepare, train, evaluate and service: advisor -> chat messages.

Instructions and advisor are in the system message and the image comes last, so that all text is a
prefix shared by all photos of an advisor.
"""

import json
from hashlib import sha256
from typing import Any

from mondrian.core.params import IMAGE_PLACEHOLDER
from mondrian.critique.schema import DIMENSIONS

INSTRUCTIONS = (
    "Critique the photograph. Answer with one JSON object on one line and nothing else, "
    "with these keys in this order:\n"
    "image_description: what the photograph shows.\n"
    "dimensions: seven objects with name, score, comment, recommendation, one each for "
    f"{', '.join(DIMENSIONS)}. A score is a number from 0 to 10.\n"
    "overall_score: a number from 0 to 10.\n"
    "key_strengths: one to five short texts.\n"
    "priority_improvements: one to five short texts.\n"
    "technical_notes: exposure, focus and processing.\n"
    "Judge this photograph alone."
)
USER_PROMPT = "Critique this photograph."


def build_system_prompt(persona: str) -> str:
    return f"{INSTRUCTIONS}\n{persona.strip()}"


def build_row_messages(persona: str, answer: str) -> list[dict[str, str]]:
    """Return the messages of a prepared row: plain strings, the image as IMAGE_PLACEHOLDER."""
    return [
        {"role": "system", "content": build_system_prompt(persona)},
        {"role": "user", "content": f"{USER_PROMPT}{IMAGE_PLACEHOLDER}"},
        {"role": "assistant", "content": answer},
    ]


def build_chat_messages(messages: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Replace IMAGE_PLACEHOLDER by an image part, as chat templates expect it."""
    return [{"role": m["role"], "content": _split_content(m["content"])} for m in messages]


def prompt_hash(persona: str) -> str:
    """Return the sha256 of all messages before the answer; the photo is not part of it."""
    messages = build_row_messages(persona, "")[:-1]
    return sha256(json.dumps(messages, ensure_ascii=False).encode()).hexdigest()


def _split_content(content: str) -> str | list[dict[str, str]]:
    if IMAGE_PLACEHOLDER not in content:
        return content
    before, after = content.split(IMAGE_PLACEHOLDER, 1)
    parts = [{"type": "text", "text": before}, {"type": "image"}, {"type": "text", "text": after}]
    return [part for part in parts if part.get("text", "image")]
