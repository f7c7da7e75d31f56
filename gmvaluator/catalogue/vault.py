"""Encryption keys of owners: one key per owner, stored apart from the database, so that erasure deletes a key.

A key file is DATA/keys/<owner uuid>.key, readable by its user only. Without it an owner's references cannot be
decrypted, in the database, in its write-ahead log and in every backup of either.
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
from gmvaluator.files import atomic_write, create_once, private_folder, sync
from gmvaluator.ids import OwnerId

_KEY_BYTES = 32
_NONCE_BYTES = 12
_LOOKUP_FILE = "catalogue.secret"
"""File of the secret behind `lookup`."""


class Vault:
    """A folder of keys. Ciphertext is a nonce and AES-256-GCM, bound to its owner and kind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """The folder of the keys."""
        return self._folder

    def create_secret(self) -> None:
        """Create the secret behind `lookup`, once for each catalogue."""
        private_folder(self._folder)
        # Never replaced: owners that were imported with the first secret could not be found with another.
        create_once(self._folder / _LOOKUP_FILE, secrets.token_bytes(_KEY_BYTES))

    def has_secret(self) -> bool:
        """Return True if the secret behind `lookup` exists."""
        return (self._folder / _LOOKUP_FILE).is_file()

    def lookup(self, namespace: str, manifest_id: str) -> str:
        """Return the keyed hash of a manifest's owner id, 64 hex digits.

        Later imports find the owner by it, and it reveals nothing without the secret. Raises PreconditionFailed if the
        secret is gone.
        """
        try:
            secret = (self._folder / _LOOKUP_FILE).read_bytes()
        except FileNotFoundError:
            raise PreconditionFailed(
                f"{self._folder / _LOOKUP_FILE} is gone, so known owners cannot be told from new ones: "
                "restore the folder from a backup"
            ) from None
        # The length keeps ("a", "bc") and ("ab", "c") apart.
        text = f"{len(namespace)}:{namespace}:{manifest_id}"
        return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()

    def create_key(self, owner_id: OwnerId) -> None:
        """Create an owner's key. It is durable on return, before anything is encrypted with it."""
        private_folder(self._folder)
        atomic_write(self._key_path(owner_id), secrets.token_bytes(_KEY_BYTES), mode=0o600)

    def has_key(self, owner_id: OwnerId) -> bool:
        """Return False once the owner was erased."""
        return self._key_path(owner_id).is_file()

    def change_mark(self) -> int:
        """Return a number that changes when a key is created or destroyed."""
        try:
            return self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def destroy_key(self, owner_id: OwnerId) -> None:
        """Overwrite and delete an owner's key, which makes its references unreadable. Idempotent."""
        path = self._key_path(owner_id)
        if path.is_file():
            # In place, before the name goes: a deleted file's blocks can be read from the disk.
            with path.open("r+b") as file:
                file.write(bytes(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
            sync(self._folder)

    def encrypt(self, owner_id: OwnerId, kind: str, text: str) -> bytes:
        """Encrypt `text` with the owner's key. Raises PreconditionFailed if the owner was erased."""
        # Random nonces of 96 bits are safe for 2^32 messages of a key; an owner has a handful.
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self._key(owner_id)).encrypt(nonce, text.encode(), _context(owner_id, kind))

    def decrypt(self, owner_id: OwnerId, kind: str, ciphertext: bytes) -> str:
        """Decrypt the output of `encrypt`. Raises PreconditionFailed if the owner was erased, Failure if altered."""
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


class RehearsalVault(Vault):
    """A vault whose new keys are in memory alone, for owners whose recording is undone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._new_keys: dict[OwnerId, bytes] = {}

    def create_key(self, owner_id: OwnerId) -> None:
        """Create an owner's key in memory."""
        self._new_keys[owner_id] = secrets.token_bytes(_KEY_BYTES)

    def has_key(self, owner_id: OwnerId) -> bool:
        """Return whether the owner has a key, of either kind."""
        return owner_id in self._new_keys or super().has_key(owner_id)

    def _key(self, owner_id: OwnerId) -> bytes:
        return self._new_keys.get(owner_id) or super()._key(owner_id)


def _context(owner_id: OwnerId, kind: str) -> bytes:
    return f"{owner_id}/{kind}".encode()
