"""The time at which a photo was taken, from its EXIF. No other tag is read: no place, no name."""

import re
from datetime import datetime, timedelta, timezone
from typing import Any

from PIL import Image

_EXIF_IFD = 0x8769
# Not DateTime, which an editor sets, nor DateTimeDigitized, which a scanner sets.
_TIME, _OFFSET, _FRACTION = 0x9003, 0x9011, 0x9291  # of DateTimeOriginal
_TIME_FORM = re.compile(r"(\d{4})\D(\d\d)\D(\d\d)[ T](\d\d):(\d\d):(\d\d)(?!\d)")
_OFFSET_FORM = re.compile(r"([+-])(\d\d):([0-5]\d)")
_MAX_OFFSET = timedelta(hours=14)  # of a time zone
_EARLIEST = datetime(2000, 1, 2)  # a clock without battery begins on 1 January 1970, 1980 or 2000


def read_capture_time(file: Image.Image) -> str:
    """Return the time as ISO 8601, with the offset if the camera wrote one; empty if unknown."""
    try:
        tags = file.getexif().get_ifd(_EXIF_IFD)
    except Exception:  # EXIF readers raise anything on damaged data
        return ""
    return format_capture_time(*(_to_text(tags.get(tag)) for tag in (_TIME, _OFFSET, _FRACTION)))


def format_capture_time(time: str, offset: str = "", fraction: str = "") -> str:
    """Return EXIF's texts as ISO 8601; empty if they name no time, or that of a reset clock."""
    match = _TIME_FORM.match(time)
    try:
        taken = datetime.strptime("".join(match.groups()), "%Y%m%d%H%M%S") if match else None
    except ValueError:  # 0000:00:00, or the 31st of June
        return ""
    if taken is None or taken < _EARLIEST or _is_start_of_year(taken):
        return ""
    digits = fraction[:6] if fraction.isascii() and fraction.isdigit() else ""
    taken = taken.replace(microsecond=int(digits.ljust(6, "0")), tzinfo=_parse_offset(offset))
    return taken.isoformat()


def parse_capture_time(text: str) -> datetime | None:
    """Return a stored time, or None if it is empty or damaged."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _is_start_of_year(time: datetime) -> bool:
    """Return whether it is the first minute of a year, to which many cameras are reset."""
    return (time.month, time.day, time.hour, time.minute) == (1, 1, 0, 0)


def _parse_offset(text: str) -> timezone | None:
    if text == "Z":
        return timezone(timedelta(0))
    match = _OFFSET_FORM.fullmatch(text)
    if match is None:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-offset if match[1] == "-" else offset) if offset <= _MAX_OFFSET else None


def _to_text(value: Any) -> str:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.split("\0")[0].strip()
