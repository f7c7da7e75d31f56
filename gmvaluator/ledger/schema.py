"""Tables of the ledger. On PostgreSQL they are in the schema `ledger`, which the search path names."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
    Uuid,
)

from gmvaluator.ids import MAX_GENERATION_ID_CHARACTERS
from gmvaluator.storage.schema import SchemaRevision, forbid_changes

REVISION = SchemaRevision("ledger", "0002", Path(__file__).parent / "migrations")

MAX_IDENTITY_CHARACTERS = 200

_Sequence = BigInteger().with_variant(Integer, "sqlite")
# Instants are fixed-width text in UTC: they sort as time does, are hashed unchanged, and are equal on both engines.
_Instant = String(27)
_Digest = String(64)
# Pages continue after an account name, so the order of names must not depend on the server's locale.
_Account = String(60).with_variant(String(60, collation="C"), "postgresql")

metadata = MetaData()

postings = Table(
    "postings",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=False),
    Column("kind", String(20), nullable=False),
    Column("generator_identity", String(MAX_IDENTITY_CHARACTERS), nullable=False),
    Column("generation_id", String(MAX_GENERATION_ID_CHARACTERS), nullable=False),
    Column("image_sha256", _Digest),
    Column("model_version", String(200)),
    Column("policy", String(60)),
    Column("profile_hash", _Digest),
    Column("generated_at", _Instant, nullable=False),
    Column("posted_at", _Instant, nullable=False),
    Column("issued_micros", BigInteger, nullable=False),
    Column("entries_digest", _Digest, nullable=False),
    Column("evidence_digest", _Digest, nullable=False),
    Column("previous_hash", _Digest, nullable=False),
    Column("hash", _Digest, nullable=False),
    # The id comes first, so that a posting is also found by the id alone.
    UniqueConstraint("generation_id", "generator_identity", name="postings_key"),
    CheckConstraint(
        "kind <> 'attribution' OR (image_sha256 IS NOT NULL AND model_version IS NOT NULL "
        "AND policy IS NOT NULL AND profile_hash IS NOT NULL AND issued_micros >= 0)",
        name="postings_attribution_complete",
    ),
)
"""Headers of the postings, one row each. Null columns are not part of the header that `hash` covers."""

entries = Table(
    "entries",
    metadata,
    Column("sequence", _Sequence, ForeignKey("postings.sequence", name="entries_of_posting"), primary_key=True),
    Column("line", SmallInteger, primary_key=True),
    Column("account", _Account, nullable=False),
    Column("training_image_id", Uuid),
    Column("amount_micros", BigInteger, nullable=False),
    CheckConstraint("amount_micros <> 0", name="entries_amount"),
    sqlite_with_rowid=False,
)
"""Lines of the postings, numbered from 0; the amounts of a posting sum to zero.

The only index is the primary key: a second one would cost the writer more than everything else it does.
"""

evidence = Table(
    "evidence",
    metadata,
    Column(
        "sequence",
        _Sequence,
        ForeignKey("postings.sequence", name="evidence_of_posting"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("body", LargeBinary, nullable=False),
)
"""Evidence of the postings. body: zlib of the canonical JSON whose SHA-256 is the posting's evidence_digest."""

balances = Table(
    "balances",
    metadata,
    Column("account", _Account, primary_key=True),
    Column("balance_micros", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Balance of each account: the sum of its entries, updated in the transaction that writes them."""

head = Table(
    "head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", _Digest, nullable=False),
    # Summed from the headers and not from the entries, so that totals compare two independent counts.
    Column("issued_micros", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="head_is_one_row"),
)
"""One row: the newest posting and the sum of all headers' issued_micros. Its row lock orders writers on PostgreSQL."""

decisions = Table(
    "decisions",
    metadata,
    Column(
        "sequence",
        _Sequence,
        ForeignKey("postings.sequence", name="decisions_posting"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("kind", String(20), nullable=False),
    Column("about_sequence", _Sequence, ForeignKey("postings.sequence", name="decisions_about")),
    Column("revision", Integer),
    Column("dispute_id", String(MAX_GENERATION_ID_CHARACTERS)),
    Column("period", String(7)),
    # Refuses the second of two decisions that were made from the same state of a posting.
    UniqueConstraint("about_sequence", "revision", name="decisions_revision"),
    CheckConstraint("(about_sequence IS NULL) = (revision IS NULL)", name="decisions_complete"),
    Index("decisions_kind", "kind", "sequence"),
    Index("decisions_dispute", "dispute_id"),
)
"""Index of the postings that are decisions, with the references that their evidence states.

about_sequence: the posting whose amounts the decision moves; revision counts the decisions about one posting from 1.
"""

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("period", String(7), primary_key=True),
    Column("sequence", _Sequence, ForeignKey("postings.sequence", name="checkpoints_posting"), nullable=False),
    Column("statement", LargeBinary, nullable=False),
    Column("signature", String(128), nullable=False),
    Column("public_key", _Digest, nullable=False),
    UniqueConstraint("sequence", name="checkpoints_sequence"),
)
"""Signatures of the closed periods. statement: canonical JSON that names the closing posting and its hash.

signature: Ed25519, 128 hex digits; public_key: 64 hex digits.
"""

# Triggers refuse to update or delete these rows, for every client of the database.
IMMUTABLE = (postings, entries, evidence, decisions, checkpoints)

for _table in IMMUTABLE:
    forbid_changes(_table)
