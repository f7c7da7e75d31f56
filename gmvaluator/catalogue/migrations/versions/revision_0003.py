"""Removed works: when they were purged, and keyed hashes of where they were found."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column and a table; no tombstone changes."""
    op.add_column("tombstones", sa.Column("purged_at", sa.String(27)))
    op.create_table(
        "removed_keys",
        sa.Column("lookup", sa.String(64), primary_key=True),
        sa.Column("recorded_at", sa.String(27), nullable=False),
    )
