"""Rendered landscapes with known attributes: seed -> scene -> image.

A scene has seven attributes in [0, 1] that are visible in its image (light, tonal range, sharpness,
horizon, color, depth, balance) and a few objects (sky, ground, sun or moon, mist). It renders at
any size: pre-training uses small images and the sample large ones. Equal seeds give equal images on
every machine: exp, sin and sums are in float64. The last bits of float64 differ
between processors but do not reach 8 bits per channel. No BLAS is used.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

ATTRIBUTES = ("light", "tone", "sharpness", "horizon", "color", "depth", "balance")
SKIES = ("blue", "sunset", "grey", "violet")
GROUNDS = ("water", "meadow", "sand", "snow")
LAMPS = ("sun", "moon", "none")

Floats = NDArray[np.floating]

_SKY_COLORS = {  # top and bottom of the gradient, RGB in [0, 1]
    "blue": ((0.20, 0.42, 0.80), (0.72, 0.84, 0.95)),
    "sunset": ((0.36, 0.30, 0.55), (0.98, 0.66, 0.36)),
    "grey": ((0.44, 0.48, 0.55), (0.80, 0.81, 0.82)),
    "violet": ((0.28, 0.22, 0.48), (0.86, 0.62, 0.74)),
}
_GROUND_COLORS = {
    "water": (0.24, 0.38, 0.52),
    "meadow": (0.36, 0.50, 0.20),
    "sand": (0.74, 0.60, 0.38),
    "snow": (0.86, 0.88, 0.94),
}


@dataclass(frozen=True)
class Scene:
    """The content of an image; attributes in [0, 1], `seed` determines all shapes."""

    seed: tuple[int, ...]
    light: float
    tone: float
    sharpness: float
    horizon: float
    color: float
    depth: float
    balance: float
    sky: str
    ground: str
    lamp: str
    mist: bool
    heavy_left: bool

    def attributes(self) -> Floats:
        """Return the attributes in the order of ATTRIBUTES: (7,)."""
        return np.array([getattr(self, name) for name in ATTRIBUTES], np.float32)


def draw_scene(*seed: int) -> Scene:
    """Return a random scene; equal seeds give equal scenes on every machine."""
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
    rng = np.random.default_rng((*scene.seed, 1))
    horizon = round(height * (0.22 + 0.56 * scene.horizon))
    canvas = np.empty((height, width, 3), np.float32)
    _paint_sky(canvas, scene, rng, horizon)
    _paint_ridges(canvas, scene, rng, horizon)
    _paint_ground(canvas, scene, rng, horizon)
    if scene.mist:
        _paint_mist(canvas, horizon)
    _paint_trees(canvas, scene, rng, horizon)
    _add_texture(canvas, rng)
    return _develop(canvas, scene)


def _noise(rng: np.random.Generator, width: int, height: int, cells: int) -> Floats:
    """Return smooth noise in [0, 1], about `cells` blobs across: (height, width)."""
    grid = rng.uniform(size=(max(2, cells * height // width), cells)).astype(np.float32)
    blobs = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(blobs)


def _paint_sky(canvas: Floats, scene: Scene, rng: np.random.Generator, horizon: int) -> None:
    height, width = canvas.shape[:2]
    top, bottom = (np.array(color, np.float32) for color in _SKY_COLORS[scene.sky])
    t = np.clip(np.arange(height, dtype=np.float32) / max(horizon, 1), 0, 1)[:, None, None]
    canvas[:] = top * (1 - t) + bottom * t
    clouds = 0.6 * _noise(rng, width, height, 6) + 0.4 * _noise(rng, width, height, 18)
    cover = np.clip((clouds - 0.52) * 3.0, 0, 0.75)[:, :, None] * (1.2 - t)
    canvas += cover * (np.float32(0.94) - canvas)
    if scene.lamp != "none":
        _paint_lamp(canvas, scene, rng, horizon)


def _paint_lamp(canvas: Floats, scene: Scene, rng: np.random.Generator, horizon: int) -> None:
    height, width = canvas.shape[:2]
    cx, cy = rng.uniform(0.15, 0.85) * width, rng.uniform(0.2, 0.7) * horizon
    radius = (0.035 if scene.lamp == "sun" else 0.025) * width
    y, x = np.ogrid[:height, :width]
    distance = np.sqrt((x - cx) ** 2 + (y - cy) ** 2)
    tint = np.array((1.0, 0.95, 0.78) if scene.lamp == "sun" else (0.95, 0.96, 1.0), np.float32)
    disc = np.clip(radius - distance + 0.5, 0, 1)
    glow = (0.55 if scene.lamp == "sun" else 0.25) * np.exp(-distance / (3 * radius))
    strength = np.maximum(disc, glow).astype(np.float32)[:, :, None]
    canvas += strength * (tint - canvas)


def _ridge_profile(rng: np.random.Generator, width: int) -> Floats:
    """Return a ridge line in [0, 1] of sines: its shape is the same at any size; (width,)."""
    x = np.linspace(0, 1, width)
    line = np.zeros(width)
    for octave in range(6):
        phase = x * rng.uniform(0.7, 1.3) * 1.6 * 2**octave + rng.uniform()
        line += 0.55**octave * np.sin(2 * np.pi * phase)
    return (line - line.min()) / max(float(np.ptp(line)), 1e-6)


def _paint_ridges(canvas: Floats, scene: Scene, rng: np.random.Generator, horizon: int) -> None:
    """Paint one to six ranges, farther ones closer to the sky's color (aerial perspective)."""
    height, width = canvas.shape[:2]
    count = 1 + round(5 * scene.depth)
    far = np.array(_SKY_COLORS[scene.sky][1], np.float32)
    near = np.array((0.13, 0.18, 0.20), np.float32)
    y = np.arange(height)[:, None]
    for k in range(count):
        nearness = (k + 1) / count
        rise = horizon * (0.62 * (1 - 0.75 * k / count))
        crest = horizon - rise * (0.35 + 0.65 * _ridge_profile(rng, width))
        fade = 1 - (0.25 + 0.75 * nearness if count > 1 else 0.85)
        mask = (y >= crest[None]) & (y < horizon)
        canvas[mask] = near * (1 - fade) + far * fade


def _paint_ground(canvas: Floats, scene: Scene, rng: np.random.Generator, horizon: int) -> None:
    height, width = canvas.shape[:2]
    rows = height - horizon
    color = np.array(_GROUND_COLORS[scene.ground], np.float32)
    t = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    if scene.ground == "water":
        source = np.clip(horizon - 1 - (np.arange(rows) * 0.9).astype(int), 0, height - 1)
        ripple = _noise(rng, width, rows, 40)[:, :, None] * 0.18
        canvas[horizon:] = 0.62 * canvas[source] + 0.38 * color + ripple - 0.09
    else:
        mottle = _noise(rng, width, rows, 30)[:, :, None] * 0.24 - 0.12
        canvas[horizon:] = color * (1.05 - 0.35 * t) + mottle * (0.3 + t)
    if scene.depth > 0.5:
        _paint_path(canvas, scene, horizon)


def _paint_path(canvas: Floats, scene: Scene, horizon: int) -> None:
    """Paint a path that narrows towards the horizon: the deeper the scene, the wider its start."""
    height, width = canvas.shape[:2]
    t = (np.arange(horizon, height) - horizon)[:, None] / max(height - horizon, 1)
    center = width * (0.5 + (0.12 if scene.heavy_left else -0.12) * t)
    half = width * (0.004 + 0.16 * scene.depth * t**1.3)
    inside = np.abs(np.arange(width)[None] - center) < half
    canvas[horizon:][inside] = canvas[horizon:][inside] * 0.45 + np.float32(0.42)


def _paint_mist(canvas: Floats, horizon: int) -> None:
    height = canvas.shape[0]
    band = np.exp(-(((np.arange(height) - horizon) / (0.07 * height)) ** 2)).astype(np.float32)
    canvas += 0.6 * band[:, None, None] * (np.float32(0.86) - canvas)


def _paint_trees(canvas: Floats, scene: Scene, rng: np.random.Generator, horizon: int) -> None:
    """Paint two groups of firs; `balance` is the relative size of the smaller one."""
    height, width = canvas.shape[:2]
    heavy, light = (0.17, 0.83) if scene.heavy_left else (0.83, 0.17)
    ground = min(height - 1, horizon + 0.16 * height)
    for center, size in ((heavy, 1.0), (light, scene.balance)):
        for _ in range(round(6 * size)):
            x = (center + rng.uniform(-0.13, 0.13)) * width
            tree_height = (0.22 + 0.16 * rng.uniform()) * height * (0.45 + 0.55 * size)
            shade = rng.uniform(0.03, 0.10)
            foot = ground + rng.uniform(-0.02, 0.05) * height
            _paint_fir(canvas, x, foot, tree_height, shade)


def _paint_fir(canvas: Floats, x: float, foot: float, tree_height: float, shade: float) -> None:
    height, width = canvas.shape[:2]
    top, bottom = max(0, int(foot - tree_height)), min(height, int(foot))
    if bottom <= top:
        return
    t = (np.arange(top, bottom) - (foot - tree_height)) / tree_height
    tier = 0.75 + 0.25 * ((t * 7) % 1.0)  # branches in seven tiers
    half = 0.20 * tree_height * t * tier
    inside = np.abs(np.arange(width)[None] - x) <= half[:, None]
    canvas[top:bottom][inside] = (shade, shade * 1.35, shade * 1.1)


def _add_texture(canvas: Floats, rng: np.random.Generator) -> None:
    """Add detail everywhere, so that blur is visible everywhere; cells scale with the width."""
    height, width = canvas.shape[:2]
    for cells, strength in ((160, 0.15), (80, 0.10)):
        canvas += ((_noise(rng, width, height, cells) - 0.5) * strength)[:, :, None]


def _develop(canvas: Floats, scene: Scene) -> Image.Image:
    """Apply saturation, blur, tonal range and light, in this order, by their attributes."""
    grey = _luma(canvas)[:, :, None]
    canvas = grey + (canvas - grey) * np.float32(0.02 + 1.7 * scene.color)
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    sigma = 3.6 * (1 - scene.sharpness) ** 1.5 * canvas.shape[1] / 160
    image = image.filter(ImageFilter.GaussianBlur(sigma))
    canvas = np.asarray(image).astype(np.float32) / 255
    grey = _luma(canvas).astype(float)
    spread = np.float32((0.05 + 0.23 * scene.tone) / max(grey.std(), 1e-3))
    canvas = (canvas - np.float32(grey.mean())) * spread + np.float32(0.16 + 0.68 * scene.light)
    return Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))


def _luma(canvas: Floats) -> Floats:
    """Return the brightness of RGB pixels (ITU-R BT.601): (height, width)."""
    red, green, blue = (np.float32(weight) for weight in (0.299, 0.587, 0.114))
    return canvas[:, :, 0] * red + canvas[:, :, 1] * green + canvas[:, :, 2] * blue
