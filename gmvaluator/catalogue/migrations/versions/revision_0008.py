"""Sources: several web addresses of one key and content."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_KEY = ("training_image_id", "data_set", "key", "number")
_COPY = (
    "INSERT INTO sources (source_id, training_image_id, data_set, key, uri, title, license, labels, added_at, url, "
    "owner_id) SELECT source_id, training_image_id, data_set, key, uri, title, license, labels, added_at, url, "
    "owner_id FROM sources_before"
)


def upgrade() -> None:
    """Add a column, and make it part of the key; SQLite changes no constraint, so that the table is copied there."""
    if op.get_bind().dialect.name == "sqlite":
        op.rename_table("sources", "sources_before")
        _create_sources()
        op.execute(_COPY)
        op.drop_table("sources_before")
        return
    op.add_column("sources", sa.Column("number", sa.Integer, nullable=False, server_default="0"))
    op.drop_constraint("sources_key", "sources", type_="unique")
    op.create_unique_constraint("sources_key", "sources", list(_KEY))


def _create_sources() -> None:
    work = sa.ForeignKey("works.training_image_id", name="sources_of_work")
    data_set = sa.ForeignKey("data_sets.name", name="sources_of_data_set")
    op.create_table(
        "sources",
        sa.Column("source_id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("training_image_id", sa.Uuid, work, nullable=False),
        sa.Column("data_set", sa.String(64), data_set, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("uri", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("license", sa.Text, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("added_at", sa.String(27), nullable=False),
        sa.Column("url", sa.Text, nullable=False, server_default=""),
        sa.Column("owner_id", sa.Uuid),
        sa.Column("number", sa.Integer, nullable=False, server_default="0"),
        sa.UniqueConstraint(*_KEY, name="sources_key"),
    )
