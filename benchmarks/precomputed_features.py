"""Image features that are computed in advance, as input of training benchmarks."""

from mondrian.model.language import Features
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import Vlm


class PrecomputedFeatures(FeatureCache):
    """A feature cache with fixed entries, by the photo of a row."""

    def __init__(self, vlm: Vlm, features: dict[str, Features]) -> None:
        super().__init__(vlm, None, 0)
        self._features = features

    def get(self, path: str) -> Features:
        return self._features[path]
