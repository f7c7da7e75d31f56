"""Works, sources, owners, claims, generators, tombstones and index runs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the catalogue."""
    _create_works()
    _create_rights()
    _create_operations()


def _serial() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _create_works() -> None:
    op.create_table(
        "data_sets",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("added_at", sa.String(27), nullable=False),
    )
    op.create_table(
        "works",
        sa.Column("training_image_id", sa.Uuid, primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("added_at", sa.String(27), nullable=False),
        sa.UniqueConstraint("sha256", name="works_sha256"),
    )
    op.create_table(
        "sources",
        sa.Column("source_id", _serial(), primary_key=True, autoincrement=True),
        sa.Column(
            "training_image_id",
            sa.Uuid,
            sa.ForeignKey("works.training_image_id", name="sources_of_work"),
            nullable=False,
        ),
        sa.Column(
            "data_set", sa.String(64), sa.ForeignKey("data_sets.name", name="sources_of_data_set"), nullable=False
        ),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("uri", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("license", sa.Text, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("added_at", sa.String(27), nullable=False),
        sa.UniqueConstraint("training_image_id", "data_set", "key", name="sources_key"),
    )


def _create_rights() -> None:
    op.create_table(
        "owners",
        sa.Column("owner_id", sa.Uuid, primary_key=True),
        sa.Column("recorded_at", sa.String(27), nullable=False),
        sa.Column("forgotten_at", sa.String(27)),
    )
    op.create_table(
        "owner_references",
        sa.Column("owner_id", sa.Uuid, sa.ForeignKey("owners.owner_id", name="references_of_owner"), primary_key=True),
        sa.Column("kind", sa.String(20), primary_key=True),
        sa.Column("ciphertext", sa.LargeBinary, nullable=False),
        sa.Column("lookup", sa.String(64)),
        sa.Column("recorded_at", sa.String(27), nullable=False),
        sa.UniqueConstraint("lookup", name="references_lookup"),
    )
    op.create_table(
        "claims",
        sa.Column("claim_id", _serial(), primary_key=True, autoincrement=True),
        sa.Column(
            "training_image_id",
            sa.Uuid,
            sa.ForeignKey("works.training_image_id", name="claims_on_work"),
            nullable=False,
        ),
        sa.Column("owner_id", sa.Uuid, sa.ForeignKey("owners.owner_id", name="claims_of_owner"), nullable=False),
        sa.Column("share_ppm", sa.Integer, nullable=False),
        sa.Column("valid_from", sa.String(27), nullable=False),
        sa.Column("valid_to", sa.String(27), nullable=False),
        sa.Column("origin", sa.String(200), nullable=False),
        sa.Column("recorded_at", sa.String(27), nullable=False),
        sa.UniqueConstraint("training_image_id", "owner_id", "origin", "valid_from", name="claims_key"),
        sa.CheckConstraint("share_ppm BETWEEN 1 AND 1000000", name="claims_share"),
        sa.CheckConstraint("valid_from < valid_to", name="claims_interval"),
    )


def _create_operations() -> None:
    op.create_table(
        "generators",
        sa.Column("model_version", sa.String(200), primary_key=True),
        sa.Column("collection", sa.String(200), nullable=False),
        sa.Column("data_sets", sa.JSON, nullable=False),
        sa.Column("policy", sa.String(60), nullable=False),
        sa.Column("added_at", sa.String(27), nullable=False),
    )
    op.create_table(
        "tombstones",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("recorded_at", sa.String(27), nullable=False),
    )
    op.create_table(
        "index_runs",
        sa.Column("run_id", _serial(), primary_key=True, autoincrement=True),
        sa.Column("data_set", sa.String(64), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("started_at", sa.String(27), nullable=False),
        sa.Column("updated_at", sa.String(27), nullable=False),
        sa.Column("finished_at", sa.String(27)),
    )
    op.create_index("index_runs_source", "index_runs", ["data_set", "source"])
