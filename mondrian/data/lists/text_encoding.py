"""Find the encoding of a text file: from its byte order mark, as UTF-8, or an older one.

Of the older encodings that charset-normalizer finds possible, the one is taken that has letters
and punctuation at their usual positions in words: its own ranking is often wrong on short lists.
"""

import codecs
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from charset_normalizer import from_bytes

SAMPLE_BYTES = 65536  # at the start of a file
_BLOCK_BYTES = 1 << 20
_MAX_EVIDENCE = 8192  # bytes around the first characters that are not ASCII
_MARKS = {  # of UTF-32 before UTF-16, whose mark it contains
    codecs.BOM_UTF8: ("utf-8-sig", "UTF-8"),
    codecs.BOM_UTF32_LE: ("utf-32", "UTF-32"),
    codecs.BOM_UTF32_BE: ("utf-32", "UTF-32"),
    codecs.BOM_UTF16_LE: ("utf-16", "UTF-16"),
    codecs.BOM_UTF16_BE: ("utf-16", "UTF-16"),
}
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_LATIN = ["cp1252", "mac_roman", "cp850", "cp1250"]  # the usual ones of spreadsheets first
_OLDER = [*_LATIN, "cp1251", "koi8_r", "cp932", "gb18030"]
_ENOUGH = 10_000  # invalid bytes, after which the rest of a file is not examined
_MIN_PLAUSIBILITY = 0.6
_MIN_OTHER = 8  # characters of another script: fewer are stray bytes
_EVIDENCE = re.compile(rb"(?:[\x00-\x7f]{0,30}[\x80-\xff]+)+[\x00-\x7f]{0,30}")
_OPENING, _CLOSING = "“‘«„‚¿¡", "”’»"
_DASHES, _UNITS, _SIGNS = "–—…", "°²³%ªº", "±×÷½¼¾•·€£§©®™ƒ¥¢\u00a0"


@dataclass(frozen=True)
class TextEncoding:
    codec: str  # for open()
    note: str = ""  # what the list was read as; empty for UTF-8


def detect_encoding(path: Path) -> TextEncoding | None:
    """Return the encoding of a text file; None for a binary one."""
    with path.open("rb") as file:
        start = file.read(SAMPLE_BYTES)
    for mark, (codec, name) in _MARKS.items():
        if start.startswith(mark):
            return TextEncoding(codec, "" if name == "UTF-8" else f"list read as {name}")
    wide = _detect_wide(start) if b"\0" in start else None
    if wide:
        return TextEncoding(wide, f"list read as {wide.upper()}")
    older, is_utf8 = _detect_older(path)
    if older:
        return TextEncoding(older, f"list read as {older}")
    return None if b"\0" in start and not is_utf8 else TextEncoding("utf-8")


def _detect_wide(start: bytes) -> str | None:
    """Return the UTF-16 or UTF-32 in which a text without a mark has the most ASCII, if any."""
    shares = {}
    for codec in _WIDE:
        try:
            text = codecs.getincrementaldecoder(codec)().decode(start)
        except UnicodeDecodeError:
            continue
        if text and all(c in "\t\r\n" or unicodedata.category(c)[0] != "C" for c in text):
            shares[codec] = sum(map(str.isascii, text)) / len(text)
    best = max(shares, key=lambda codec: shares[codec], default=None)
    return best if best and shares[best] > 0.1 else None


def _detect_older(path: Path) -> tuple[str | None, bool]:
    """Return the older encoding of a file that is not UTF-8, and whether it is UTF-8 throughout.

    A file with more valid than invalid UTF-8 characters has none: its invalid bytes are errors.
    """
    valid = invalid = 0
    evidence = bytearray()
    for block in _blocks(path):
        try:
            valid += len(block) - len(block.decode())  # bytes that continue a character
        except UnicodeDecodeError:
            text = block.decode(errors="replace")
            damaged = text.count("\ufffd") - block.count("\ufffd".encode())
            invalid += damaged
            valid += len(re.findall(r"[^\x00-\x7f]", text)) - damaged
            if len(evidence) < _MAX_EVIDENCE:
                evidence += b"\n".join(_EVIDENCE.findall(block[: 8 * _MAX_EVIDENCE]))
                if not evidence:
                    evidence += b"\n".join(_EVIDENCE.findall(block))
        if invalid > _ENOUGH and invalid > valid:
            break
    if not invalid or valid >= invalid:
        return None, not invalid
    return _choose_older(bytes(evidence[:_MAX_EVIDENCE])), False


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield a file in blocks that end with a line, if its lines are shorter than a block."""
    remainder = b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            block = remainder + block
            end = block.rfind(b"\n") + 1 or len(block)
            yield block[:end]
            remainder = block[end:]
    if remainder:
        yield remainder


def _choose_older(evidence: bytes) -> str | None:
    matches = from_bytes(
        evidence,
        steps=1,
        chunk_size=len(evidence),
        threshold=0.5,
        cp_isolation=list(_OLDER),
        enable_fallback=False,
    )
    scores = {}
    for match in matches:
        characters = len(re.findall(r"[^\x00-\x7f]", str(match)))
        possible = _OLDER if characters >= _MIN_OTHER else _LATIN
        plausibility = _plausibility(str(match))
        if plausibility >= _MIN_PLAUSIBILITY:
            for codec in {match.encoding, *match.could_be_from_charset} & {*possible}:
                scores[codec] = plausibility - match.chaos
    return max(scores, key=lambda codec: (scores[codec], -_OLDER.index(codec)), default=None)


def _plausibility(text: str) -> float:
    """Return the mean plausibility of all characters that are not ASCII, from 0 to 1."""
    padded = f" {text} "
    values = [
        _fit(padded[i - 1], char, padded[i + 1])
        for i, char in enumerate(padded)
        if not char.isascii()
    ]
    return sum(values) / len(values) if values else 0.0


def _fit(before: str, char: str, after: str) -> float:
    """Return how well a character that is not ASCII fits between its neighbors."""
    if char.isalpha():
        return _letter_fit(before, char, after)
    if char in _OPENING:
        return float(not before.isalnum() and not after.isspace())
    if char in _CLOSING:
        return float(not before.isspace())
    if char in _DASHES:
        return 0.4 if before.isalpha() and after.isalpha() else 1.0
    if char in _UNITS:
        return float(before.isdigit() or before.isspace())
    if char in _SIGNS:
        return float(not before.isalpha() and not after.isalpha()) or 0.2
    return 0.9 if "\u3000" <= char <= "\u30ff" or "\uff00" <= char <= "\uff60" else 0.0


def _letter_fit(before: str, char: str, after: str) -> float:
    if "\uff61" <= char <= "\uff9f" or (char.isupper() and before.islower()):
        return 0.0
    neighbors = [c for c in (before, after) if c.isalpha()]
    if not neighbors:
        return 0.4
    if "LATIN" in unicodedata.name(char, ""):
        return 1.0 if any(map(str.isascii, neighbors)) else 0.3
    return 0.2 if any(map(str.isascii, neighbors)) else 1.0
