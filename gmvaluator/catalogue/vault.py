"""Keys that make people erasable: one per owner, kept apart from the database that they open.

A key file is DATA/keys/<owner uuid>.key, readable by its user alone. Without it the owner's references are noise,
in the database, its write-ahead log and every backup of either.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gmvaluator.errors import Failure, PreconditionFailed
from gmvaluator.files import atomic_write, sync
from gmvaluator.ids import OwnerId

_KEY_BYTES = 32
_NONCE_BYTES = 12
_LOOKUP_FILE = "catalogue.secret"


class Vault:
    """The key folder. Ciphertext is nonce + AES-256-GCM, bound to its owner and kind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create_secret(self) -> None:
        """Make the secret behind `lookup`, once for a catalogue."""
        self._write(self._folder / _LOOKUP_FILE, secrets.token_bytes(_KEY_BYTES))

    def has_secret(self) -> bool:
        """True if `lookup` can work."""
        return (self._folder / _LOOKUP_FILE).is_file()

    def lookup(self, namespace: str, manifest_id: str) -> str:
        """Keyed hash of a manifest's owner id, 64 hex digits: finds the owner again, tells nothing about who it is.

        Raises PreconditionFailed if the secret is gone.
        """
        try:
            secret = (self._folder / _LOOKUP_FILE).read_bytes()
        except FileNotFoundError:
            raise PreconditionFailed(
                f"{self._folder / _LOOKUP_FILE} is gone, so known owners cannot be told from new ones: "
                "restore the folder from a backup"
            ) from None
        text = f"{len(namespace)}:{namespace}:{manifest_id}"
        return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()

    def create_key(self, owner_id: OwnerId) -> None:
        """Make an owner's key. It is durable when this returns, before anything is encrypted under it."""
        self._write(self._key_path(owner_id), secrets.token_bytes(_KEY_BYTES))

    def has_key(self, owner_id: OwnerId) -> bool:
        """False once the owner is forgotten."""
        return self._key_path(owner_id).is_file()

    def change_mark(self) -> int:
        """Another number once a key was made or destroyed."""
        try:
            return self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def destroy_key(self, owner_id: OwnerId) -> None:
        """Forget an owner: overwrite and remove the key. Doing it again does nothing."""
        path = self._key_path(owner_id)
        if path.is_file():
            with path.open("r+b") as file:
                file.write(bytes(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
            sync(self._folder)

    def encrypt(self, owner_id: OwnerId, kind: str, text: str) -> bytes:
        """`text` under the owner's key. Raises PreconditionFailed if the owner was forgotten."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self._key(owner_id)).encrypt(nonce, text.encode(), _context(owner_id, kind))

    def decrypt(self, owner_id: OwnerId, kind: str, ciphertext: bytes) -> str:
        """Inverse of `encrypt`. Raises PreconditionFailed if the owner was forgotten, Failure if it was altered."""
        nonce, sealed = ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:]
        try:
            return AESGCM(self._key(owner_id)).decrypt(nonce, sealed, _context(owner_id, kind)).decode()
        except InvalidTag:
            raise Failure(
                f"the {kind} of owner {owner_id} does not fit its key: restore both from one backup"
            ) from None

    def _key(self, owner_id: OwnerId) -> bytes:
        try:
            return self._key_path(owner_id).read_bytes()
        except FileNotFoundError:
            raise PreconditionFailed(f"owner {owner_id} was forgotten: its key no longer exists") from None

    def _key_path(self, owner_id: OwnerId) -> Path:
        return self._folder / f"{owner_id}.key"

    def _write(self, path: Path, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_write(path, content, mode=0o600)


def _context(owner_id: OwnerId, kind: str) -> bytes:
    return f"{owner_id}/{kind}".encode()
