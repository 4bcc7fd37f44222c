"""Groups of things that belong together, by pairs: a union-find."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Thing = TypeVar("Thing", bound=Hashable)


class Groups(Generic[Thing]):
    """Things that were joined, directly or through others, have one representative."""

    def __init__(self) -> None:
        self._above: dict[Thing, Thing] = {}

    def of(self, thing: Thing) -> Thing:
        """The representative of a thing's group; itself where it was never joined."""
        above = self._above
        while (parent := above.get(thing, thing)) != thing:
            above[thing] = above.get(parent, parent)  # halves the path for the next search
            thing = parent
        return thing

    def join(self, a: Thing, b: Thing) -> None:
        """Make one group of two; the representative of `a` stands for both."""
        first, second = self.of(a), self.of(b)
        if first != second:
            self._above[second] = first
