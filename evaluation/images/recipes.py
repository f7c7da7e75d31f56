"""Seeded recipes for derivatives, compositions of several works, and the split of artists into fit and test.

Derivatives stand in for a generator's output wherever a benchmark needs ground truth. Every recipe takes one source
(`compose` two) and a strength from 1 (plainly the source) to 4 (hard to recognise), and returns a 256 x 256 image.

The split was fixed before anything was fitted. Of the sample's works, models are trained and policies fitted on those
of fit artists only. Quoted figures are measured with queries made from those of test artists, except figures of the
shipped examples, which say so.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter, ImageOps

SIDE_PX = 256
"""Side of every derivative, as generators emit squares."""

KINDS = ("crop", "hue", "mirror_blur", "outline", "compose")
"""Recipes that anything may be fitted on."""

TEST_KINDS = ("posterise", "perspective", "halftone")
"""Recipes that nothing may be fitted on; they show how a fit handles changes it has not seen."""

STRENGTHS = (1, 2, 3, 4)

_WHITE = (255, 255, 255)
_PAPER_TOLERANCE = 12
Pixels = npt.NDArray[np.float64]
_Recipe = Callable[[int, Sequence[Image.Image], random.Random], Image.Image]


def source_count(kind: str) -> int:
    """Return how many sources `derive` needs for this kind: 2 for compose, else 1."""
    return 2 if kind == "compose" else 1


def derive(kind: str, strength: int, sources: Sequence[Image.Image], rng: random.Random) -> Image.Image:
    """Make one derivative, RGB, 256 x 256; the same arguments and generator state give the same pixels.

    kind: one of KINDS or TEST_KINDS. strength: one of STRENGTHS. sources: `source_count(kind)` RGB images, the first
    the main one. Raises ValueError for any other kind, strength or number of sources.
    """
    if kind not in _RECIPES or strength not in STRENGTHS:
        raise ValueError(f"no recipe {kind} of strength {strength}: kinds are {(*_RECIPES,)}, strengths {STRENGTHS}")
    if len(sources) != source_count(kind):
        raise ValueError(f"{kind} needs {source_count(kind)} sources, not {len(sources)}")
    squares = [square(source) for source in sources]
    return _RECIPES[kind](strength, squares, rng)


def square(image: Image.Image) -> Image.Image:
    """Fit the whole image into a white 256 x 256 square."""
    return ImageOps.pad(image.convert("RGB"), (SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC, color=_WHITE)


def _crop(strength: int, sources: Sequence[Image.Image], rng: random.Random) -> Image.Image:
    """Enlarge a window inside the drawn area to the full square."""
    kept_side = (0.8, 0.65, 0.5, 0.4)[strength - 1]
    left, top, right, bottom = drawn_box(sources[0])
    side_px = max(round(kept_side * max(right - left, bottom - top)), 24)
    x = _window_start(left, right, side_px, rng)
    y = _window_start(top, bottom, side_px, rng)
    window = sources[0].crop((x, y, x + side_px, y + side_px))
    return window.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)


def _window_start(low: int, high: int, side_px: int, rng: random.Random) -> int:
    """Return where a window begins: anywhere in low..high, or centred on it if the window is larger."""
    slack_px = high - low - side_px
    start = low + slack_px * (rng.random() if slack_px > 0 else 0.5)
    return min(max(round(start), 0), SIDE_PX - side_px)


def drawn_box(image: Image.Image) -> tuple[int, int, int, int]:
    """Return the bounds of everything that is not white; the whole image if all is white."""
    ink = ImageChops.invert(image.convert("L")).point([0] * _PAPER_TOLERANCE + [255] * (256 - _PAPER_TOLERANCE))
    return ink.getbbox() or (0, 0, *image.size)


def _hue(strength: int, sources: Sequence[Image.Image], rng: random.Random) -> Image.Image:
    """Rotate the hues either way, and tint white paper and black ink, so that grey drawings change as well."""
    turn_degrees = (35, 75, 120, 180)[strength - 1] * (1 if rng.random() < 0.5 else -1)
    tint = (0.08, 0.18, 0.3, 0.45)[strength - 1]
    paper = vivid(rng.random())
    ink = vivid(rng.random())
    pixels = pixels_of(_turn_hue(sources[0], turn_degrees))
    light = pixels.mean(axis=2, keepdims=True) / 255
    return image_of(pixels * (1 - tint) + tint * (light * paper + (1 - light) * ink * 0.6))


def _turn_hue(image: Image.Image, degrees: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shift = round(degrees / 360 * 256)
    turned = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def vivid(hue: float) -> Pixels:
    """Return a saturated colour, (3,) in 0..255, for a hue in [0, 1)."""
    sextant: Pixels = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return np.clip(sextant, 0, 1) * 255


def _mirror_blur(strength: int, sources: Sequence[Image.Image], rng: random.Random) -> Image.Image:
    """Mirror, rotate a little either way, and blur."""
    turn_degrees = (3.0, 7.0, 12.0, 18.0)[strength - 1] * (1 if rng.random() < 0.5 else -1)
    blur_px = (0.8, 1.6, 2.6, 4.0)[strength - 1] * (0.9 + 0.2 * rng.random())
    mirrored = ImageOps.mirror(sources[0])
    turned = mirrored.rotate(turn_degrees, Image.Resampling.BICUBIC, fillcolor=_WHITE)
    return turned.filter(ImageFilter.GaussianBlur(blur_px))


def _outline(strength: int, sources: Sequence[Image.Image], rng: random.Random) -> Image.Image:
    """Redraw with dark lines at edges of brightness or colour, over fills of few tones that fade with strength."""
    tones_bits = (3, 2, 1, 1)[strength - 1]
    fill = (1.0, 0.75, 0.4, 0.0)[strength - 1]
    smooth = sources[0].filter(ImageFilter.GaussianBlur(0.8 + 0.4 * rng.random()))
    flat = pixels_of(ImageOps.posterize(smooth, tones_bits)) * 255 / (256 - 2 ** (8 - tones_bits))
    lines = _line_strength(pixels_of(smooth), gain=2.0 + rng.random())
    paper = 255 - fill * (255 - np.clip(flat, 0, 255))
    return image_of(paper * (1 - lines[:, :, None]))


def _line_strength(pixels: Pixels, gain: float) -> Pixels:
    """Return (H, W) in [0, 1]: the largest gradient over the three channels, by central differences."""
    down, across = np.gradient(pixels, axis=(0, 1))
    steepness: Pixels = np.hypot(down, across).max(axis=2) / 128
    return np.clip(steepness * gain, 0, 1)


def _compose(strength: int, sources: Sequence[Image.Image], rng: random.Random) -> Image.Image:
    """Combine two images: blended, side by side, or one inset into the other."""
    way = (_blend, _side_by_side, _inset)[math.floor(rng.random() * 3)]
    return way(strength, sources[0], sources[1], rng)


def _blend(strength: int, main: Image.Image, other: Image.Image, rng: random.Random) -> Image.Image:
    share = (0.2, 0.3, 0.4, 0.5)[strength - 1] - 0.05 * rng.random()
    return Image.blend(main, other, share)


def _side_by_side(strength: int, main: Image.Image, other: Image.Image, rng: random.Random) -> Image.Image:
    other_px = round(SIDE_PX * (0.3, 0.38, 0.44, 0.5)[strength - 1])
    main_px = SIDE_PX - other_px
    main_x, other_x = (0, main_px) if rng.random() < 0.5 else (other_px, 0)
    result = Image.new("RGB", (SIDE_PX, SIDE_PX), _WHITE)
    for image, width_px, x in ((main, main_px, main_x), (other, other_px, other_x)):
        drawn = image.crop(drawn_box(image))
        result.paste(ImageOps.pad(drawn, (width_px, SIDE_PX), Image.Resampling.BICUBIC, color=_WHITE), (x, 0))
    return result


def _inset(strength: int, main: Image.Image, other: Image.Image, rng: random.Random) -> Image.Image:
    side_px = round(SIDE_PX * (0.35, 0.45, 0.55, 0.65)[strength - 1])
    result = main.copy()
    x = 0 if rng.random() < 0.5 else SIDE_PX - side_px
    y = 0 if rng.random() < 0.5 else SIDE_PX - side_px
    result.paste(other.resize((side_px, side_px), Image.Resampling.BICUBIC), (x, y))
    return result


def _posterise(strength: int, sources: Sequence[Image.Image], rng: random.Random) -> Image.Image:
    """Reduce each channel to few tones, with limits that differ between the channels."""
    tones = (5, 4, 3, 2)[strength - 1]
    offsets = np.array([rng.uniform(-0.25, 0.25) for _ in range(3)])
    levels = np.clip(np.rint(pixels_of(sources[0]) / 255 * (tones - 1) + offsets), 0, tones - 1)
    return image_of(levels * 255 / (tones - 1))


def _perspective(strength: int, sources: Sequence[Image.Image], rng: random.Random) -> Image.Image:
    """Show the image from the side: each corner is moved inwards by its own length, on white."""
    reach_px = (0.1, 0.18, 0.26, 0.34)[strength - 1] * SIDE_PX
    inwards = [(rng.random() * reach_px, rng.random() * reach_px) for _ in range(4)]
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    whole = ((0, 0), (0, SIDE_PX), (SIDE_PX, SIDE_PX), (SIDE_PX, 0))
    seen = [
        (x + sign_x * move_x, y + sign_y * move_y)
        for (x, y), (sign_x, sign_y), (move_x, move_y) in zip(whole, signs, inwards, strict=True)
    ]
    plane = _homography(seen, whole)
    size = (SIDE_PX, SIDE_PX)
    return sources[0].transform(size, Image.Transform.PERSPECTIVE, plane, Image.Resampling.BICUBIC, fillcolor=_WHITE)


def _homography(
    seen: Sequence[tuple[float, float]], whole: Sequence[tuple[float, float]]
) -> tuple[float, float, float, float, float, float, float, float]:
    """Return Pillow's eight coefficients, which map each point of `seen` to its partner in `whole`."""
    rows = []
    for (x, y), (u, v) in zip(seen, whole, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    a, b, c, d, e, f, g, h = np.linalg.solve(np.array(rows), np.array(whole, dtype=np.float64).ravel()).tolist()
    return a, b, c, d, e, f, g, h


def _halftone(strength: int, sources: Sequence[Image.Image], rng: random.Random) -> Image.Image:
    """Print as halftone: round dots on a grid with its own angle for each channel, larger where it is darker."""
    cell_px = (4.0, 6.0, 8.0, 11.0)[strength - 1]
    across, down = np.meshgrid(np.arange(SIDE_PX), np.arange(SIDE_PX))
    inks = []
    for channel, angle_degrees in zip(sources[0].split(), (15, 75, 45), strict=True):
        angle = math.radians(angle_degrees + 10 * rng.random())
        u = (across * math.cos(angle) + down * math.sin(angle)) / cell_px
        v = (down * math.cos(angle) - across * math.sin(angle)) / cell_px
        distance = np.hypot(u - np.rint(u), v - np.rint(v))
        light = np.asarray(channel.filter(ImageFilter.BoxBlur(cell_px / 2)), dtype=np.float64) / 255
        radius = np.sqrt((1 - light) / 2) * 1.05
        inks.append(np.clip((distance - radius) * cell_px + 0.5, 0, 1) * 255)
    return image_of(np.stack(inks, axis=2))


def pixels_of(image: Image.Image) -> Pixels:
    """Return the levels of an RGB image, (H, W, 3) in 0..255."""
    return np.asarray(image, dtype=np.float64)


def image_of(pixels: Pixels) -> Image.Image:
    """Return the image of these levels, rounded and cut off at 0 and 255."""
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


_RECIPES: dict[str, _Recipe] = {
    "crop": _crop,
    "hue": _hue,
    "mirror_blur": _mirror_blur,
    "outline": _outline,
    "compose": _compose,
    "posterise": _posterise,
    "perspective": _perspective,
    "halftone": _halftone,
}

WEIGHTS: dict[int, tuple[tuple[float, ...], ...]] = {
    2: ((0.8, 0.2), (0.7, 0.3), (0.6, 0.4), (0.5, 0.5)),
    3: ((0.7, 0.2, 0.1), (0.6, 0.25, 0.15), (0.45, 0.35, 0.2), (1 / 3, 1 / 3, 1 / 3)),
}
"""Shares by number of sources, at strengths 1 to 4, from plainly one work's to even."""


def compose_weighted(strength: int, sources: Sequence[Image.Image], rng: random.Random) -> Image.Image:
    """Combine the sources, blended or side by side, in the shares given by WEIGHTS; RGB, 256 x 256.

    When blended, a share is the weight of each pixel; side by side, it is the share of the width. Raises KeyError for
    another number of sources.
    """
    weights = WEIGHTS[len(sources)][strength - 1]
    return _blend_by_weight(sources, weights) if rng.random() < 0.5 else _strips_by_weight(sources, weights, rng)


def _blend_by_weight(sources: Sequence[Image.Image], weights: Sequence[float]) -> Image.Image:
    pixels = sum(
        weight * np.asarray(square(source), dtype=np.float64) for source, weight in zip(sources, weights, strict=True)
    )
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _strips_by_weight(sources: Sequence[Image.Image], weights: Sequence[float], rng: random.Random) -> Image.Image:
    result = Image.new("RGB", (SIDE_PX, SIDE_PX), (255, 255, 255))
    order = rng.sample(range(len(sources)), len(sources))
    start = 0.0
    for place in order:
        left, right = round(start), round(start + weights[place] * SIDE_PX)
        strip = ImageOps.fit(sources[place].convert("RGB"), (right - left, SIDE_PX), Image.Resampling.BICUBIC)
        result.paste(strip, (left, 0))
        start += weights[place] * SIDE_PX
    return result


FIT_ARTISTS = 13
"""Artists of the sample's 26 whose works may be used for fitting."""

OWNERS = (
    *("abiclipart", "andy-fitzsimon", "benji-park", "caleb-moore", "cezary-biele", "codifiedivining"),
    *("dan-gerhards", "daniel-mcrae", "danny-allen", "gerald-g", "jakob", "jean-victor-balin", "john-cliff"),
    *("jonadab-the-unsightly-one", "jose-hevia", "juliane-krug", "lauris-kaplinski", "linda-kim"),
    *("lumen-design-studio", "marko-j-kolehmainen", "mo", "nathan-eady", "nicolas-clementz"),
    *("sergio-luiz-araujo-silva", "tobias-jakobs", "yves-guillou"),
)
"""`owner_id` of every artist of the sample."""


def _order(owner: str) -> str:
    return hashlib.sha256(f"known-source/{owner}".encode()).hexdigest()


FIT_OWNERS = frozenset(sorted(OWNERS, key=_order)[:FIT_ARTISTS])
TEST_OWNERS = frozenset(OWNERS) - FIT_OWNERS
