"""A rendered landscape and the truth about it: seed -> scene -> picture.

A scene has seven attributes in [0, 1] that a picture really shows (light, tonal range, sharpness,
horizon, colour, depth, balance) and a few things to name (sky, ground, sun or moon, mist). The same
scene renders at any size, so that pre-training can use small pictures and the sample large ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

ATTRIBUTES = ("light", "tone", "sharpness", "horizon", "colour", "depth", "balance")
SKIES = ("blue", "sunset", "grey", "violet")
GROUNDS = ("water", "meadow", "sand", "snow")
LAMPS = ("sun", "moon", "none")

Floats = NDArray[np.floating]

_SKY = {  # top and bottom of the gradient, RGB in [0, 1]
    "blue": ((0.20, 0.42, 0.80), (0.72, 0.84, 0.95)),
    "sunset": ((0.36, 0.30, 0.55), (0.98, 0.66, 0.36)),
    "grey": ((0.44, 0.48, 0.55), (0.80, 0.81, 0.82)),
    "violet": ((0.28, 0.22, 0.48), (0.86, 0.62, 0.74)),
}
_GROUND = {
    "water": (0.24, 0.38, 0.52),
    "meadow": (0.36, 0.50, 0.20),
    "sand": (0.74, 0.60, 0.38),
    "snow": (0.86, 0.88, 0.94),
}


@dataclass(frozen=True)
class Scene:
    """What is in the picture; attributes in [0, 1], `seed` fixes every shape."""

    seed: tuple[int, ...]
    light: float
    tone: float
    sharpness: float
    horizon: float
    colour: float
    depth: float
    balance: float
    sky: str
    ground: str
    lamp: str
    mist: bool
    heavy_left: bool

    def attributes(self) -> Floats:
        """Shape (7,), in the order of ATTRIBUTES."""
        return np.array([getattr(self, name) for name in ATTRIBUTES], np.float32)


def draw_scene(*seed: int) -> Scene:
    """Draw a scene; equal seeds give equal scenes on every machine."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(size=len(ATTRIBUTES))
    return Scene(
        seed,
        **{name: float(v) for name, v in zip(ATTRIBUTES, values, strict=True)},
        sky=SKIES[rng.integers(len(SKIES))],
        ground=GROUNDS[rng.integers(len(GROUNDS))],
        lamp=LAMPS[rng.integers(len(LAMPS))],
        mist=bool(rng.uniform() < 0.4),
        heavy_left=bool(rng.uniform() < 0.5),
    )


def render(scene: Scene, width: int = 640, height: int = 512) -> Image.Image:
    """Render the scene as an RGB picture."""
    rng = np.random.default_rng((*scene.seed, 1))
    line = round(height * (0.22 + 0.56 * scene.horizon))
    canvas = _sky(scene, rng, width, height, line)
    _ridges(canvas, scene, rng, line)
    _ground(canvas, scene, rng, line)
    if scene.mist:
        _mist(canvas, line)
    _trees(canvas, scene, rng, line)
    _texture(canvas, rng)
    return _develop(canvas, scene)


def _noise(rng: np.random.Generator, width: int, height: int, cells: int) -> Floats:
    """Smooth noise in [0, 1], shape (height, width), about `cells` blobs across."""
    grid = rng.uniform(size=(max(2, cells * height // width), cells)).astype(np.float32)
    blobs = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(blobs)


def _sky(scene: Scene, rng: np.random.Generator, width: int, height: int, line: int) -> Floats:
    top, bottom = (np.array(c, np.float32) for c in _SKY[scene.sky])
    t = np.clip(np.arange(height, dtype=np.float32) / max(line, 1), 0, 1)[:, None, None]
    canvas = np.ascontiguousarray(np.broadcast_to(top * (1 - t) + bottom * t, (height, width, 3)))
    clouds = 0.6 * _noise(rng, width, height, 6) + 0.4 * _noise(rng, width, height, 18)
    cover = np.clip((clouds - 0.52) * 3.0, 0, 0.75)[:, :, None] * (1.2 - t)
    canvas += cover * (np.float32(0.94) - canvas)
    if scene.lamp != "none":
        _lamp(canvas, scene, rng, line)
    return canvas


def _lamp(canvas: Floats, scene: Scene, rng: np.random.Generator, line: int) -> None:
    height, width = canvas.shape[:2]
    cx, cy = rng.uniform(0.15, 0.85) * width, rng.uniform(0.2, 0.7) * line
    radius = (0.035 if scene.lamp == "sun" else 0.025) * width
    y, x = np.ogrid[:height, :width]
    distance = np.sqrt((x - cx) ** 2 + (y - cy) ** 2).astype(np.float32)
    tint = np.array((1.0, 0.95, 0.78) if scene.lamp == "sun" else (0.95, 0.96, 1.0), np.float32)
    disc = np.clip(radius - distance + 0.5, 0, 1)
    glow = (0.55 if scene.lamp == "sun" else 0.25) * np.exp(-distance / (3 * radius))
    strength = np.maximum(disc, glow)[:, :, None]
    canvas += strength * (tint - canvas)


def _profile(rng: np.random.Generator, width: int, roughness: float) -> Floats:
    """A ridge line in [0, 1], shape (width,): octaves of sines, so it is alike at every size."""
    x = np.linspace(0, 1, width, dtype=np.float32)
    line = np.zeros(width, np.float32)
    for octave in range(6):
        amplitude = roughness**octave
        line += amplitude * np.sin(
            2 * np.pi * (x * rng.uniform(0.7, 1.3) * 1.6 * 2**octave + rng.uniform())
        ).astype(np.float32)
    return (line - line.min()) / max(float(np.ptp(line)), 1e-6)


def _ridges(canvas: Floats, scene: Scene, rng: np.random.Generator, line: int) -> None:
    """One to six ranges; the farther, the nearer to the sky's colour (aerial perspective)."""
    height, width = canvas.shape[:2]
    count = 1 + round(5 * scene.depth)
    far = np.array(_SKY[scene.sky][1], np.float32)
    near = np.array((0.13, 0.18, 0.20), np.float32)
    y = np.arange(height)[:, None]
    for k in range(count):
        nearness = (k + 1) / count
        rise = line * (0.62 * (1 - 0.75 * k / count))
        crest = line - rise * (0.35 + 0.65 * _profile(rng, width, 0.55))
        fade = 1 - (0.25 + 0.75 * nearness if count > 1 else 0.85)
        mask = (y >= crest[None]) & (y < line)
        canvas[mask] = near * (1 - fade) + far * fade


def _ground(canvas: Floats, scene: Scene, rng: np.random.Generator, line: int) -> None:
    height, width = canvas.shape[:2]
    rows = height - line
    colour = np.array(_GROUND[scene.ground], np.float32)
    t = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    if scene.ground == "water":
        source = np.clip(line - 1 - (np.arange(rows) * 0.9).astype(int), 0, height - 1)
        ripple = _noise(rng, width, rows, 40)[:, :, None] * 0.18
        canvas[line:] = 0.62 * canvas[source] + 0.38 * colour + ripple - 0.09
    else:
        mottle = _noise(rng, width, rows, 30)[:, :, None] * 0.24 - 0.12
        canvas[line:] = colour * (1.05 - 0.35 * t) + mottle * (0.3 + t)
    if scene.depth > 0.5:
        _path(canvas, scene, line)


def _path(canvas: Floats, scene: Scene, line: int) -> None:
    """A way that narrows to the horizon: the stronger the depth, the wider its foot."""
    height, width = canvas.shape[:2]
    t = (np.arange(line, height) - line)[:, None] / max(height - line, 1)
    centre = width * (0.5 + (0.12 if scene.heavy_left else -0.12) * t)
    half = width * (0.004 + 0.16 * scene.depth * t**1.3)
    inside = np.abs(np.arange(width)[None] - centre) < half
    canvas[line:][inside] = canvas[line:][inside] * 0.45 + np.float32(0.42)


def _mist(canvas: Floats, line: int) -> None:
    height = canvas.shape[0]
    band = np.exp(-(((np.arange(height) - line) / (0.07 * height)) ** 2)).astype(np.float32)
    canvas += 0.6 * band[:, None, None] * (np.float32(0.86) - canvas)


def _trees(canvas: Floats, scene: Scene, rng: np.random.Generator, line: int) -> None:
    """Two groups of firs; `balance` is the size of the lighter beside the heavier."""
    height, width = canvas.shape[:2]
    heavy, light = (0.17, 0.83) if scene.heavy_left else (0.83, 0.17)
    foot = min(height - 1, line + 0.16 * height)
    for centre, size in ((heavy, 1.0), (light, scene.balance)):
        for _ in range(round(6 * size)):
            x = (centre + rng.uniform(-0.13, 0.13)) * width
            tall = (0.22 + 0.16 * rng.uniform()) * height * (0.45 + 0.55 * size)
            shade = rng.uniform(0.03, 0.10)
            _fir(canvas, x, foot + rng.uniform(-0.02, 0.05) * height, tall, shade)


def _fir(canvas: Floats, x: float, foot: float, tall: float, shade: float) -> None:
    height, width = canvas.shape[:2]
    top, bottom = max(0, int(foot - tall)), min(height, int(foot))
    if bottom <= top:
        return
    t = (np.arange(top, bottom) - (foot - tall)) / tall
    tier = 0.75 + 0.25 * ((t * 7) % 1.0)  # branches in seven tiers
    half = 0.20 * tall * t * tier
    inside = np.abs(np.arange(width)[None] - x) <= half[:, None]
    canvas[top:bottom][inside] = (shade, shade * 1.35, shade * 1.1)


def _texture(canvas: Floats, rng: np.random.Generator) -> None:
    """Detail everywhere, so that blur shows everywhere; cells are a share of the width."""
    height, width = canvas.shape[:2]
    for cells, strength in ((160, 0.15), (80, 0.10)):
        canvas += ((_noise(rng, width, height, cells) - 0.5) * strength)[:, :, None]


def _develop(canvas: Floats, scene: Scene) -> Image.Image:
    """Saturation, blur, tonal range and light, in that order, each by its attribute."""
    weights = np.array((0.299, 0.587, 0.114), np.float32)
    grey = (canvas @ weights)[:, :, None]
    canvas = grey + (canvas - grey) * np.float32(0.02 + 1.7 * scene.colour)
    picture = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    sigma = 3.6 * (1 - scene.sharpness) ** 1.5 * canvas.shape[1] / 160
    picture = picture.filter(ImageFilter.GaussianBlur(sigma))
    canvas = np.asarray(picture).astype(np.float32) / 255
    grey = canvas @ weights
    spread = np.float32((0.05 + 0.23 * scene.tone) / max(float(grey.std()), 1e-3))
    canvas = (canvas - grey.mean()) * spread + np.float32(0.16 + 0.68 * scene.light)
    return Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
