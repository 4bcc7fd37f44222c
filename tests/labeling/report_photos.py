"""Photos of a comparison report."""

from typing import Any

from mondrian.critique.schema import serialize_critique
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique


def make_photo(i: int, group: str = "", tuned: str = "") -> dict[str, Any]:
    """Return the entry of a report."""
    texts = [serialize_critique(write_critique(a, draw_scene(5, i))) for a in ("okeefe", "ansel")]
    return {
        "image": f"{i}.png",
        "photo_group": group or f"group-{i}",
        "base_constrained": {"text": texts[0]},
        "fine_tuned_constrained": {"text": tuned or texts[1]},
    }
