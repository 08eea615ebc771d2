"""The tables, as the newest migration leaves them.

In: nothing. Out: SQLAlchemy tables.
May not know: which database they lie in.

A test compares them with what the migrations make.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

IDENTITIES = Table(
    "identities",
    METADATA,
    Column("sha256", String(64), primary_key=True),
    Column("adapter", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("recipe_sha256", String(64)),
    Column("fidelity", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("document", JSON, nullable=False),
)

RUNS = Table(
    "runs",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("key_sha256", String(64), nullable=False, unique=True),
    Column("identity_sha256", String(64), ForeignKey("identities.sha256"), nullable=False),
    Column("suite", Text, nullable=False),
    Column("site", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("night", Text),
    Column("evalkit", Text, nullable=False),
    Column("policy_sha256", String(64)),
    Column("records_sha256", JSON, nullable=False),
    Column("items", Integer),
    Column("seconds", Float),
    Column("environment", JSON, nullable=False),
    Column("at", Text),
)

COMPARISONS = Table(
    "comparisons",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("baseline_sha256", String(64), ForeignKey("identities.sha256")),
    Column("n", Integer, nullable=False),
    Column("n11", Integer),
    Column("n10", Integer),
    Column("n01", Integer),
    Column("n00", Integer),
    Column("baseline_value", Float),
    Column("candidate_value", Float),
    Column("difference", Float),
    Column("lower", Float),
    Column("upper", Float),
    Column("level", Float),
    Column("method", Text),
    Column("invalid_share", Float),
    Column("log_probability_change", Float),
    UniqueConstraint("run_id", "endpoint", "scope"),
)

VERDICTS = Table(
    "verdicts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("policy", Text, nullable=False),
    Column("policy_sha256", String(64), nullable=False),
    Column("outcome", Text, nullable=False),
    Column("claim", Text),
    Column("reasons", JSON, nullable=False),
    Column("exploratory", Boolean, nullable=False),
    Column("certificate_sha256", String(64), nullable=False),
    UniqueConstraint("run_id", "policy_sha256"),
)

NIGHTS = Table(
    "nights",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("suite", Text, nullable=False),
    Column("site", Text, nullable=False),
    Column("night", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("run_id", Integer, ForeignKey("runs.id")),
    Column("outcome", Text, nullable=False),
    Column("state", Text),
    Column("confirm", Text),
    Column("full", Text),
    Column("reasons", JSON, nullable=False),
    Column("asked", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("log_e", Float),
    Column("log_e_loss", Float),
    Column("seed", Integer, nullable=False),
    Column("order_sha256", String(64)),
    Column("started_at", Text, nullable=False),
    Column("finished_at", Text, nullable=False),
    Column("environment", JSON, nullable=False),
    Column("subjects", JSON, nullable=False),
    Column("content_sha256", String(64), nullable=False),
    UniqueConstraint("suite", "site", "night", "recipe", "endpoint"),
    Index(None, "suite", "site", "recipe", "endpoint", "started_at"),
)
