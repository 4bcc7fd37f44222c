"""EXIF with the time at which a photo was taken, as cameras write it."""

from PIL import Image

_MODEL, _EXIF_IFD = 0x0110, 0x8769
_TIME, _OFFSET, _FRACTION = 0x9003, 0x9011, 0x9291


def make_exif(time: str, offset: str = "", fraction: str = "", model: str = "A") -> Image.Exif:
    exif = Image.Exif()
    exif[_MODEL] = model
    values = {_TIME: time, _OFFSET: offset, _FRACTION: fraction}
    tags = exif.get_ifd(_EXIF_IFD)
    tags.update({tag: value for tag, value in values.items() if value})
    exif[_EXIF_IFD] = tags  # TIFF writes what it finds here, the others what `get_ifd` returns
    return exif
