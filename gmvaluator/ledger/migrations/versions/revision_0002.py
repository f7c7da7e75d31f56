"""Decisions and checkpoints: disputes, corrections, payouts and closed periods."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

IMMUTABLE = ("decisions", "checkpoints")


def upgrade() -> None:
    """Add the tables of decisions and checkpoints. Existing rows do not change."""
    _create_decisions()
    _create_checkpoints()
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for table in IMMUTABLE:
        (_forbid_changes_sqlite if on_sqlite else _forbid_changes_postgresql)(table)


def _sequence() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _create_decisions() -> None:
    op.create_table(
        "decisions",
        sa.Column(
            "sequence",
            _sequence(),
            sa.ForeignKey("postings.sequence", name="decisions_posting"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("about_sequence", _sequence(), sa.ForeignKey("postings.sequence", name="decisions_about")),
        sa.Column("revision", sa.Integer),
        sa.Column("dispute_id", sa.String(200)),
        sa.Column("period", sa.String(7)),
        sa.UniqueConstraint("about_sequence", "revision", name="decisions_revision"),
        sa.CheckConstraint("(about_sequence IS NULL) = (revision IS NULL)", name="decisions_complete"),
    )
    op.create_index("decisions_kind", "decisions", ["kind", "sequence"])
    op.create_index("decisions_dispute", "decisions", ["dispute_id"])


def _create_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("period", sa.String(7), primary_key=True),
        sa.Column(
            "sequence",
            _sequence(),
            sa.ForeignKey("postings.sequence", name="checkpoints_posting"),
            nullable=False,
        ),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.String(128), nullable=False),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.UniqueConstraint("sequence", name="checkpoints_sequence"),
    )


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
