"""What the tests of full-size models share."""

import random
import socket

import pytest
from PIL import Image, ImageFilter

from gmvaluator.images import decode_image
from gmvaluator.samples import sample_folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection is refused, and every look-up of a name."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Square, wide, high, small and noisy ones."""
    paths = sorted((sample_folder("openclipart") / "images").glob("*.webp"))[::300]
    images = [decode_image(path.read_bytes()) for path in paths]
    noise = Image.effect_noise((224, 224), 80).convert("RGB").filter(ImageFilter.GaussianBlur(3))
    pixel = random.Random(1)
    speckled = Image.frombytes("RGB", (97, 313), pixel.randbytes(97 * 313 * 3))
    return [*images, noise, speckled]
