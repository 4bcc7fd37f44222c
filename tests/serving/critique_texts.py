"""Critiques with one text in every field."""

import json

from mondrian.critique.schema import DIMENSIONS

EVIL = "<script>hacked = 1</script><img src=x onerror='hacked = 1'>\"'</textarea></style>"


def critique_json(text: str) -> str:
    """Return a critique with this text in every field."""
    dimensions = [
        {"name": name, "score": 5, "comment": text, "recommendation": text} for name in DIMENSIONS
    ]
    return json.dumps(
        {
            "image_description": text,
            "dimensions": dimensions,
            "overall_score": 5,
            "key_strengths": [text],
            "priority_improvements": [text],
            "technical_notes": text,
        }
    )
