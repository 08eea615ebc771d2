"""Entries of ledgers: what was tried, as the ledgers beside the outputs had it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "ledger_entries",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("ledger", sa.String(64), nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_entries"),
        sa.UniqueConstraint("sha256", name="uq_ledger_entries_sha256"),
    )
    op.create_index("ix_ledger_entries_ledger_sequence", "ledger_entries", ["ledger", "sequence"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("ledger_entries")
