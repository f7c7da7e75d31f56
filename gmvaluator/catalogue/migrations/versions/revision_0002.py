"""Former claims: what a claim said before an import changed or withdrew it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

REFUSAL = "former_claims are append-only: post a correction instead"


def upgrade() -> None:
    """Add the table; no claim changes."""
    op.create_table(
        "former_claims",
        sa.Column(
            "former_claim_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column(
            "training_image_id",
            sa.Uuid,
            sa.ForeignKey("works.training_image_id", name="former_claims_on_work"),
            nullable=False,
        ),
        sa.Column("owner_id", sa.Uuid, sa.ForeignKey("owners.owner_id", name="former_claims_of_owner"), nullable=False),
        sa.Column("share_ppm", sa.Integer, nullable=False),
        sa.Column("valid_from", sa.String(27), nullable=False),
        sa.Column("valid_to", sa.String(27), nullable=False),
        sa.Column("origin", sa.String(200), nullable=False),
        sa.Column("recorded_at", sa.String(27), nullable=False),
        sa.Column("replaced_at", sa.String(27), nullable=False),
    )
    op.create_index("former_claims_work", "former_claims", ["training_image_id"])
    (_forbid_changes_sqlite if op.get_bind().dialect.name == "sqlite" else _forbid_changes_postgresql)()


def _forbid_changes_sqlite() -> None:
    for operation in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER former_claims_no_{operation.lower()} BEFORE {operation} ON former_claims "
            f"BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
        )


def _forbid_changes_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION refuse_change_of_former_claims() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER former_claims_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON former_claims "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_former_claims()"
    )
