"""Records of the critique log."""

from mondrian.critique.schema import Critique
from mondrian.inference.critique_log import CritiqueRecord


def make_record(
    critique: Critique, photo: str = "a.jpg", overall: float = 5.0, adapter: str = "one"
) -> CritiqueRecord:
    return CritiqueRecord(
        photo=photo,
        sha256=photo,
        advisor="ansel",
        arm="fine_tuned" if adapter else "base",
        base="b",
        adapter=adapter,
        settings=adapter,
        critique=critique.model_copy(update={"overall_score": overall}),
    )
