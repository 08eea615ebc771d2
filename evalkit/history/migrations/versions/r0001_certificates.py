"""Runs, identities, comparisons, verdicts: what certificates hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "identities",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("adapter", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("recipe_sha256", sa.String(64)),
        sa.Column("fidelity", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_identities"),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("key_sha256", sa.String(64), nullable=False),
        sa.Column("identity_sha256", sa.String(64), nullable=False),
        sa.Column("suite", sa.Text, nullable=False),
        sa.Column("site", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("night", sa.Text),
        sa.Column("evalkit", sa.Text, nullable=False),
        sa.Column("policy_sha256", sa.String(64)),
        sa.Column("records_sha256", sa.JSON, nullable=False),
        sa.Column("items", sa.Integer),
        sa.Column("seconds", sa.Float),
        sa.Column("environment", sa.JSON, nullable=False),
        sa.Column("at", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("key_sha256", name="uq_runs_key_sha256"),
        sa.ForeignKeyConstraint(["identity_sha256"], ["identities.sha256"], name="fk_runs_identity_sha256"),
    )
    op.create_table(
        "comparisons",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("run_id", sa.Integer, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("metric", sa.Text, nullable=False),
        sa.Column("unit", sa.Text, nullable=False),
        sa.Column("baseline_sha256", sa.String(64)),
        sa.Column("n", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Integer) for name in ("n11", "n10", "n01", "n00")),
        *(sa.Column(name, sa.Float) for name in ("baseline_value", "candidate_value", "difference")),
        *(sa.Column(name, sa.Float) for name in ("lower", "upper", "level")),
        sa.Column("method", sa.Text),
        *(sa.Column(name, sa.Float) for name in ("invalid_share", "log_probability_change")),
        sa.PrimaryKeyConstraint("id", name="pk_comparisons"),
        sa.UniqueConstraint("run_id", "endpoint", "scope", name="uq_comparisons_run_id_endpoint_scope"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_comparisons_run_id"),
        sa.ForeignKeyConstraint(["baseline_sha256"], ["identities.sha256"], name="fk_comparisons_baseline_sha256"),
    )
    op.create_table(
        "verdicts",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("run_id", sa.Integer, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("policy_sha256", sa.String(64), nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("claim", sa.Text),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.Column("exploratory", sa.Boolean, nullable=False),
        sa.Column("certificate_sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_verdicts"),
        sa.UniqueConstraint("run_id", "policy_sha256", name="uq_verdicts_run_id_policy_sha256"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_verdicts_run_id"),
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in ("verdicts", "comparisons", "runs", "identities"):
        op.drop_table(name)
