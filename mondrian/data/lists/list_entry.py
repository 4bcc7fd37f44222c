"""One entry of a list -> a job: with the keys of docs/database.md, columns, or a chat."""

import json
from dataclasses import replace
from typing import Any

from mondrian.core.fields import first_timestamp
from mondrian.critique.json_extract import is_critique
from mondrian.critique.parser import MAX_CHARACTERS
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.data.jobs import PHOTO_KEYS, TEXT_KEYS, Job, answer_to_text
from mondrian.data.lists.chat_entry import DATA_URI_DETAIL, locate_image, plain_prompt, read_chat
from mondrian.data.lists.headings import heading_keys, merge_columns

_METADATA_KEYS = {*PHOTO_KEYS, "id", "advisor", "prompt", "mode", "model", "adapter", "created_at"}


class EntryDecoder:
    """Decodes JSON; `problem` names a key of the last value that has two different values."""

    def __init__(self) -> None:
        self.problem = ""
        self._decoder = json.JSONDecoder(strict=False, object_pairs_hook=self._make_object)

    def decode(self, text: str, start: int = 0) -> tuple[Any, int]:
        """Return the value that begins there and its end; raises ValueError or RecursionError."""
        self.problem = ""
        return self._decoder.raw_decode(text, start)

    def _make_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            names = [key for key, item in pairs if item != value[key]]
            self.problem = f"{names[0][:40]!r} has two different values" if names else self.problem
        return value


def decode_line(text: str, name: str, kind: str, decoder: EntryDecoder) -> Job:
    """Return the job of an entry that stands on a line of its own, valid or not."""
    body = text.strip()
    try:
        entry, end = decoder.decode(body)
        problem = decoder.problem or ("text after the object" if body[end:].strip(", ") else "")
    except (ValueError, RecursionError) as error:
        entry, problem = None, str(error)[:120]
        if isinstance(error, json.JSONDecodeError) and _is_cut_off(error, body):
            return reject_entry(name, RejectionReason.TRUNCATED, f"cut off after {body[-40:]!r}")
    if not body.startswith("{"):
        return Job(id=name, filename="", text=text, text_from=kind)
    if problem or not isinstance(entry, dict):
        return reject_malformed(name, entry, problem)
    return entry_to_job(entry, name, kind)


def reject_malformed(name: str, entry: Any, problem: str) -> Job:
    """Return the job of an entry with an error; it counts for its advisor, if it names one."""
    job = reject_entry(name, RejectionReason.MALFORMED_JSON, problem)
    advisor = _read_advisor(entry.get("advisor")) if isinstance(entry, dict) else ""
    return replace(job, advisor=advisor)


def reject_entry(name: str, reason: RejectionReason, detail: str) -> Job:
    return Job(id=name, filename="", text_from="list", rejection=Rejection(reason, detail))


def reject_long_entry(name: str, place: str, start: str, length: int) -> Job:
    """Return the job of an entry that is not read because of its length in characters."""
    if "data:image/" in start or ";base64," in start:
        return reject_entry(name, RejectionReason.IMAGE_MISSING, DATA_URI_DETAIL)
    detail = f"{place} has {length:,} characters; at most {MAX_CHARACTERS:,}"
    return reject_entry(name, RejectionReason.TOO_LONG, detail)


def entry_to_job(stored: dict[str, Any], name: str, kind: str) -> Job:
    """Return the job of an entry; its id is `name` if it has none."""
    entry, chat = stored, read_chat(stored)
    has_text = chat is not None or is_critique(entry) or any(entry.get(k) for k in TEXT_KEYS)
    if not has_text:
        entry = merge_columns(dict(zip(heading_keys(map(str, entry)), entry.values(), strict=True)))
    images = chat.images if chat else ()
    photo = locate_image(images or _plain_images(entry))
    critique = chat.critique if chat else _find_critique(entry)
    return Job(
        id=_read_id(entry.get("id")) or name,
        filename=photo if isinstance(photo, str) else "",
        advisor=_read_advisor(entry.get("advisor")),
        text=answer_to_text(critique),
        text_from="chat" if chat else kind,
        rejection=photo if isinstance(photo, Rejection) else None,
        keys=", ".join(map(str, stored))[:200],
        timestamp=first_timestamp([entry.get("created_at")]),
        prompt=chat.prompt if chat else plain_prompt(entry),
        mode=str(entry.get("mode") or ""),
        model=str(entry.get("model") or ""),
        adapter=str(entry.get("adapter") or ""),
    )


def _plain_images(entry: dict[str, Any]) -> tuple[Any, ...]:
    image = next((entry[key] for key in PHOTO_KEYS if entry.get(key)), None)
    return tuple(image) if isinstance(image, list) else (image,)


def _find_critique(entry: dict[str, Any]) -> Any:
    text = next((entry[key] for key in TEXT_KEYS if entry.get(key)), None)
    if text is None and is_critique(entry):
        return {key: value for key, value in entry.items() if key not in _METADATA_KEYS}
    return text


def _read_id(stored: Any) -> str:
    """Return an id as text; empty for one that is neither text nor a number."""
    if isinstance(stored, bool) or not isinstance(stored, str | int | float):
        return ""
    return str(stored).strip()[:200].encode(errors="replace").decode()


def _read_advisor(stored: Any) -> str:
    return ", ".join(map(str, stored)) if isinstance(stored, list) else str(stored or "")


def _is_cut_off(error: json.JSONDecodeError, text: str) -> bool:
    if not text.startswith("{"):
        return False
    return error.pos >= len(text) or error.msg.startswith("Unterminated string")
