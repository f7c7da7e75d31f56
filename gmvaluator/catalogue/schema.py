"""Tables of the catalogue. On PostgreSQL they live in the schema `catalogue`, found through the search path."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)

from gmvaluator.storage.schema import SchemaRevision, forbid_changes

REVISION = SchemaRevision("catalogue", "0008", Path(__file__).parent / "migrations")

_Serial = BigInteger().with_variant(Integer, "sqlite")
_Instant = String(27)
_Sha256 = String(64)
_DataSet = String(64)

metadata = MetaData()

data_sets = Table(
    "data_sets",
    metadata,
    Column("name", _DataSet, primary_key=True),
    Column("added_at", _Instant, nullable=False),
)
"""Named collections of works; generators list those they were trained on."""

works = Table(
    "works",
    metadata,
    Column("training_image_id", Uuid, primary_key=True),
    Column("sha256", _Sha256, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("added_at", _Instant, nullable=False),
    UniqueConstraint("sha256", name="works_sha256"),
)
"""Training images: one row for each distinct file content, however many data sets and owners it has."""

sources = Table(
    "sources",
    metadata,
    Column("source_id", _Serial, primary_key=True, autoincrement=True),
    Column("training_image_id", Uuid, ForeignKey("works.training_image_id", name="sources_of_work"), nullable=False),
    Column("data_set", _DataSet, ForeignKey("data_sets.name", name="sources_of_data_set"), nullable=False),
    Column("key", Text, nullable=False),
    Column("uri", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("license", Text, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("added_at", _Instant, nullable=False),
    Column("url", Text, nullable=False, server_default=""),
    Column("owner_id", Uuid),
    Column("number", Integer, nullable=False, server_default="0"),
    UniqueConstraint("training_image_id", "data_set", "key", "number", name="sources_key"),
)
"""Records of works in data sets. The first source gives the key and title that are displayed.

Records of several shards may share a key. uri: file, shard and row. url: web address that the record states, or "".
owner_id: the owner that the record named last; NULL if it named none, or if that is unclear. number: counts the records
of one work, data set and key that state other URLs, from 0.
"""

owners = Table(
    "owners",
    metadata,
    Column("owner_id", Uuid, primary_key=True),
    Column("recorded_at", _Instant, nullable=False),
    Column("forgotten_at", _Instant),
)
"""Rights holders: a random UUID each, without personal data. forgotten_at: when the owner was erased."""

owner_references = Table(
    "owner_references",
    metadata,
    Column("owner_id", Uuid, ForeignKey("owners.owner_id", name="references_of_owner"), primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("ciphertext", LargeBinary, nullable=False),
    Column("lookup", _Sha256),
    Column("recorded_at", _Instant, nullable=False),
    UniqueConstraint("lookup", name="references_lookup"),
)
"""Personal data of owners. kind: "manifest_id", "name" or "contact". ciphertext: encrypted with the owner's own key.

lookup: keyed hash of the manifest's owner_id, by which later imports find the owner.
"""

erased_owners = Table(
    "erased_owners",
    metadata,
    Column("lookup", _Sha256, primary_key=True),
    Column("recorded_at", _Instant, nullable=False),
)
"""Tombstones of owners who were erased and must not be recorded again. lookup: as in `owner_references`."""

claims = Table(
    "claims",
    metadata,
    Column("claim_id", _Serial, primary_key=True, autoincrement=True),
    Column("training_image_id", Uuid, ForeignKey("works.training_image_id", name="claims_on_work"), nullable=False),
    Column("owner_id", Uuid, ForeignKey("owners.owner_id", name="claims_of_owner"), nullable=False),
    Column("share_ppm", Integer, nullable=False),
    Column("valid_from", _Instant, nullable=False),
    Column("valid_to", _Instant, nullable=False),
    Column("origin", String(200), nullable=False),
    Column("recorded_at", _Instant, nullable=False),
    UniqueConstraint("training_image_id", "owner_id", "origin", "valid_from", name="claims_key"),
    CheckConstraint("share_ppm BETWEEN 1 AND 1000000", name="claims_share"),
    CheckConstraint("valid_from < valid_to", name="claims_interval"),
)
"""Claims to works: owner, part and interval (valid_from inclusive, valid_to exclusive). origin: source of the claim."""

former_claims = Table(
    "former_claims",
    metadata,
    Column("former_claim_id", _Serial, primary_key=True, autoincrement=True),
    Column(
        "training_image_id", Uuid, ForeignKey("works.training_image_id", name="former_claims_on_work"), nullable=False
    ),
    Column("owner_id", Uuid, ForeignKey("owners.owner_id", name="former_claims_of_owner"), nullable=False),
    Column("share_ppm", Integer, nullable=False),
    Column("valid_from", _Instant, nullable=False),
    Column("valid_to", _Instant, nullable=False),
    Column("origin", String(200), nullable=False),
    Column("recorded_at", _Instant, nullable=False),
    Column("replaced_at", _Instant, nullable=False),
    Index("former_claims_work", "training_image_id"),
)
"""Claims as they were before an import changed or withdrew them. Append-only."""

generators = Table(
    "generators",
    metadata,
    Column("model_version", String(200), primary_key=True),
    Column("collection", String(200), nullable=False),
    Column("data_sets", JSON, nullable=False),
    Column("policy", String(60), nullable=False),
    Column("added_at", _Instant, nullable=False),
)
"""Registered generators: the data sets each was trained on, and the policy that values its images."""

tombstones = Table(
    "tombstones",
    metadata,
    Column("sha256", _Sha256, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("recorded_at", _Instant, nullable=False),
    Column("purged_at", _Instant),
)
"""Removed images, which must not be indexed again. An opt-out adds none: it applies to runs that are given its list.

purged_at: since then no byte of it is in the index or the catalogue.
"""

removed_keys = Table(
    "removed_keys",
    metadata,
    Column("lookup", _Sha256, primary_key=True),
    Column("recorded_at", _Instant, nullable=False),
)
"""Keys of images that were removed by an older version; each keeps out every record of its data set and key.

lookup: keyed hash of data set and key, which reveals neither.
"""

removed_records = Table(
    "removed_records",
    metadata,
    Column("lookup", _Sha256, primary_key=True),
    Column("sha256", _Sha256, primary_key=True),
    Column("key_lookup", _Sha256),
    Column("recorded_at", _Instant, nullable=False),
    Index("removed_records_key", "key_lookup"),
    Index("removed_records_content", "sha256"),
)
"""Records and web addresses that a removal named; whatever image they hold next stays out.

lookup: keyed hash of data set, key and URI, or of a URL. sha256: image that was removed. key_lookup: keyed hash of data
set and key, by which a removal can be found; NULL for a URL.
"""

index_runs = Table(
    "index_runs",
    metadata,
    Column("run_id", _Serial, primary_key=True, autoincrement=True),
    Column("data_set", _DataSet, nullable=False),
    Column("source", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("counts", JSON, nullable=False),
    Column("started_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Column("finished_at", _Instant),
    Column("last_works", JSON),
    Index("index_runs_source", "data_set", "source"),
)
"""Progress of indexing runs. position: items processed, in the source's order.

last_works: ids of the last batch that was not empty.
"""

forbid_changes(former_claims)
