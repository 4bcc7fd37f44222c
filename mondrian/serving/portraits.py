"""Portraits of advisors: a drawing in the spirit of each, with the initials.

The advisor's profile chooses the motif (mountains, flower, …), its id colors and shapes. So each
advisor that a user adds has a portrait of its own, the same in every process.
"""

from collections.abc import Callable, Sequence
from colorsys import hls_to_rgb
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from math import cos, pi, sin
from random import Random

from PIL import Image, ImageDraw, ImageFont, ImageOps

_SIDE = 512  # pixels of the portrait
_SCALE = 3  # drawn so much larger, then reduced: smooth edges
_MONOCHROME_WORDS = ("black and white", "black-and-white", "monochrome")
Color = tuple[int, int, int]
Point = tuple[float, float]  # from 0 to 1, from the top left corner


@dataclass
class Canvas:
    """A square picture in coordinates from 0 to 1, with the colors of one advisor."""

    random: Random
    hue: float
    saturation: float
    side: int = _SIDE * _SCALE
    image: Image.Image = field(init=False)
    draw: ImageDraw.ImageDraw = field(init=False)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (self.side, self.side))
        self.draw = ImageDraw.Draw(self.image)

    def color(self, lightness: float, turn: float = 0.0) -> Color:
        """Return a color of the advisor; `turn` is the distance of its hue, 0.5 the opposite."""
        red, green, blue = hls_to_rgb((self.hue + turn) % 1, lightness, self.saturation)
        return round(255 * red), round(255 * green), round(255 * blue)

    def fill_gradient(self, top: Color, bottom: Color) -> None:
        gradient = Image.linear_gradient("L").resize(self.image.size)
        self.image.paste(ImageOps.colorize(gradient, top, bottom))

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        self.draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=color)

    def rectangle(self, start: Point, end: Point, color: Color) -> None:
        self.draw.rectangle([value * self.side for value in (*start, *end)], fill=color)

    def disc(self, center: Point, radius: float, color: Color) -> None:
        x, y = center[0] * self.side, center[1] * self.side
        self.draw.circle((x, y), radius * self.side, fill=color)


@lru_cache(maxsize=256)
def draw_portrait(advisor: str, name: str, description: str) -> bytes:
    """Return an advisor's portrait as JPEG.

    advisor      its id
    name         its initials are on the portrait
    description  the profile's texts; their words choose the motif
    """
    random, text = Random(advisor), description.lower()
    is_monochrome = any(words in text for words in _MONOCHROME_WORDS)
    canvas = Canvas(random, random.random(), 0.0 if is_monochrome else random.uniform(0.45, 0.65))
    _choose_motif(text, random)(canvas)
    _draw_initials(canvas, name)
    content = BytesIO()
    canvas.image.reduce(_SCALE).save(content, "JPEG", quality=88)
    return content.getvalue()


def _choose_motif(text: str, random: Random) -> Callable[[Canvas], None]:
    """Return the motif with the most words in a lower-case text; without any, one at random."""
    counts = {motif: sum(map(text.count, words)) for motif, words in _MOTIFS.items()}
    max_count = max(counts.values())
    return random.choice([motif for motif, count in counts.items() if count == max_count])


def _draw_mountains(canvas: Canvas) -> None:
    random, color = canvas.random, canvas.color
    canvas.fill_gradient(color(0.22), color(0.86))
    canvas.disc((random.uniform(0.2, 0.8), random.uniform(0.13, 0.2)), 0.055, color(0.94))
    for height, roughness, lightness in ((0.5, 0.2, 0.62), (0.66, 0.42, 0.36), (0.74, 0.14, 0.2)):
        ridge = _make_ridge(random, height, roughness)
        canvas.polygon([*ridge, (1, 1), (0, 1)], color(lightness))
        snow = [(x, y + max(0.0, 0.45 * (0.5 - y)) * random.random()) for x, y in ridge]
        canvas.polygon([*ridge, *reversed(snow)], color(0.93))
    _draw_trees(canvas)


def _draw_trees(canvas: Canvas) -> None:
    color = canvas.color(0.06)
    canvas.rectangle((0, 0.86), (1, 1), color)
    for i in range(26):
        x, height = (i + canvas.random.random()) / 26, canvas.random.uniform(0.06, 0.16)
        canvas.polygon([(x - 0.028, 0.87), (x, 0.87 - height), (x + 0.028, 0.87)], color)


def _make_ridge(random: Random, height: float, roughness: float) -> list[Point]:
    """Return a line from left to right with a summit, by midpoint displacement."""
    summit = height - random.uniform(0.6, 0.9) * roughness
    slope = [height] * random.randint(1, 2)
    ys = [*slope, summit, *slope]
    while len(ys) < 257:
        middles = [
            (a + b) / 2 + random.uniform(-0.5, 0.5) * roughness
            for a, b in zip(ys, ys[1:], strict=False)
        ]
        ys = [y for pair in zip(ys, [*middles, 0.0], strict=True) for y in pair][:-1]
        roughness *= 0.52
    return [(i / (len(ys) - 1), y) for i, y in enumerate(ys)]


def _draw_flower(canvas: Canvas) -> None:
    random, color = canvas.random, canvas.color
    canvas.fill_gradient(color(0.3, 0.45), color(0.14, 0.5))
    center = random.uniform(0.44, 0.56), random.uniform(0.42, 0.5)
    petals, start = random.randint(6, 8), random.random()
    for ring, length in enumerate((0.62, 0.46, 0.27)):
        for i in range(petals):
            angle = 2 * pi * (i + start + ring / 2) / petals
            for step in range(12):  # from the edge of a petal to its light middle
                share = 1 - 0.06 * step
                lightness = 0.3 + 0.045 * step + 0.05 * ring
                shape = _make_petal(
                    center, angle, length * share, 1.1 * length * share / petals**0.5
                )
                canvas.polygon(shape, color(min(0.86, lightness), 0.008 * step))
    canvas.disc(center, 0.075, color(0.13, 0.06))
    for i in range(40):
        angle, radius = i * 2.4, 0.066 * (i / 40) ** 0.5  # as seeds grow
        point = center[0] + radius * cos(angle), center[1] + radius * sin(angle)
        canvas.disc(point, 0.006, color(0.72, 0.12))


def _make_petal(center: Point, angle: float, length: float, width: float) -> list[Point]:
    """Return the outline of a leaf that begins at `center`."""
    steps = [i / 24 for i in range(25)]
    sides = [(s * length, side * width / 2 * sin(pi * s**1.4)) for side in (1, -1) for s in steps]
    outline = sides[:25] + sides[:24:-1]
    c, s = cos(angle), sin(angle)
    return [(center[0] + x * c - y * s, center[1] + x * s + y * c) for x, y in outline]


def _draw_dunes(canvas: Canvas) -> None:
    random, color = canvas.random, canvas.color
    canvas.fill_gradient(color(0.5, 0.5), color(0.88))
    canvas.disc((random.uniform(0.25, 0.75), random.uniform(0.25, 0.38)), 0.12, color(0.95, 0.03))
    for i in range(6):
        phase, waves = random.random(), random.uniform(0.5, 1.1)
        height, size = 0.46 + 0.09 * i, random.uniform(0.04, 0.09)
        line = [(x / 64, height + size * sin(2 * pi * (phase + waves * x / 64))) for x in range(65)]
        canvas.polygon([*line, (1, 1), (0, 1)], color(0.7 - 0.105 * i, 0.02 * i))


def _draw_city(canvas: Canvas) -> None:
    random, color = canvas.random, canvas.color
    canvas.fill_gradient(color(0.24), color(0.82, 0.12))
    canvas.disc((random.uniform(0.25, 0.75), 0.36), 0.13, color(0.9, 0.1))
    for lightness, lowest, highest in ((0.4, 0.4, 0.62), (0.1, 0.48, 0.76)):
        x = -0.02
        while x < 1:
            width, top = random.uniform(0.1, 0.19), random.uniform(lowest, highest)
            canvas.rectangle((x, top), (x + width - 0.008, 1), color(lightness))
            if lightness < 0.2:
                _draw_windows(canvas, (x + 0.015, top + 0.02), x + width - 0.035)
            x += width


def _draw_windows(canvas: Canvas, start: Point, right: float) -> None:
    x, top = start
    while x < right:
        for row in range(int((1 - top) / 0.045)):
            if canvas.random.random() < 0.4:
                y = top + 0.045 * row
                canvas.rectangle((x, y), (x + 0.016, y + 0.022), canvas.color(0.8, 0.13))
        x += 0.032


def _draw_arcs(canvas: Canvas) -> None:
    """Draw tiles with quarters of circles."""
    random, count = canvas.random, 3
    colors = [canvas.color(0.9), canvas.color(0.24), canvas.color(0.55), canvas.color(0.6, 0.5)]
    for i in range(count * count):
        left, top = i % count / count, i // count / count
        ground, outer, inner = random.sample(colors, 3)
        canvas.rectangle((left, top), (left + 1 / count, top + 1 / count), ground)
        quarter = random.randrange(4)
        x, y = ((0, 0), (1, 0), (1, 1), (0, 1))[quarter]
        center = left + x / count, top + y / count
        angles = [pi / 2 * (quarter + step / 32) for step in range(33)]
        for radius, color in ((1.0, outer), (0.5, inner)):
            rim = [
                (center[0] + radius / count * cos(a), center[1] + radius / count * sin(a))
                for a in angles
            ]
            canvas.polygon([center, *rim], color)


def _draw_grid(canvas: Canvas) -> None:
    """Draw fields between black lines, as Piet Mondrian did."""
    random, color = canvas.random, canvas.color
    canvas.rectangle((0, 0), (1, 1), (24, 24, 24))
    xs = [0.0, random.uniform(0.16, 0.3), random.uniform(0.6, 0.72), 1.0]
    ys = [0.0, random.uniform(0.24, 0.4), random.uniform(0.66, 0.8), 1.0]
    fills = [color(0.5), color(0.58, 0.5), color(0.3, 0.62), *[color(0.95, 0.1)] * 6]
    random.shuffle(fills)
    cells = [(x, y) for x in range(3) for y in range(3)]
    for (x, y), fill in zip(cells, fills, strict=True):
        start, end = (xs[x] + 0.014, ys[y] + 0.014), (xs[x + 1] - 0.014, ys[y + 1] - 0.014)
        canvas.rectangle(start, end, fill)


def _draw_initials(canvas: Canvas, name: str) -> None:
    """Write the initials at the bottom left, on a shadow."""
    letters = "".join(part[0] for part in name.split()[:2]).upper()
    fade = Image.linear_gradient("L").resize((canvas.side, canvas.side // 2))
    shadow = Image.new("L", canvas.image.size)
    shadow.paste(fade.point(lambda value: int(0.6 * value)), (0, canvas.side // 2))
    canvas.image.paste((0, 0, 0), mask=shadow)
    font = ImageFont.load_default(0.24 * canvas.side)
    position = 0.07 * canvas.side, 0.94 * canvas.side
    canvas.draw.text(position, letters, (255, 255, 255), font, anchor="ls")


_MOTIFS: dict[Callable[[Canvas], None], tuple[str, ...]] = {
    _draw_mountains: ("landscape", "mountain", "wilderness", "forest"),
    _draw_flower: ("flower", "plant", "garden", "still life", "nature"),
    _draw_dunes: ("desert", "sea", "coast", "minimal", "light"),
    _draw_city: ("street", "city", "urban", "architecture", "documentary"),
    _draw_arcs: ("portrait", "people", "fashion"),
    _draw_grid: ("abstract", "geometr", "graphic", "composition"),
}
