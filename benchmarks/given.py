"""Features that are given in place of photographs: what benchmarks train on."""

from __future__ import annotations

from mondrian.model.language import Features
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import Vlm


class Given(FeatureCache):
    """A cache that holds just these features, by a row's photograph."""

    def __init__(self, vlm: Vlm, seen: dict[str, Features]) -> None:
        super().__init__(vlm, None, 0)
        self._seen = seen

    def get(self, path: str) -> Features:
        """Features of one photograph."""
        return self._seen[path]
