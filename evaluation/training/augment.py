"""Seeded changes to batches of images on tensors, for training.

No change here is one of the kinds that are kept for tests: it neither posterises, nor shows an image in perspective,
nor prints it as halftone. Pixels and radii refer to 256 px, the longest side of the sample.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def derive_batch(images: Tensor, others: Tensor, side_px: int, rng: torch.Generator) -> Tensor:
    """Make a derivative of each image, (B, 3, side_px, side_px), strong or mild by chance.

    images: (B, 3, S, S) float32 in [0, 1], white paper; S above side_px keeps cuts sharp. others: the same shape: what
    may be blended in or laid into a corner. rng: decides everything.
    """
    return change_batch(_geometry(_compose(images, others, rng), side_px, rng), 1.0, rng)


def change_batch(images: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Change colour, lines, texture and cover at random, keeping the shapes shown.

    images: (B, 3, S, S) float32 in [0, 1]. share: factor on the chance of every change.
    """
    result = images.clone()
    for change, chance in _CHANGES:
        chosen = torch.rand(len(result), generator=rng) < chance * share
        if chosen.any():
            result[chosen] = change(result[chosen], rng)
    return (result + 0.02 * torch.rand(1, generator=rng) * torch.randn(result.shape, generator=rng)).clamp(0, 1)


def _uniform(count: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=rng)


def _geometry(images: Tensor, side_px: int, rng: torch.Generator) -> Tensor:
    """Apply one affine change each: mirror, rotation, shear, crop or shrink, shift; the outside is white."""
    count = len(images)
    angle = torch.randn(count, generator=rng) * math.radians(9)
    zoom = torch.exp(_uniform(count, math.log(0.38), math.log(1.35), rng))
    zoom = torch.where(torch.rand(count, generator=rng) < 0.3, torch.ones(count), zoom)
    stretch = torch.exp(torch.randn(count, generator=rng) * 0.08)
    mirror = torch.where(torch.rand(count, generator=rng) < 0.4, -1.0, 1.0)
    shear = torch.randn(count, generator=rng) * 0.08
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    slack = (1 - zoom).abs() * 0.85
    shift = (torch.rand(count, 2, generator=rng) * 2 - 1) * slack[:, None]
    row_x = torch.stack([cos * stretch * mirror, -sin + shear, shift[:, 0]], dim=1)
    row_y = torch.stack([sin * mirror, cos / stretch, shift[:, 1]], dim=1)
    shape = [count, images.shape[1], side_px, side_px]
    grid = functional.affine_grid(torch.stack([row_x, row_y], dim=1), shape, align_corners=False)
    return functional.grid_sample(images - 1, grid, padding_mode="zeros", align_corners=False) + 1


def _colour(images: Tensor, rng: torch.Generator) -> Tensor:
    """Rotate the hues at random, scale saturation from grey to vivid, apply a gain per channel and a tone curve."""
    count = len(images)
    turn = _uniform(count, -math.pi, math.pi, rng)
    saturation = _uniform(count, 0.0, 1.5, rng)
    axis = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    plane = torch.eye(3) - axis
    wheel = torch.cos(turn)[:, None, None] * plane + torch.sin(turn)[:, None, None] * cross
    matrix = axis + saturation[:, None, None] * wheel
    gain = _uniform(count * 3, 0.6, 1.1, rng).view(count, 3, 1)
    lift = _uniform(count * 3, 0.0, 0.3, rng).view(count, 3, 1)
    keep = (torch.rand(count, 1, 1, generator=rng) < 0.5).float()
    pixels = (matrix @ images.flatten(2)).clamp(0, 1)
    pixels = pixels * (gain * (1 - keep) + keep) * (1 - lift * (1 - keep)) + lift * (1 - keep)
    curve = torch.exp(torch.randn(count, 1, 1, generator=rng) * 0.45)
    return pixels.clamp(1e-4, 1).pow(curve).view_as(images)


def _lines(images: Tensor, rng: torch.Generator) -> Tensor:
    """Draw lines at edges of brightness or colour, over a fill that is faded at random."""
    count = len(images)
    smooth = functional.avg_pool2d(images, 3, 1, 1)
    across = functional.pad(smooth[..., 1:] - smooth[..., :-1], (0, 1))
    down = functional.pad(smooth[..., 1:, :] - smooth[..., :-1, :], (0, 0, 0, 1))
    steep = torch.hypot(across, down).amax(dim=1, keepdim=True)
    gain = _uniform(count, 1.5, 6.0, rng).view(-1, 1, 1, 1)
    fill = _uniform(count, -0.4, 1.0, rng).clamp(0, 1).view(-1, 1, 1, 1)
    return (1 - fill * (1 - smooth)) * (1 - (steep * gain).clamp(0, 1))


def _random_filter(images: Tensor, rng: torch.Generator) -> Tensor:
    """Blend the image with a random 5 x 5 filter that mixes channels: texture changes, shapes stay."""
    count, channels = images.shape[:2]
    kernels = torch.randn(count * channels, channels, 5, 5, generator=rng) / math.sqrt(channels * 25)
    mixed = functional.conv2d(images.flatten(0, 1)[None], kernels, padding=2, groups=count).view_as(images)
    low = mixed.flatten(1).amin(dim=1).view(-1, 1, 1, 1)
    high = mixed.flatten(1).amax(dim=1).view(-1, 1, 1, 1)
    share = _uniform(count, 0.0, 0.9, rng).view(-1, 1, 1, 1)
    return images * (1 - share) + share * (mixed - low) / (high - low + 1e-4)


def _grain(images: Tensor, rng: torch.Generator) -> Tensor:
    """Add or multiply noise of random grain, from single pixels to soft clouds."""
    count, channels, side, _ = images.shape
    coarse = max(int(side / (2 ** (4 * float(torch.rand(1, generator=rng))))), 4)
    noise = torch.randn(count, channels, coarse, coarse, generator=rng)
    noise = functional.interpolate(noise, (side, side), mode="nearest" if coarse > side // 3 else "bilinear")
    level = _uniform(count, 0.0, 0.35, rng).view(-1, 1, 1, 1)
    return (images + level * noise).clamp(0, 1)


def _blur_batch(images: Tensor, rng: torch.Generator) -> Tensor:
    """Blur by up to four pixels of 256."""
    count, channels, side, _ = images.shape
    sigma = _uniform(count, 0.3, 4.2 * side / 256, rng)[:, None]
    radius = math.ceil(8 * side / 256)
    steps = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None]
    flat = functional.pad(images.flatten(0, 1)[None], (radius,) * 4, mode="replicate")
    across = functional.conv2d(flat, kernel[:, :, None], groups=count * channels)
    return functional.conv2d(across, kernel[..., None], groups=count * channels).view_as(images)


def _coarse(images: Tensor, rng: torch.Generator) -> Tensor:
    """Reduce to a third to an eighth of the resolution."""
    side = images.shape[-1]
    small = int(side / float(_uniform(1, 1.5, 6.0, rng)))
    mode = "nearest" if float(torch.rand(1, generator=rng)) < 0.5 else "bilinear"
    return functional.interpolate(functional.interpolate(images, (small, small), mode="area"), (side, side), mode=mode)


def _cover(images: Tensor, rng: torch.Generator) -> Tensor:
    """Cover a part with a rectangle of one colour."""
    count, _, side, _ = images.shape
    grid = torch.arange(side) / side
    corner, size = torch.rand(count, 2, generator=rng), _uniform(count * 2, 0.1, 0.45, rng).view(count, 2)
    inside_x = (grid >= corner[:, :1]) & (grid < corner[:, :1] + size[:, :1])
    inside_y = (grid >= corner[:, 1:]) & (grid < corner[:, 1:] + size[:, 1:])
    inside = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
    return torch.where(inside, torch.rand(count, 3, 1, 1, generator=rng).expand_as(images), images)


def _ground(images: Tensor, rng: torch.Generator) -> Tensor:
    """Replace white paper by a colour or a gradient; ink stays."""
    count, _, side, _ = images.shape
    corners = torch.rand(count, 3, 2, 2, generator=rng)
    ground = functional.interpolate(corners, (side, side), mode="bilinear", align_corners=True)
    light = images.amin(dim=1, keepdim=True)
    share = (_uniform(count, 0.2, 1.0, rng).view(-1, 1, 1, 1)) * light**4
    return images * (1 - share) + share * ground


def _negative(images: Tensor, rng: torch.Generator) -> Tensor:
    del rng
    return 1 - images


def _compose(images: Tensor, others: Tensor, rng: torch.Generator) -> Tensor:
    """Blend, juxtapose or inset another image in one of four; the first keeps most of the area."""
    count, _, side, _ = images.shape
    share = _uniform(count, 0.1, 0.4, rng).view(-1, 1, 1, 1)
    blended = images * (1 - share) + others * share
    half = side // 2
    inset = images.clone()
    small = functional.interpolate(others, (half, half), mode="bilinear")
    y, x = (int(v) for v in torch.randint(0, 2, (2,), generator=rng) * half)
    inset[:, :, y : y + half, x : x + half] = small
    way = torch.rand(count, 1, 1, 1, generator=rng)
    return torch.where(way < 0.12, blended, torch.where(way < 0.24, inset, images))


_CHANGES = (
    (_ground, 0.12),
    (_colour, 0.6),
    (_lines, 0.25),
    (_random_filter, 0.15),
    (_blur_batch, 0.3),
    (_grain, 0.2),
    (_coarse, 0.15),
    (_cover, 0.12),
    (_negative, 0.04),
)
