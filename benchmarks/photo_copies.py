"""Kinds of altered copies of a photo that people keep: the ground truth of near-duplicates."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

Copy = Callable[[Image.Image, np.random.Generator], Image.Image]
GREY = (110, 110, 115)


def save_as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def crop(fraction: float) -> Copy:
    """Return a copy that loses a fraction of its width and of its height, anywhere."""

    def make(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        width, height = (round(side * (1 - fraction)) for side in image.size)
        left = int(rng.integers(0, image.width - width + 1))
        top = int(rng.integers(0, image.height - height + 1))
        return image.crop((left, top, left + width, top + height))

    return make


def crop_to_aspect(ratio: float) -> Copy:
    """Return the largest part with this ratio of width to height, anywhere."""

    def make(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        width = min(image.width, round(image.height * ratio))
        height = min(image.height, round(image.width / ratio))
        left = int(rng.integers(0, image.width - width + 1))
        top = int(rng.integers(0, image.height - height + 1))
        return image.crop((left, top, left + width, top + height))

    return make


def border(fraction: float, color: str | tuple[int, int, int]) -> Copy:
    return lambda image, rng: ImageOps.expand(image, round(fraction * min(image.size)), color)


def double_border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    inner = ImageOps.expand(image, round(0.02 * min(image.size)), "black")
    return ImageOps.expand(inner, round(0.08 * min(image.size)), "white")


def polaroid(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Crop to a square on a card with a wide lower edge and a caption."""
    photo = ImageOps.fit(image, (480, 480))
    card = Image.new("RGB", (540, 640), (250, 248, 242))
    card.paste(photo, (30, 30))
    ImageDraw.Draw(card).text((200, 560), f"No. {rng.integers(1000)}", (40, 40, 60), font_size=32)
    return card


def screenshot(background: str, ink: str) -> Copy:
    """Return the photo on a phone: clock and battery above, buttons below."""

    def make(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        screen = Image.new("RGB", (590, 1278), background)
        photo = ImageOps.contain(image, (590, 1000))
        screen.paste(photo, ((590 - photo.width) // 2, (1278 - photo.height) // 2))
        draw = ImageDraw.Draw(screen)
        clock = f"{rng.integers(24):02}:{rng.integers(60):02}"
        draw.text((50, 25), clock, ink, font_size=28)
        draw.rectangle((490, 30, 540, 52), outline=ink, width=3)
        draw.text((245, 80), "Photos", ink, font_size=28)
        for x in (60, 210, 360, 510):
            draw.ellipse((x - 18, 1190, x + 18, 1226), outline=ink, width=4)
        draw.rounded_rectangle((200, 1258, 390, 1264), 3, fill=ink)
        return screen

    return make


def grade(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Apply teal shadows and orange lights, more contrast and less saturation."""
    pixels = np.asarray(ImageEnhance.Color(image).enhance(0.7), np.float32) / 255
    light = pixels.mean(axis=2, keepdims=True)
    tint = light * [0.10, 0.02, -0.10] + (1 - light) * [-0.06, 0.03, 0.08]
    curve = np.clip(pixels + tint, 0, 1)
    curve = curve + 0.15 * np.sin(2 * np.pi * (curve - 0.5)) / 2
    return Image.fromarray((curve.clip(0, 1) * 255).astype(np.uint8))


def gamma(exponent: float) -> Copy:
    table = [round(255 * (i / 255) ** exponent) for i in range(256)] * 3
    return lambda image, rng: image.point(table)


def film(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Apply a vignette, grain, lifted blacks and a warm cast."""
    y, x = np.mgrid[-1 : 1 : image.height * 1j, -1 : 1 : image.width * 1j]
    pixels = np.asarray(image, np.float32) * (1 - 0.35 * (x * x + y * y) / 2)[..., None]
    pixels = 25 + pixels * [0.92, 0.88, 0.78] + rng.normal(0, 8, (*y.shape, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def watermark(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    layer = image.copy()
    draw = ImageDraw.Draw(layer)
    size = image.height // 8
    draw.text((image.width // 6, image.height * 0.45), "SAMPLE PHOTO", "white", font_size=size)
    return Image.blend(image, layer, 0.6)


def caption(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    copy = image.copy()
    draw = ImageDraw.Draw(copy)
    draw.rectangle((0, image.height * 0.86, image.width, image.height), fill="black")
    place = (image.width // 20, image.height * 0.89)
    draw.text(place, "A day at the sea, 2019", "white", font_size=image.height // 16)
    return copy


def straighten(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn by 2 degrees and crop the empty corners."""
    turned = image.rotate(2 if rng.random() < 0.5 else -2, Image.Resampling.BICUBIC)
    x, y = (round(0.05 * side) for side in image.size)
    return turned.crop((x, y, image.width - x, image.height - y))


def perspective(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Correct falling lines: the upper edge is widened by 6 %."""
    w, h = image.size
    corners = (0.03 * w, 0, 0, h, w, h, 0.97 * w, 0)
    return image.transform((w, h), Image.Transform.QUAD, corners, Image.Resampling.BICUBIC)


def turn(transpose: Image.Transpose) -> Copy:
    return lambda image, rng: image.transpose(transpose)


def chain(*steps: Copy) -> Copy:
    def make(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for step in steps:
            image = step(image, rng)
        return image

    return make


def resize(factor: float) -> Copy:
    return lambda image, rng: image.resize([max(64, round(factor * s)) for s in image.size])


def black_and_white(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.autocontrast(image.convert("L"), cutoff=2).convert("RGB")


MIRROR = turn(Image.Transpose.FLIP_LEFT_RIGHT)
COPIES: dict[str, Copy] = {
    "re-encoded, quality 35": lambda image, rng: save_as_jpeg(image, 35),
    "resized to a third": resize(1 / 3),
    "blurred and re-encoded": lambda image, rng: save_as_jpeg(
        image.filter(ImageFilter.GaussianBlur(image.width / 400)), 60
    ),
    "cropped by 5 %": crop(0.05),
    "cropped by 10 %": crop(0.10),
    "cropped by 15 %": crop(0.15),
    "cropped by 20 %": crop(0.20),
    "cropped by 30 %": crop(0.30),
    "square": crop_to_aspect(1.0),
    "4:5": crop_to_aspect(0.8),
    "mirrored": MIRROR,
    "turned by 90 degrees": turn(Image.Transpose.ROTATE_90),
    "turned by 180 degrees": turn(Image.Transpose.ROTATE_180),
    "turned by 270 degrees": turn(Image.Transpose.ROTATE_270),
    "white border of 8 %": border(0.08, "white"),
    "black border of 5 %": border(0.05, "black"),
    "black line in a white border": double_border,
    "polaroid": polaroid,
    "screenshot, white": screenshot("white", "black"),
    "screenshot, black": screenshot("black", "white"),
    "color grade": grade,
    "black and white": black_and_white,
    "gamma 0.6": gamma(0.6),
    "gamma 1.6": gamma(1.6),
    "film look": film,
    "watermark": watermark,
    "caption": caption,
    "straightened by 2 degrees": straighten,
    "perspective": perspective,
    "white border, then cropped by 10 %": chain(border(0.08, "white"), crop(0.10)),
    "cropped by 10 %, white border": chain(crop(0.10), border(0.08, "white")),
    "mirrored, color grade": chain(MIRROR, grade),
    "cropped by 10 %, black and white, re-encoded": chain(
        crop(0.10), black_and_white, lambda image, rng: save_as_jpeg(image, 50)
    ),
}
