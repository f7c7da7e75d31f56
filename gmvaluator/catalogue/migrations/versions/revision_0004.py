"""Index runs: which works their last batch wrote."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column; a run that was cut off before is taken up without asking the index for its works."""
    op.add_column("index_runs", sa.Column("last_works", sa.JSON))
