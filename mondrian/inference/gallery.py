"""gallery.html: a contact sheet of the critiqued photos in one file that needs no network."""

import json
import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from mondrian.core.html import render_template
from mondrian.critique import radar
from mondrian.critique.schema import DIMENSIONS
from mondrian.inference.critique_log import CritiqueRecord
from mondrian.inference.photo_critiques import CritiquedPhoto
from mondrian.inference.photo_files import SkippedFile
from mondrian.inference.photo_reader import PreviewFolder
from mondrian.inference.table import list_scores, sort_photos, sort_skipped

_SCRIPT = Path(__file__).with_name("gallery.js")
COLORS = {"fine_tuned": "one", "base": "three"}  # as in the report of evaluate


@dataclass(frozen=True)
class Gallery:
    """What a page shows besides the critiques.

    folder  that the page is written to; links to the photos are relative to it
    """

    title: str
    source: str  # which models critiqued, in words
    previews: PreviewFolder
    folder: Path

    def render(self, photos: Sequence[CritiquedPhoto], skipped: Sequence[SkippedFile]) -> str:
        """Return the page: photos, the highest overall score first, and skipped files."""
        photos = sort_photos(photos)
        arms = [record.arm for record in photos[0].records]
        parent = os.path.commonpath([photo.file.path.absolute().parent for photo in photos])
        script = _SCRIPT.read_text(encoding="utf-8")
        return render_template(
            "inference/gallery.html",
            title=self.title,
            source=self.source,
            arms=arms,
            colors=COLORS,
            cards=self._make_cards(photos, parent),
            dimensions=DIMENSIONS,
            radar_corners=radar.corner_points(),
            radar_labels=radar.dimension_labels(),
            polygons=[(COLORS[arm], "") for arm in arms],
            skipped=[
                {"name": _relative_path(Path(file.name), parent), "reason": file.describe()}
                for file in sort_skipped(skipped)
            ],
            data=_to_script_json([self._describe(photo) for photo in photos]),
            script=Markup(script),
            script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        )

    def _make_cards(self, photos: Sequence[CritiquedPhoto], parent: str) -> list[dict[str, Any]]:
        """Return name, preview and overall scores; names are relative to a folder."""
        return [
            {
                "name": _relative_path(photo.file.path, parent),
                "image": _data_url(self.previews.read(photo.file)),
                "scores": [record.critique.overall_score for record in photo.records],
            }
            for photo in photos
        ]

    def _describe(self, photo: CritiquedPhoto) -> dict[str, Any]:
        link = _relative_path(photo.file.path, self.folder.absolute())
        return {"link": quote(link), "arms": [_describe_critique(r) for r in photo.records]}


def _relative_path(path: Path, folder: str | Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder)).as_posix()


def _describe_critique(record: CritiqueRecord) -> dict[str, Any]:
    critique = record.critique
    return {
        "name": record.arm,
        "scores": list_scores(critique),
        "radar": radar.polygon_points(critique.scores()),
        "description": critique.image_description,
        "dimensions": [[d.comment, d.recommendation] for d in critique.dimensions],
        "strengths": critique.key_strengths,
        "improvements": critique.priority_improvements,
        "notes": critique.technical_notes,
    }


def _to_script_json(content: Any) -> Markup:
    """Return JSON in which no text can end the script element that holds it."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + b64encode(jpeg).decode() if jpeg else ""
