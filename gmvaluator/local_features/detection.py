"""Detection of local features: SIFT keypoints of the whole image in a small square, with projected descriptors.

SIFT is OpenCV's (Lowe, 2004), descriptors are root-normalised (Arandjelović and Zisserman, 2012). Colour and fine
texture differ between a work and what a generator makes of it, so that the image is reduced to grey and to `SIDE_PX`.
Finding keypoints costs what the square costs, however large the image is; reducing it costs a pass over its pixels.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from gmvaluator.image_pixels import fit_on_white
from gmvaluator.keypoints import (
    DESCRIPTOR_DIM,
    GRID,
    MAX_IMAGE_KEYPOINTS,
    MAX_KEYPOINTS,
    Float32,
    Int8,
    LocalFeatures,
)

KIND = "sift-384-300-of-1000-contrast-0.02/root/pca-32"
"""Name of all settings of this module in a profile's identity."""

SIDE_PX = 384
"""Side of the square in which keypoints are detected."""

CONTRAST_THRESHOLD = 0.02
"""Lowest contrast of a keypoint, half of OpenCV's default: flat drawings have few keypoints."""

CONTENT_STEP = 6.0
"""Difference of neighbouring pixels, in levels of 256, from which a cell shows something."""

SIFT_DIM = 128
_CELL_PX = 8
"""Pixels across a cell where content is looked for."""

_local = threading.local()

Cells = npt.NDArray[np.bool_]


class Detector:
    """A detector of local features with a learned projection of descriptors. Thread-safe; it releases the GIL."""

    def __init__(self, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        """tensors: "mean", (128,), and "projection", (128, 32), of root-normalised descriptors."""
        self._mean = tensors["mean"].astype(np.float32)
        self._projection = tensors["projection"].astype(np.float32)

    def detect_work(self, image: Image.Image) -> LocalFeatures:
        """Return the features of an RGB training image, the strongest `MAX_KEYPOINTS` first."""
        return self._detect(image, MAX_KEYPOINTS, content_of(image), mirrored=False)

    def detect_image(self, image: Image.Image) -> LocalFeatures:
        """Return the features of an RGB image in which works are looked for, also mirrored ones: the strongest
        `MAX_IMAGE_KEYPOINTS` first, with what the descriptors of the mirrored image would be."""
        # The edge of an image in its square is no content: nobody's work lies beside the image.
        content = content_of(image) & cells_within(image.size)
        return self._detect(image, MAX_IMAGE_KEYPOINTS, content, mirrored=True)

    def _detect(self, image: Image.Image, most: int, content: Cells, mirrored: bool) -> LocalFeatures:
        keypoints, descriptors = sift(image, most)
        roots = root_descriptors(descriptors)
        return LocalFeatures(
            np.array([keypoint.pt for keypoint in keypoints], np.float32).reshape(-1, 2) / np.float32(SIDE_PX),
            np.array([keypoint.size for keypoint in keypoints], np.float32) / np.float32(SIDE_PX),
            np.radians(np.array([keypoint.angle for keypoint in keypoints], np.float32)),
            self._projected(roots),
            self._projected(roots[:, _MIRROR]) if mirrored else np.empty((0, DESCRIPTOR_DIM), np.int8),
            content,
        )

    def _projected(self, roots: Float32) -> Int8:
        projected = (roots - self._mean) @ self._projection
        norms = np.linalg.norm(projected, axis=1, keepdims=True)
        return np.asarray(np.rint(projected / np.maximum(norms, np.float32(1e-6)) * 127), np.int8)


def sift(image: Image.Image, most: int) -> tuple[list[cv2.KeyPoint], Float32]:
    """Return the `most` strongest keypoints of an RGB image in the square, and their SIFT descriptors, (N, 128)."""
    keypoints, descriptors = _detector(most).detectAndCompute(_grey_square(image), None)
    if descriptors is None:
        return [], np.empty((0, SIFT_DIM), np.float32)
    order = sorted(range(len(keypoints)), key=lambda row: -keypoints[row].response)[:most]
    return [keypoints[row] for row in order], np.asarray(descriptors[order], np.float32)


def root_descriptors(descriptors: Float32) -> Float32:
    """Return the square roots of descriptors, (N, 128), each scaled to a sum of 1."""
    sums = descriptors.sum(axis=1, keepdims=True)
    return np.asarray(np.sqrt(descriptors / np.maximum(sums, np.float32(1e-6))))


def cells_within(size: tuple[int, int]) -> Cells:
    """Return the cells, (GRID, GRID), that an image of this width and height covers at least in part."""
    longer = max(size)
    cells = np.ones((GRID, GRID), np.bool_)
    for axis, length in ((1, size[0]), (0, size[1])):
        # The image is centred: it covers (longer - length) / 2 to (longer + length) / 2 of the square.
        first = GRID * (longer - length) // (2 * longer)
        inside = (np.arange(GRID) >= first) & (np.arange(GRID) < GRID - first)
        cells &= inside[None, :] if axis else inside[:, None]
    return cells


def content_of(image: Image.Image) -> Cells:
    """Return the cells, (GRID, GRID), in which pixels differ, or a neighbouring cell's do."""
    pixels = np.asarray(fit_on_white(image, GRID * _CELL_PX, Image.Resampling.BOX), np.float32)
    down, across = np.gradient(pixels, axis=(0, 1))
    steps = np.hypot(down, across).max(axis=2).reshape(GRID, _CELL_PX, GRID, _CELL_PX).max(axis=(1, 3))
    return cv2.dilate((steps > CONTENT_STEP).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def _detector(most: int) -> cv2.SIFT:
    # One for each thread: OpenCV's detectors keep buffers.
    detectors: dict[int, cv2.SIFT] = _local.__dict__.setdefault("detectors", {})
    if most not in detectors:
        detectors[most] = cv2.SIFT.create(nfeatures=most, contrastThreshold=CONTRAST_THRESHOLD)
    return detectors[most]


def _grey_square(image: Image.Image) -> npt.NDArray[np.uint8]:
    square = np.asarray(fit_on_white(image, SIDE_PX))
    return np.asarray(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY), np.uint8)


def _mirror() -> npt.NDArray[np.intp]:
    """Return the places of a descriptor's numbers in that of the mirrored patch.

    A descriptor is 4 x 4 cells of 8 orientations in the keypoint's own frame, whose first axis is its direction. In the
    mirrored image rows follow each other in reverse, and orientations turn the other way.
    """
    places = np.arange(SIFT_DIM).reshape(4, 4, 8)[::-1]
    return np.concatenate([places[..., :1], places[..., :0:-1]], axis=2).ravel()


_MIRROR = _mirror()
