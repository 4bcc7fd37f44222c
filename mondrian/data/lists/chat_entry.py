"""Chat rows of other trainers: photo, prompt and critique from messages.

Layouts: `messages` with `images` (ms-swift, TRL, mlx-vlm), with image parts in the content (TRL,
OpenAI); `conversations` with `from` and `value` (LLaMA-Factory, LLaVA); lists `prompt` and
`completion` (TRL). Rows without messages (`instruction`, `question`, …) have plain keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from mondrian.critique.rejection import Rejection, RejectionReason

_MESSAGE_KEYS = ("messages", "conversations", "conversation")
_ANSWER_ROLES = ("assistant", "gpt", "model", "bot")
_PROMPT_KEYS = ("system", "prompt", "instruction", "input", "question", "query")
_IMAGE_KEYS = ("images", "image")
_PART_KEYS = ("image", "image_url", "url", "path", "file", "source", "bytes", "data")
_SAVE = "save it as a file and give its path"
DATA_URI_DETAIL = f"the photo is in the row as a data URI; {_SAVE}"


@dataclass(frozen=True)
class Chat:
    critique: Any  # content of the last message by the assistant; None if there is none
    prompt: str
    images: tuple[Any, ...]  # as stored: paths or objects


def read_chat(entry: dict[str, Any]) -> Chat | None:
    """Return the content of a chat row; None if the entry is none."""
    messages = _find_messages(entry)
    if messages is None:
        return None
    turns = [turn for message in messages for turn in _read_turns(message)]
    answers = [content for role, content in turns if role in _ANSWER_ROLES]
    prompts = [_read_text(content) for role, content in turns if role not in _ANSWER_ROLES]
    stored = [image for key in _IMAGE_KEYS for image in _as_list(entry.get(key))]
    parts = [image for _, content in turns for image in _find_images(content)]
    critique = answers[-1] if answers else None
    return Chat(
        critique if isinstance(critique, dict) else _read_text(critique) or None,
        "\n".join([*filter(None, [plain_prompt(entry), *prompts])]),
        (*stored, *parts),
    )


def plain_prompt(entry: dict[str, Any]) -> str:
    """Return the prompt of an entry outside its messages."""
    texts = (entry.get(key) for key in _PROMPT_KEYS)
    return "\n".join(text for text in texts if text and isinstance(text, str))


def locate_image(images: tuple[Any, ...]) -> str | Rejection:
    """Return the path of an entry's one photo, or why it has none; empty if none is named."""
    paths = []
    for stored in images:
        path = _image_path(stored)
        if isinstance(path, Rejection):
            return path
        if path and path not in paths:
            paths.append(path)
    if len(paths) > 1:
        detail = f"{len(paths)} images in one row ({', '.join(paths)[:120]}); one is needed"
        return Rejection(RejectionReason.IMAGE_AMBIGUOUS, detail)
    return paths[0] if paths else ""


def _find_messages(entry: dict[str, Any]) -> list[Any] | None:
    for key in _MESSAGE_KEYS:
        if isinstance(entry.get(key), list):
            return list(entry[key])
    prompt, completion = entry.get("prompt"), entry.get("completion")
    if not isinstance(prompt, list) and not isinstance(completion, list):
        return None
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    return [*_as_list(prompt), *_as_list(completion)]


def _read_turns(message: Any) -> Iterator[tuple[str, Any]]:
    """Yield role and content of a message; an older row of ms-swift has two in one object."""
    if not isinstance(message, dict):
        return
    role = message.get("role", message.get("from"))
    if isinstance(role, str):
        yield role.strip().lower(), message.get("content", message.get("value"))
        return
    for name in ("system", "human", "user", *_ANSWER_ROLES):
        if name in message:
            yield name, message[name]


def _read_text(content: Any) -> str:
    """Return a message as text: its text parts, one after another."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else []:
        text = part.get("text") or part.get("content") if isinstance(part, dict) else part
        texts += [text] if isinstance(text, str) else []
    return "".join(texts)


def _find_images(content: Any) -> Iterator[Any]:
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and "image" in str(part.get("type", "")):
            yield {key: part[key] for key in _PART_KEYS if key in part}


def _as_list(stored: Any) -> list[Any]:
    return stored if isinstance(stored, list) else [stored] if stored else []


def _image_path(stored: Any) -> str | Rejection:
    """Return a path as stored; empty for a placeholder without one."""
    for _ in range(4):  # {"image_url": {"url": …}}
        if not isinstance(stored, dict):
            break
        keys = (key for key in ("path", *_PART_KEYS) if stored.get(key))
        key = next(keys, "")
        if key in ("bytes", "data"):
            return Rejection(RejectionReason.IMAGE_MISSING, f"the photo is in the row; {_SAVE}")
        stored = stored.get(key)
    if stored is None or isinstance(stored, dict | list | bool):
        return ""
    path = str(stored).strip()
    scheme = path[:8].lower().partition(":")[0]
    if scheme == "data":
        return Rejection(RejectionReason.IMAGE_MISSING, DATA_URI_DETAIL)
    if scheme == "file":
        return _file_path(path)
    if "://" in path[:12]:
        detail = f"the photo is a web address ({path[:80]}); {_SAVE}"
        return Rejection(RejectionReason.IMAGE_MISSING, detail)
    return path


def _file_path(address: str) -> str:
    try:
        return unquote(urlsplit(address).path)
    except ValueError:  # an invalid host
        return address
