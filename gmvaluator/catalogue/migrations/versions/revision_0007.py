"""Sources: the owner that the record named last, so that a corrected one replaces it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column; of records that were read before, a single source's single claim tells the owner."""
    op.add_column("sources", sa.Column("owner_id", sa.Uuid))
