"""Walks: photos taken shortly after each other share light and place, so they count as one.

A walk is a chain: each photo was taken within `prepare.session_minutes` of the next one, with any
camera. Two cameras on one walk show the same light, and an observation less costs less than photos
of one walk on both sides of a split.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from mondrian.core.capture_time import parse_capture_time

# More different photos with equal times were not taken then: a clock stood still, or a program
# set the time. A burst differs in fractions of a second, or its photos are near-duplicates.
_MAX_AT_ONE_TIME = 10


class _Capture(NamedTuple):
    time: datetime
    photo: str

    @property
    def clock(self) -> datetime:
        """The time as the camera's clock showed it."""
        return self.time.replace(tzinfo=None)


def link_walks(times: Iterable[tuple[str, str]], minutes: int) -> Iterator[tuple[str, str]]:
    """Yield pairs of photos that were taken one after the other on a walk.

    times    photo and its capture time, empty if unknown; copies of a photo have the same name
    minutes  the longest break on a walk; 0 links nothing

    Times are compared in UTC if both have an offset, otherwise by the clocks of the cameras.
    """
    captures = _list_captures(times) if minutes else []
    longest_break = timedelta(minutes=minutes)
    for earlier, later in pairwise(sorted(c for c in captures if c.time.tzinfo)):
        if later.time - earlier.time <= longest_break:
            yield earlier.photo, later.photo
    by_clock = sorted(captures, key=lambda capture: capture.clock)
    yield from _link_by_clock(by_clock, longest_break)
    yield from _link_by_clock(by_clock[::-1], longest_break)


def _link_by_clock(
    captures: Iterable[_Capture], longest_break: timedelta
) -> Iterator[tuple[str, str]]:
    """Yield each photo with the last one before it that has no offset, if that is near enough."""
    last: _Capture | None = None
    for capture in captures:
        if last and abs(capture.clock - last.clock) <= longest_break:
            yield last.photo, capture.photo
        if not capture.time.tzinfo:
            last = capture


def _list_captures(times: Iterable[tuple[str, str]]) -> list[_Capture]:
    photos_by_time: dict[str, set[str]] = defaultdict(set)
    for photo, text in times:
        photos_by_time[text].add(photo)
    return [
        _Capture(time, photo)
        for text, photos in photos_by_time.items()
        if (time := parse_capture_time(text)) and len(photos) <= _MAX_AT_ONE_TIME
        for photo in photos
    ]
