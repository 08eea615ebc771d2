"""Nights: one row for each endpoint of each recipe in each night."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_KEY = ("suite", "site", "night", "recipe", "endpoint")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "nights",
        sa.Column("id", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in _KEY),
        sa.Column("run_id", sa.Integer),
        sa.Column("outcome", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("state", "confirm", "full")),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.Column("asked", sa.Integer, nullable=False),
        sa.Column("used", sa.Integer, nullable=False),
        sa.Column("log_e", sa.Float),
        sa.Column("log_e_loss", sa.Float),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("order_sha256", sa.String(64)),
        sa.Column("started_at", sa.Text, nullable=False),
        sa.Column("finished_at", sa.Text, nullable=False),
        sa.Column("environment", sa.JSON, nullable=False),
        sa.Column("subjects", sa.JSON, nullable=False),
        sa.Column("content_sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_nights"),
        sa.UniqueConstraint(*_KEY, name="uq_nights_suite_site_night_recipe_endpoint"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_nights_run_id"),
    )
    op.create_index(
        "ix_nights_suite_site_recipe_endpoint_started_at",
        "nights",
        ["suite", "site", "recipe", "endpoint", "started_at"],
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("nights")
