"""Families of changes that nothing may be fitted on or trained with: those of the benchmark's third draw.

Negatives, greys and shears are not among them, although the literature lists them: training has used those. Each takes
a strength from 1 (plainly the work) to 4 (hard to recognise) and a 256 x 256 square; lengths are in its pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from scipy.ndimage import map_coordinates
from scipy.spatial import KDTree

from evaluation.images.recipes import SIDE_PX, image_of, pixels_of, vivid
from evaluation.images.sample import read_foreign
from gmvaluator.images import decode_image
from gmvaluator.samples import sample_folder

_WHITE = (255, 255, 255)
_SIZE = (SIDE_PX, SIDE_PX)
_WORDS = (
    "SALE",
    "new season",
    "read more",
    "live",
    "tonight 8 pm",
    "BREAKING",
    "only today",
    "thank you",
    "part 2",
    "why?",
)
Grid = npt.NDArray[np.float64]


def _rotation(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Rotate by 30 to 180 degrees either way, reduced so that all of it shows."""
    low, high = ((30, 60), (60, 100), (100, 140), (140, 180))[strength - 1]
    degrees = rng.uniform(low, high) * (1 if rng.random() < 0.5 else -1)
    turned = image.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=_WHITE)
    return turned.resize(_SIZE, Image.Resampling.LANCZOS)


def _duotone(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Print in two inks, from sepia to any two colours whose contrast falls."""
    share = (0.75, 1.0, 1.0, 1.0)[strength - 1]
    light = np.asarray(ImageOps.autocontrast(image.convert("L")), dtype=np.float64)[:, :, None] / 255
    dark, pale = np.array([60.0, 35.0, 15.0]), np.array([250.0, 235.0, 200.0])
    if strength > 1:
        dark, pale = vivid(rng.random()) * 0.45, 255 - vivid(rng.random()) * 0.4
    if strength == 4:
        light = 0.25 + 0.5 * light
    pixels = dark + (pale - dark) * light ** rng.uniform(0.8, 1.2)
    return image_of(share * pixels + (1 - share) * pixels_of(image))


def _caption(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Write lines of large text across the image, on bands of colour or without."""
    result = image.copy()
    for _ in range((1, 2, 3, 5)[strength - 1]):
        font = ImageFont.load_default(rng.uniform(28, 52))
        words = " ".join(rng.sample(_WORDS, 2))
        left, top, right, bottom = font.getbbox(words)
        strip = Image.new("L", (math.ceil(right - left) + 16, math.ceil(bottom - top) + 12))
        ImageDraw.Draw(strip).text((8 - left, 6 - top), words, fill=255, font=font)
        y = rng.randrange(SIDE_PX - 40)
        x = rng.randrange(-40, 20)
        if rng.random() < 0.6:
            result.paste(_any_colour(rng), (0, y, SIDE_PX, y + strip.height))
        result.paste(_any_colour(rng), (x, y), strip)
    return result


def _stickers(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Put faces, stars and rings over the image."""
    result = image.copy()
    draw = ImageDraw.Draw(result)
    for _ in range((3, 6, 10, 15)[strength - 1]):
        centre = rng.random() * SIDE_PX, rng.random() * SIDE_PX
        rng.choice((_draw_face, _draw_star, _draw_ring))(draw, centre, rng.uniform(16, 30), rng)
    return result


def _draw_face(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, rng: random.Random) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 210, 40), outline=(120, 80, 0), width=2)
    for side in (-0.4, 0.4):
        draw.circle((x + side * radius, y - 0.25 * radius), radius * 0.13, fill=(60, 40, 0))
    mouth = rng.uniform(0.3, 0.6) * radius
    draw.arc((x - mouth, y - mouth, x + mouth, y + mouth), 20, 160, fill=(60, 40, 0), width=3)


def _draw_star(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, rng: random.Random) -> None:
    count, start = rng.randrange(5, 9), 2 * math.pi * rng.random()
    corners = [
        (
            centre[0] + length * math.cos(start + math.pi * number / count),
            centre[1] + length * math.sin(start + math.pi * number / count),
        )
        for number in range(2 * count)
        for length in (radius if number % 2 else radius * 0.5,)
    ]
    draw.polygon(corners, fill=_any_colour(rng), outline=(255, 255, 255), width=2)


def _draw_ring(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, rng: random.Random) -> None:
    draw.circle(centre, radius, fill=_any_colour(rng), outline=_any_colour(rng), width=round(radius / 4))


def _low_light(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Show the image as taken in the dark: little contrast, little light, and the noise of a sensor."""
    contrast = (0.7, 0.55, 0.4, 0.28)[strength - 1]
    light = (0.6, 0.45, 0.35, 0.25)[strength - 1]
    generator = np.random.default_rng(rng.getrandbits(64))
    pixels = light * (128 + contrast * (pixels_of(image) - 128))
    return image_of(pixels + generator.normal(0, 3, pixels.shape))


def _warp(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Swirl the image round a point, or ripple it in waves both ways."""
    y, x = (np.mgrid[0:SIDE_PX, 0:SIDE_PX]).astype(np.float64)
    if rng.random() < 0.5:
        across, down = (SIDE_PX * rng.uniform(0.4, 0.6) for _ in range(2))
        distance = np.hypot(x - across, y - down)
        turn = (0.8, 1.4, 2.2, 3.2)[strength - 1] * np.exp(-distance / 70) * (1 if rng.random() < 0.5 else -1)
        cos, sin = np.cos(turn), np.sin(turn)
        return _sampled(
            image, across + cos * (x - across) - sin * (y - down), down + sin * (x - across) + cos * (y - down)
        )
    reach_px, phase = (4.0, 7.0, 11.0, 16.0)[strength - 1], 2 * math.pi * rng.random()
    length_px = rng.uniform(40, 80)
    wave_x = reach_px * np.sin(2 * math.pi * y / length_px + phase)
    wave_y = reach_px * np.sin(2 * math.pi * x / length_px + phase)
    return _sampled(image, x + wave_x, y + wave_y)


def _sampled(image: Image.Image, x: Grid, y: Grid) -> Image.Image:
    """Return the image whose pixels lie at (x, y) in the given one; the outside is white."""
    channels = [
        map_coordinates(channel, (y, x), order=1, cval=255.0) for channel in np.moveaxis(pixels_of(image), 2, 0)
    ]
    return image_of(np.stack(channels, axis=2))


def _paper(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Print on rough, yellowed paper with folds."""
    depth = (0.15, 0.3, 0.45, 0.6)[strength - 1]
    generator = np.random.default_rng(rng.getrandbits(64))
    grain = _clouds(generator, 2) + 0.7 * _clouds(generator, 8) + 0.7 * _clouds(generator, 40)
    folds = np.zeros((SIDE_PX, SIDE_PX))
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX] - SIDE_PX / 2
    for _ in range(2 * strength):
        angle, offset = math.pi * rng.random(), rng.uniform(-100, 100)
        distance = math.cos(angle) * x + math.sin(angle) * y - offset
        folds += np.sign(distance) * np.exp(-np.abs(distance) / 9)
    ground = np.array([245.0, 232.0, 200.0]) / 255
    shade = 1 + depth * (0.35 * grain + 0.5 * folds - 0.25)
    return image_of((pixels_of(image) * (1 - 0.3 * depth) + 20 * depth) * ground * shade[:, :, None])


def _clouds(generator: np.random.Generator, grain_px: int) -> Grid:
    """Return smooth noise of this grain, (256, 256), mostly in -1..1."""
    side = math.ceil(SIDE_PX / grain_px)
    noise = Image.fromarray(generator.normal(0, 0.5, (side, side)).astype(np.float32))
    return np.asarray(noise.resize(_SIZE, Image.Resampling.BICUBIC), dtype=np.float64)


def _pencil(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Draw the image in pencil: strokes where it changes, hatching where it is dark, little of its colour."""
    colour = (0.5, 0.25, 0.1, 0.0)[strength - 1]
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    spread = Image.fromarray((255 - grey).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur((7, 5, 3.5, 2.5)[strength - 1])
    )
    dodged = np.clip(grey * 255 / np.maximum(255 - np.asarray(spread, dtype=np.float64), 1), 0, 255)
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX]
    angle = math.pi * rng.random()
    strokes = 0.5 + 0.5 * np.sin((math.cos(angle) * x + math.sin(angle) * y) * rng.uniform(1.2, 1.8))
    hatched = dodged - 110 * strokes * (1 - grey / 255) ** 1.5
    return image_of((1 - colour) * hatched[:, :, None] + colour * pixels_of(image))


def _over_photo(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Print the image onto a photograph that shows through its paper: the photograph is ground, nobody's work."""
    side_px = round((0.95, 0.88, 0.8, 0.7)[strength - 1] * SIDE_PX)
    visible = (0.4, 0.6, 0.8, 0.95)[strength - 1]
    photo = pixels_of(rng.choice(_photographs()))
    paper = Image.new("RGB", _SIZE, _WHITE)
    x, y = rng.randrange(SIDE_PX - side_px + 1), rng.randrange(SIDE_PX - side_px + 1)
    paper.paste(image.resize((side_px, side_px), Image.Resampling.LANCZOS), (x, y))
    print_ = pixels_of(paper)
    ink = 1 - (print_.min(axis=2, keepdims=True) / 255) ** 3
    ground = 255 - visible * (255 - photo)
    return image_of(ink * print_ + (1 - ink) * ground)


@lru_cache(maxsize=1)
def _photographs() -> Sequence[Image.Image]:
    """Return the shipped photographs for tests, RGB, 256 x 256."""
    folder = sample_folder("foreign")
    rows = [row for row in read_foreign(folder) if row.kind == "photo" and row.split == "test"]
    return [decode_image((folder / row.file_name).read_bytes()) for row in rows]


def _vignette(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Darken the corners, and let coloured light leak in from one side, as a toy camera does."""
    depth = (0.5, 0.7, 0.9, 1.0)[strength - 1]
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX] / SIDE_PX - 0.5
    dark = 1 - depth * np.clip(np.hypot(x, y) * (1.2, 1.4, 1.7, 2.0)[strength - 1] - 0.25, 0, 1)
    angle = 2 * math.pi * rng.random()
    leak = np.clip(math.cos(angle) * x + math.sin(angle) * y + (0.0, 0.1, 0.2, 0.3)[strength - 1], 0, 1)[:, :, None]
    return image_of(pixels_of(image) * dark[:, :, None] * (1 - leak) + leak * vivid(rng.random()) * 1.3)


def _oil_paint(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Paint in oil: thick dabs that swallow fine lines, with a relief of brush strokes."""
    dabs = image
    for _ in range((1, 3, 5, 8)[strength - 1]):
        dabs = dabs.filter(ImageFilter.MedianFilter(5))
    generator = np.random.default_rng(rng.getrandbits(64))
    strokes = np.gradient(_clouds(generator, 4) + _clouds(generator, 7))[rng.randrange(2)]
    edges = np.gradient(pixels_of(dabs).mean(axis=2))[0] / 255
    relief = (8, 12, 18, 24)[strength - 1] * (6 * strokes + 2 * edges)
    return image_of(pixels_of(dabs) + relief[:, :, None])


def _stained_glass(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Lay the image out in irregular pieces of one colour each, with lead between them."""
    count = (3000, 1600, 900, 450)[strength - 1]
    seeds = np.random.default_rng(rng.getrandbits(64)).random((count, 2)) * SIDE_PX
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX]
    distances, pieces = KDTree(seeds).query(np.stack([x.ravel(), y.ravel()], axis=1), k=2)
    nearest = pieces[:, 0]
    areas = np.maximum(np.bincount(nearest, minlength=count), 1)
    colours = pixels_of(image).reshape(-1, 3)
    means = np.stack([np.bincount(nearest, colours[:, channel], count) / areas for channel in range(3)], axis=1)
    lead = np.clip(distances[:, 1] - distances[:, 0], 0, 1)[:, None]
    return image_of((means[nearest] * (0.35 + 0.65 * lead)).reshape(SIDE_PX, SIDE_PX, 3))


def _any_colour(rng: random.Random) -> tuple[int, int, int]:
    red, green, blue = (rng.randrange(256) for _ in range(3))
    return red, green, blue


FAMILIES: dict[str, Callable[[int, Image.Image, random.Random], Image.Image]] = {
    "rotation": _rotation,
    "duotone": _duotone,
    "caption": _caption,
    "stickers": _stickers,
    "low_light": _low_light,
    "warp": _warp,
    "paper": _paper,
    "pencil": _pencil,
    "over_photo": _over_photo,
    "vignette": _vignette,
    "oil_paint": _oil_paint,
    "stained_glass": _stained_glass,
}
