"""The camera's settings of a photo, read from its EXIF as short texts.

Only the tags below are read: no place, no serial number, no name of a person.
"""

import json
import warnings
from collections.abc import Callable
from datetime import datetime
from typing import Any

from PIL import Image

from mondrian.core.photo_header import FORMATS, ImageSource

EXPOSURE_LABELS = {  # names in the JSON, as the page shows them, in its order
    "camera": "Camera",
    "lens": "Lens",
    "focal_length": "Focal length",
    "aperture": "Aperture",
    "shutter": "Shutter",
    "iso": "ISO",
    "time": "Taken",
}
_MAX_CHARS = 80  # of one value
_EXIF_IFD = 0x8769
_MAKE, _MODEL, _LENS, _TIME = 0x010F, 0x0110, 0xA434, 0x9003
_EXPOSURE_TIME, _F_NUMBER, _ISO, _FOCAL_LENGTH, _FOCAL_LENGTH_35MM = (
    0x829A,
    0x829D,
    0x8827,
    0x920A,
    0xA405,
)


def read_exposure(source: ImageSource) -> str:
    """Return the camera's settings as JSON with keys of EXPOSURE_LABELS; empty if there are none.

    Values that are damaged or make no sense are left out.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged EXIF
            with Image.open(source, formats=FORMATS) as file:
                exif = _load_exif(file)
                tags = dict(exif) | exif.get_ifd(_EXIF_IFD)
    except Exception:  # EXIF readers raise anything on damaged data
        return ""
    return build_exposure(tags)


def build_exposure(tags: dict[int, Any]) -> str:
    """Return EXIF tags as JSON with keys of EXPOSURE_LABELS; empty if there are none."""
    readers: dict[str, Callable[[], str]] = {
        "camera": lambda: _format_camera(tags),
        "lens": lambda: _clean_text(tags.get(_LENS)),
        "focal_length": lambda: _format_focal_length(tags),
        "aperture": lambda: f"f/{_number(tags.get(_F_NUMBER), 0.5, 128):.3g}",
        "shutter": lambda: _format_shutter(_number(tags.get(_EXPOSURE_TIME), 1e-6, 1e5)),
        "iso": lambda: f"{_number(tags.get(_ISO), 1, 1e7):.0f}",
        "time": lambda: _format_time(tags.get(_TIME)),
    }
    exposure = {}
    for name, read in readers.items():
        try:
            text = read()
        except (TypeError, ValueError, ArithmeticError):
            continue
        if text:
            exposure[name] = text
    return json.dumps(exposure, ensure_ascii=False) if exposure else ""


def parse_exposure(text: str | None) -> dict[str, str]:
    """Return labels and values of the column `exposure`, whatever it contains."""
    try:
        values = json.loads(text or "{}")
    except ValueError:
        return {}
    if not isinstance(values, dict):
        return {}
    return {
        label: values[name][:_MAX_CHARS]
        for name, label in EXPOSURE_LABELS.items()
        if isinstance(values.get(name), str)
    }


def _load_exif(file: Image.Image) -> Image.Exif:
    if file.format == "TIFF":
        return file.getexif()
    exif = Image.Exif()  # file.getexif() would decode a PNG to its end
    exif.load(file.info.get("exif") or b"")
    return exif


def _number(value: Any, lowest: float, highest: float) -> float:
    """Return a number or fraction in a range. Raises ValueError, TypeError or ArithmeticError."""
    number = float(value[0] if isinstance(value, tuple) and value else value)
    if not lowest <= number <= highest:  # NaN too
        raise ValueError
    return number


def _clean_text(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    printable = "".join(c if c.isprintable() else " " for c in text.split("\0")[0])
    return " ".join(printable.split())[:_MAX_CHARS].strip()


def _format_camera(tags: dict[int, Any]) -> str:
    """Return maker and model; most models begin with the maker's name."""
    maker, model = _clean_text(tags.get(_MAKE)), _clean_text(tags.get(_MODEL))
    if model and maker and model.lower().startswith(maker.split()[0].lower()):
        return model
    return f"{maker} {model}".strip()[:_MAX_CHARS].strip()


def _format_focal_length(tags: dict[int, Any]) -> str:
    text = f"{_number(tags.get(_FOCAL_LENGTH), 0.1, 1e5):.3g} mm"
    try:
        equivalent = _number(tags.get(_FOCAL_LENGTH_35MM), 1, 1e5)
    except (TypeError, ValueError, ArithmeticError):
        return text
    full_frame = f"{equivalent:.0f} mm"
    return text if full_frame == text else f"{text} ({full_frame} full frame)"


def _format_shutter(seconds: float) -> str:
    return f"1/{1 / seconds:.0f} s" if seconds < 0.3 else f"{seconds:.3g} s"


def _format_time(value: Any) -> str:
    return datetime.strptime(_clean_text(value), "%Y:%m:%d %H:%M:%S").strftime("%Y-%m-%d %H:%M")
