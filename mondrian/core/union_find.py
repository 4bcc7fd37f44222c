"""Groups of things that belong together, by pairs: a union-find."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Member = TypeVar("Member", bound=Hashable)


class UnionFind(Generic[Member]):
    """Things that were joined, directly or through others, have one representative."""

    def __init__(self) -> None:
        self._above: dict[Member, Member] = {}

    def find(self, thing: Member) -> Member:
        """The representative of a thing's group; itself where it was never joined."""
        above = self._above
        while (parent := above.get(thing, thing)) != thing:
            above[thing] = above.get(parent, parent)  # halves the path for the next search
            thing = parent
        return thing

    def union(self, a: Member, b: Member) -> None:
        """Make one group of two; the representative of `a` stands for both."""
        first, second = self.find(a), self.find(b)
        if first != second:
            self._above[second] = first
