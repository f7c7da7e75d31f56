"""Mutated inputs: the same number always makes the same case, so a failure is reproduced from its number."""

import random
from collections.abc import Sequence

_INTERESTING = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
]
_MAX_BYTES = 64 * 1024


def case(seeds: Sequence[bytes], number: int) -> bytes:
    """Return a seed after 1 to 8 mutations."""
    choose = random.Random(number)
    data = bytearray(choose.choice(seeds))
    for _ in range(choose.choice((1, 1, 2, 3, 5, 8))):
        choose.choice(_MUTATIONS)(choose, data, seeds)
    return bytes(data[:_MAX_BYTES])


def _flip(choose: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)


def _overwrite(choose: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at, piece = choose.randrange(len(data) + 1), choose.choice(_INTERESTING)
    data[at : at + len(piece)] = piece


def _insert(choose: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = choose.randrange(len(data) + 1)
    data[at:at] = choose.randbytes(choose.choice((1, 2, 4, 16, 200)))


def _delete(choose: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = choose.randrange(len(data) + 1)
    del data[at : at + choose.choice((1, 2, 4, 16, 200))]


def _repeat(choose: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = choose.randrange(len(data) + 1)
    data[at:at] = data[at : at + choose.choice((1, 4, 12, 100))] * choose.choice((1, 2, 50))


def _splice(choose: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = choose.choice(seeds)
    at, begin = choose.randrange(len(data) + 1), choose.randrange(len(other) + 1)
    data[at:] = other[begin:]


def _cut(choose: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[choose.randrange(len(data) + 1) :]


_MUTATIONS = (_flip, _flip, _overwrite, _overwrite, _insert, _delete, _repeat, _splice, _cut)
