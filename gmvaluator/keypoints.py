"""Local features of one image as arrays, and the bytes that the index keeps of a work's.

Positions are fractions of the side of the square into which the whole image was fitted, so that features of images of
any size and shape can be compared. A descriptor is SIFT's, of root-normalised gradients (Arandjelović and Zisserman,
2012), projected on its principal components.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt

from gmvaluator.errors import InvalidVector

DESCRIPTOR_DIM = 32
"""Numbers of a descriptor, one byte each."""

MAX_KEYPOINTS = 300
"""Most keypoints that are kept of a work, strongest first."""

MAX_IMAGE_KEYPOINTS = 1_000
"""Most keypoints of an image in which works are looked for: it may show several works, and is not stored."""

Float32 = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]

_RECORD = np.dtype(
    [("position", "<u2", (2,)), ("size", "u1"), ("angle", "u1"), ("descriptor", "i1", (DESCRIPTOR_DIM,))]
)
"""A keypoint as stored, 38 bytes: position in 1/65,535 of the side, logarithm of the size, angle in 1/256 turn."""

GRID = 16
"""Cells of an image across, and down: of `content`, and of the masks that say where works are seen."""

_CONTENT_BYTES = GRID * GRID // 8
_CHECKSUM = struct.Struct("<I")
_FINEST_SIZE = 1 / 1024
_SIZE_STEPS = 25.5
"""Steps of a stored size per doubling or halving; 255 steps reach 1,024 times the finest size."""

# Tables, because the features of many works are parsed for each generated image.
_SIZES = (_FINEST_SIZE * 2.0 ** (np.arange(256) / _SIZE_STEPS)).astype(np.float32)
_ANGLES = (np.arange(256) * (2 * np.pi / 256)).astype(np.float32)
"""The size and the angle in radians of each stored value."""


@dataclass(frozen=True, slots=True)
class LocalFeatures:
    """The keypoints of an image, strongest first.

    positions: (N, 2), x and y in [0, 1]. sizes: (N,), diameters in the same unit. angles: (N,), radians. descriptors:
    (N, 32). mirrored: (N, 32), the descriptors that the mirrored image would have; empty for works, since only one side
    of a comparison needs them. content: the cells of a grid of 16 x 16 that show anything, (16, 16).
    """

    positions: Float32
    sizes: Float32
    angles: Float32
    descriptors: Int8
    mirrored: Int8
    content: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.positions)

    def to_bytes(self) -> bytes:
        """Return the stored form: a CRC-32 of the rest, `content`, then 38 bytes a keypoint, without `mirrored`."""
        records = np.zeros(len(self), _RECORD)
        records["position"] = np.rint(self.positions.clip(0, 1) * 65_535)
        steps = np.log2(np.maximum(self.sizes, _FINEST_SIZE) / _FINEST_SIZE) * _SIZE_STEPS
        records["size"] = np.rint(steps).clip(0, 255)
        records["angle"] = np.rint(self.angles / (2 * np.pi) * 256).astype(np.int64) % 256
        records["descriptor"] = self.descriptors
        body = np.packbits(self.content).tobytes() + records.tobytes()
        return _CHECKSUM.pack(crc32(body)) + body

    @classmethod
    def from_bytes(cls, data: bytes, most: int = MAX_KEYPOINTS) -> LocalFeatures:
        """Parse the stored form. Raises InvalidVector if it is damaged or has more than `most` keypoints."""
        body = memoryview(data)[_CHECKSUM.size :]
        count, rest = divmod(len(body) - _CONTENT_BYTES, _RECORD.itemsize)
        if count < 0 or rest or count > most:
            raise InvalidVector(
                f"local features of {len(data)} bytes are not {_CHECKSUM.size + _CONTENT_BYTES} bytes and up to "
                f"{most} keypoints of {_RECORD.itemsize} bytes"
            )
        if crc32(body) != _CHECKSUM.unpack_from(data)[0]:
            raise InvalidVector("local features do not match their checksum")
        content = np.unpackbits(np.frombuffer(body, np.uint8, _CONTENT_BYTES)).astype(bool).reshape(GRID, GRID)
        records = np.frombuffer(body, _RECORD, offset=_CONTENT_BYTES)
        return cls(
            records["position"].astype(np.float32) / np.float32(65_535),
            _SIZES.take(records["size"]),
            _ANGLES.take(records["angle"]),
            records["descriptor"],
            np.empty((0, DESCRIPTOR_DIM), np.int8),
            content,
        )

    def to_text(self) -> str:
        """Return the stored form as base64, for payloads, which are JSON."""
        return base64.b64encode(self.to_bytes()).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> LocalFeatures:
        """Parse the result of `to_text`. Raises InvalidVector."""
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise InvalidVector(f"local features are not base64: {error}") from error
        return cls.from_bytes(data)


def no_features() -> LocalFeatures:
    """Return the features of an image that shows nothing, such as a blank page."""
    body = bytes(_CONTENT_BYTES)
    return LocalFeatures.from_bytes(_CHECKSUM.pack(crc32(body)) + body)
