"""The operator's signatures: Ed25519 over canonical JSON, for checkpoints of the ledger and receipts of erasure.

The private key is DATA/keys/signing.key (PEM, readable by its user only). Verification needs the public key, which has
to come from the operator, not from the folder that is verified.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gmvaluator.errors import InvalidInput, MissingData
from gmvaluator.files import create_once, private_folder

KEY_FILE = "signing.key"
"""Name of the private key's file in the key folder."""

_RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed statement. signature: 128 hex digits. public_key: 64 hex digits."""

    statement: bytes
    signature: str
    public_key: str

    @property
    def value(self) -> dict[str, Any]:
        """The parsed statement."""
        value: dict[str, Any] = json.loads(self.statement)
        return value

    def genuine(self, public_key: str | None = None) -> bool:
        """Return True if the signature is valid and, if `public_key` is given, made with that key."""
        if public_key is not None and public_key != self.public_key:
            return False
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
            key.verify(bytes.fromhex(self.signature), self.statement)
        except (InvalidSignature, ValueError):
            return False
        return True

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for a JSON file. The statement is a string, so that its signed bytes are preserved."""
        return {
            "statement": self.statement.decode(),
            "signature": self.signature,
            "public_key": self.public_key,
            "algorithm": "Ed25519",
        }

    @classmethod
    def from_dict(cls, value: object) -> Signed:
        """Parse the output of `as_dict`. Raises InvalidInput. Does not check the signature."""
        names = ("statement", "signature", "public_key")
        if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in names):
            raise InvalidInput(f"this is no signed statement: it needs {', '.join(names)}")
        signed = cls(value["statement"].encode(), value["signature"], value["public_key"])
        try:
            is_object = isinstance(signed.value, dict)
        except ValueError:
            is_object = False
        if not is_object:
            raise InvalidInput("this is no signed statement: what was signed is no JSON object")
        return signed


class Signer:
    """A signer with the key in a folder; the first signature creates the key."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / KEY_FILE

    def sign(self, statement: bytes) -> Signed:
        """Sign `statement`."""
        key = self._key()
        return Signed(statement, key.sign(statement).hex(), _hex(key))

    def public_key(self) -> str:
        """Return the public key, 64 hex digits, for those who verify. Raises MissingData before the first signature."""
        if not self._path.is_file():
            raise MissingData(f"there is no {self._path} yet: it is made when something is signed")
        return _hex(self._key())

    def _key(self) -> Ed25519PrivateKey:
        pem = self._path.read_bytes() if self._path.is_file() else self._create()
        key = serialization.load_pem_private_key(pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidInput(f"{self._path} is no Ed25519 key: restore it from a backup")
        return key

    def _create(self) -> bytes:
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        private_folder(self._path.parent)
        # Another process may create it at the same time: both have to sign with the one key that stays.
        return create_once(self._path, pem)


def checked_public_key(text: str) -> str:
    """Return a valid public key: 64 lower-case hex digits. Raises InvalidInput."""
    key = text.strip().lower()
    if len(key) != 64 or set(key) - set("0123456789abcdef"):
        raise InvalidInput("a public key is 64 hex digits: get it by `gmvaluator ledger public-key`")
    return key


def _hex(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(*_RAW).hex()
