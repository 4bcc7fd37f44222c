"""Sample photos of the start page, for the demo model mondrian-tiny.

They are `mondrian.sample.scene.render(draw_scene(2026, seed), 640, 512)`, with the seeds 24, 29 and
18; that package is not imported here because it loads OpenBLAS.
"""

from pathlib import Path

from mondrian.serving.settings import ServiceSettings

SAMPLES = {  # file in templates/static -> description
    "sample-1.jpg": "a sunset over sand",
    "sample-2.jpg": "a violet sky with a moon over a meadow",
    "sample-3.jpg": "the sun over sand, out of focus",
}
_FOLDER = Path(__file__).parent / "templates" / "static"


def is_demo(settings: ServiceSettings) -> bool:
    """Return whether the base knows only rendered landscapes."""
    return not settings.engine_url and settings.params.base.is_demo


def read_sample(name: str) -> bytes:
    """Return a sample photo. Raises KeyError if there is none of this name."""
    if name not in SAMPLES:
        raise KeyError(name)
    return (_FOLDER / name).read_bytes()
