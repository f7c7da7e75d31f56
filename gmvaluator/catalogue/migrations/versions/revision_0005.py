"""Web addresses of sources, and tombstones of single records in place of keys that several records may share."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column and a table; tombstones of keys stay, and keep out what they did."""
    op.add_column("sources", sa.Column("url", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "removed_records",
        sa.Column("lookup", sa.String(64), primary_key=True),
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("key_lookup", sa.String(64)),
        sa.Column("recorded_at", sa.String(27), nullable=False),
    )
    op.create_index("removed_records_key", "removed_records", ["key_lookup"])
    op.create_index("removed_records_content", "removed_records", ["sha256"])
