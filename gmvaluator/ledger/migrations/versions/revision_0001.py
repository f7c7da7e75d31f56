"""Postings, entries, evidence, balances and the head of the chain."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

GENESIS_HASH = "0" * 64
IMMUTABLE = ("postings", "entries", "evidence")


def upgrade() -> None:
    """Create the tables of the ledger."""
    _create_postings()
    _create_lines()
    _create_sums()
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for table in IMMUTABLE:
        (_forbid_changes_sqlite if on_sqlite else _forbid_changes_postgresql)(table)


def _sequence() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _account() -> sa.types.TypeEngine[str]:
    return sa.String(60).with_variant(sa.String(60, collation="C"), "postgresql")


def _create_postings() -> None:
    op.create_table(
        "postings",
        sa.Column("sequence", _sequence(), primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("generator_identity", sa.String(200), nullable=False),
        sa.Column("generation_id", sa.String(200), nullable=False),
        sa.Column("image_sha256", sa.String(64)),
        sa.Column("model_version", sa.String(200)),
        sa.Column("policy", sa.String(60)),
        sa.Column("profile_hash", sa.String(64)),
        sa.Column("generated_at", sa.String(27), nullable=False),
        sa.Column("posted_at", sa.String(27), nullable=False),
        sa.Column("issued_micros", sa.BigInteger, nullable=False),
        sa.Column("entries_digest", sa.String(64), nullable=False),
        sa.Column("evidence_digest", sa.String(64), nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.UniqueConstraint("generation_id", "generator_identity", name="postings_key"),
        sa.CheckConstraint(
            "kind <> 'attribution' OR (image_sha256 IS NOT NULL AND model_version IS NOT NULL "
            "AND policy IS NOT NULL AND profile_hash IS NOT NULL AND issued_micros >= 0)",
            name="postings_attribution_complete",
        ),
    )


def _create_lines() -> None:
    op.create_table(
        "entries",
        sa.Column(
            "sequence",
            _sequence(),
            sa.ForeignKey("postings.sequence", name="entries_of_posting"),
            primary_key=True,
        ),
        sa.Column("line", sa.SmallInteger, primary_key=True),
        sa.Column("account", _account(), nullable=False),
        sa.Column("training_image_id", sa.Uuid),
        sa.Column("amount_micros", sa.BigInteger, nullable=False),
        sa.CheckConstraint("amount_micros <> 0", name="entries_amount"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "evidence",
        sa.Column(
            "sequence",
            _sequence(),
            sa.ForeignKey("postings.sequence", name="evidence_of_posting"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )


def _create_sums() -> None:
    op.create_table(
        "balances",
        sa.Column("account", _account(), primary_key=True),
        sa.Column("balance_micros", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    head = op.create_table(
        "head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("issued_micros", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="head_is_one_row"),
    )
    op.bulk_insert(head, [{"id": 1, "sequence": 0, "hash": GENESIS_HASH, "issued_micros": 0}])


def _forbid_changes_sqlite(table: str) -> None:
    for operation in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{operation.lower()} BEFORE {operation} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} are append-only: post a correction instead'); END"
        )


def _forbid_changes_postgresql(table: str) -> None:
    op.execute(
        f"CREATE FUNCTION refuse_change_of_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN RAISE EXCEPTION '{table} are append-only: post a correction instead'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_{table}()"
    )
