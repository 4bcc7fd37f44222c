"""Self-contained HTML pages: Jinja templates with images embedded as data URLs."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from mondrian.core.errors import PhotoError
from mondrian.core.images import read_thumbnail

PAGE_THUMBNAIL_SIDE = 240  # pixels of the longer side
_TEMPLATES = Environment(
    loader=PackageLoader("mondrian", "."),
    autoescape=select_autoescape(("html", "svg")),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_template(template: str, **content: Any) -> str:
    """Render a template, named by its path below mondrian/; every value is escaped."""
    return _TEMPLATES.get_template(template).render(**content)


def thumbnail_url(path: Path, side: int = PAGE_THUMBNAIL_SIDE) -> str | None:
    """Return a small JPEG of a photo as a data URL, without EXIF; None if it cannot be read.

    side  pixels of the longer side, at most
    """
    try:
        thumbnail = read_thumbnail(path, side)
    except PhotoError:
        return None
    jpeg = BytesIO()
    thumbnail.save(jpeg, "JPEG", quality=70)
    return "data:image/jpeg;base64," + b64encode(jpeg.getvalue()).decode()
