"""Clean the texts of a critique, and recognize texts that only hold the place of one."""

import re
from collections.abc import Sequence
from typing import Any

from mondrian.critique.prompt import INSTRUCTIONS
from mondrian.critique.schema import DIMENSIONS
from mondrian.critique.thoughts import THOUGHT_TAG, remove_thoughts

# What a decoder writes for bytes that are not UTF-8, and half a character of UTF-16.
UNREADABLE = re.compile("[\ufffd\ud800-\udfff]")
_MAX_ROUNDS = 3  # of text that was decoded wrongly several times
# UTF-8 read as cp1252: a lead byte, then continuation bytes. Letters such as Å are lead bytes only
# in a text with surer signs of it.
_CONTINUATION = r"[\u0080-\u00bf\u0152-\u017e\u0192\u02c6-\u02dc\u2013-\u2122]"
_MOJIBAKE = re.compile(rf"[ÂÃ]{_CONTINUATION}|â{_CONTINUATION}{{2}}|ð{_CONTINUATION}{{3}}")
_MORE_MOJIBAKE = re.compile(rf"[Ä-Å]{_CONTINUATION}|{_MOJIBAKE.pattern}")
_PLACEHOLDER_WORDS = frozenset(
    """string str text tbd tba todo na none null nil undefined unknown empty blank example sample
    placeholder lorem ipsum comment comments recommendation recommendations description feedback
    commenthere recommendationhere descriptionhere texthere yourcomment yourcommenthere
    yourrecommendation yourrecommendationhere yourtexthere yourdescriptionhere insertcomment
    insertcommenthere insertrecommendationhere addcommenthere sampletext exampletext
    placeholdertext nocomment nocomments nocommentavailable notavailable notapplicable tobedone
    tobedetermined tobeadded tobefilled tobefilledin xxx xx asdf foo bar foobar test
    """.split()
)
_BRACKETED = re.compile(r"\s*(?:<[^<>]{1,200}>|\[[^\[\]]{1,200}\]|\{[^{}]{1,200}\})[.\s]*")
_INSTRUCTION = re.compile(  # Your comment here, Brief comment on Lighting
    r"\W*(?:(?:your|insert|add|enter|write|provide)\s(?:[\w&]+\s){0,4}(?:comments?|recommendations?"
    r"|feedback|description|text)\b(?:\shere|\s(?:on|about|for)\s(?:[\w&]+\s?){1,4})?"
    r"|(?:a\s)?(?:(?:brief|short|detailed|specific|actionable|concrete)\s)?(?:comment|feedback"
    r"|recommendation|description|suggestion)s?\s(?:here|(?:on|about|for|regarding)\s"
    r"(?:[\w&]+\s?){1,4}))\W*",
    re.IGNORECASE,
)
_MAX_INSTRUCTION = 80  # characters
_LOREM = re.compile(r"\s*lorem ipsum\b", re.IGNORECASE)
_MIN_EXAMPLE = 4  # letters of an example in a prompt that is more than a common word


def clean_texts(value: Any, repairs: list[str]) -> Any:
    """Return JSON with all texts cleaned: UTF-8 read as cp1252, and thoughts in tags."""
    if isinstance(value, dict):
        return {key: clean_texts(item, repairs) for key, item in value.items()}
    if isinstance(value, list):
        return [clean_texts(item, repairs) for item in value]
    if not isinstance(value, str):
        return value
    text = value
    for _ in range(_MAX_ROUNDS):
        pattern = _MORE_MOJIBAKE if _MOJIBAKE.search(text) else _MOJIBAKE
        fixed = pattern.sub(_decode_again, text)
        if fixed == text:
            break
        text = fixed
        repairs.append("mojibake")
    if THOUGHT_TAG.search(text) and _has_pairs_of_tags(text):
        text = " ".join(remove_thoughts(text).split())
        repairs.append("thoughts")
    return text


def needs_cleaning(text: str) -> bool:
    return bool(THOUGHT_TAG.search(text) or _MOJIBAKE.search(text))


def find_placeholder(texts: Sequence[str]) -> str | None:
    """Return the first text that says nothing: no word, TBD, string, <comment here>."""
    return next(filter(is_placeholder, texts), None)


def is_placeholder(text: str) -> bool:
    if len(text) < _MAX_INSTRUCTION:
        letters = "".join(filter(str.isalpha, text)).lower()
        if not letters or letters in _PLACEHOLDER_WORDS or letters in _OWN_WORDS:
            return True
        if _INSTRUCTION.fullmatch(text):
            return True
    elif not any(map(str.isalpha, text)):
        return True
    return bool(_BRACKETED.fullmatch(text) or _LOREM.match(text))


def _own_words() -> frozenset[str]:
    """Return the letters of what says nothing here: dimension names, and our prompt's words."""
    texts = [*DIMENSIONS, *(line.partition(":")[2] for line in INSTRUCTIONS.splitlines())]
    return frozenset("".join(filter(str.isalpha, text)).lower() for text in texts)


_OWN_WORDS = _own_words()


def count_examples(texts: Sequence[str], prompts: Sequence[str]) -> int:
    """Return how many texts are, as a whole, a quoted text of a prompt."""
    if not prompts:
        return 0
    words = (text for text in texts if sum(map(str.isalpha, text)) >= _MIN_EXAMPLE)
    return sum(any(_is_quoted(text, prompt) for prompt in prompts) for text in words)


def all_texts(value: Any) -> list[str]:
    """Return all texts in JSON, without keys; of deeply nested lists only the outer ones."""
    texts, pending = [], [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, dict):
            pending.extend(reversed(item.values()))
        elif isinstance(item, list):
            pending.extend(reversed(item))
    return texts


def _is_quoted(text: str, prompt: str) -> bool:
    position = prompt.find(text)
    while position >= 0:
        around = prompt[position - 1 : position], prompt[position + len(text) :][:1]
        if all(quote in ('"', "'", "\\", "“", "”", "‘", "’") for quote in around):
            return True
        position = prompt.find(text, position + 1)
    return False


def _decode_again(match: re.Match[str]) -> str:
    try:
        decoded = b"".join(map(_cp1252_byte, match[0])).decode("utf-8")
    except UnicodeError:
        return match[0]
    return decoded


def _cp1252_byte(character: str) -> bytes:
    """Return the byte that cp1252 reads as a character; five bytes are undefined and stay."""
    if "\x80" <= character < "\xa0":
        return character.encode("latin-1")
    return character.encode("cp1252")


def _has_pairs_of_tags(text: str) -> bool:
    tags = [bool(tag[1] or tag[2]) for tag in THOUGHT_TAG.finditer(text)]
    return tags == [False, True] * (len(tags) // 2)
