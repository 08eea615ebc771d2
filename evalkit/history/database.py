"""The history's database: SQLite in a file, or PostgreSQL by URL.

In: a URL. Out: transactions on tables of this evalkit's version.
Must not depend on: what is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from evalkit.errors import MissingExtraError, StoreError, UsageError
from evalkit.redaction import remember_url

# The tables.


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

LEDGER_ENTRIES = Table(
    "ledger_entries",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("ledger", String(64), nullable=False),
    Column("place", Text, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("line", Text, nullable=False),
    Index(None, "ledger", "sequence"),
)


SCHEMA = Table("schema_version", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))

VERSION = 1
"""Of the tables above. Whoever changes one of them counts this up, and says below what becomes of the former."""

_FORMER = "alembic_version"
"""A table of evalkit before version 1. Its steps only ever added tables, so that the missing ones can be made."""

_LOCK = 0x65766B


def prepare(connection: Connection) -> None:
    """Make the tables of a new database; one that is there already is only looked at.

    Two machines may open one new database at the same moment: on PostgreSQL an advisory lock lets one of them make the
    tables while the other waits; SQLite's own write lock does the same.

    Raises:
        StoreError: the database is of another version, or another program's.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    there = set(inspect(connection).get_table_names())
    if SCHEMA.name in there:
        found = connection.execute(select(SCHEMA.c.version)).scalars().all()
        if found == [VERSION]:
            return
        said = ", ".join(map(str, found)) or "none"
        raise StoreError(
            f"the history has tables of version {said}, this release has those of version {VERSION}; next step: "
            "install the evalkit that wrote it, or name a new database and record its certificates again: "
            "evalkit nightly history --history NEW --record CERTIFICATE"
        )
    taken = sorted(there & set(METADATA.tables))
    if taken and _FORMER not in there:
        raise StoreError(f"tables of another program stand there: {', '.join(taken)}; next step: name a new database")
    METADATA.create_all(connection)
    connection.execute(SCHEMA.insert().values(version=VERSION))


_WAIT_S = 60
"""Seconds a writer waits for another one's lock in SQLite."""


class History:
    """A database with the tables of this version.

    Attributes:
        name: the URL without its password, for messages.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.url.render_as_string(hide_password=True)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Everything inside is written whole or not at all.

        Raises:
            StoreError: the database cannot be reached or refuses; nothing was written.
        """
        with _explained(self.name), self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give back all connections."""
        self._engine.dispose()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_history(url: str) -> History:
    """Open a database; one that is not there yet is made.

    Args:
        url: `sqlite:///outputs/history.sqlite`, `postgresql://user@host/name`, or the path of a SQLite file.

    Raises:
        UsageError: the URL is wrong, or its database is not supported.
        MissingExtraError: the driver is not installed.
        StoreError: the database cannot be reached, or was written by another version of evalkit.
    """
    remember_url(url)
    address = _address(url)
    name = address.render_as_string(hide_password=True)
    try:
        engine = create_engine(address, **_options(address))
    except NoSuchModuleError as error:
        raise UsageError(f"{name}: {error}; allowed: sqlite and postgresql") from error
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"the history in {name}", str(error.name), "history") from error
    if address.get_backend_name() == "sqlite":
        _make_folder(address)
        _serialise(engine)
    history = History(engine)
    try:
        with history.transaction() as connection:
            prepare(connection)
    except BaseException:
        history.close()
        raise
    return history


def _address(text: str) -> URL:
    try:
        address = make_url(text if "://" in text else f"sqlite:///{text}")
    except ArgumentError as error:
        raise UsageError(f"history {text!r} is no URL: write sqlite:///FILE or postgresql://USER@HOST/NAME") from error
    if address.drivername in ("postgresql", "postgres"):
        return address.set(drivername="postgresql+psycopg")  # the driver that the extra brings
    if address.get_backend_name() not in ("sqlite", "postgresql"):
        name = address.render_as_string(hide_password=True)
        raise UsageError(
            f"history {name}: databases of kind '{address.get_backend_name()}' are not supported; allowed: "
            "sqlite and postgresql"
        )
    return address


def _options(address: URL) -> dict[str, Any]:
    if address.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": _WAIT_S}}
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": 15}}


def _make_folder(address: URL) -> None:
    if address.database and address.database != ":memory:":
        folder = Path(address.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder}: cannot be made: {error.strerror or error}") from error


def _serialise(engine: Engine) -> None:
    """Take SQLite's write lock at the begin of a transaction.

    A transaction that began to read cannot become a writer when another one has written meanwhile, however long it
    waits; so every transaction here begins as a writer.
    """

    @event.listens_for(engine, "connect")
    def _leave_transactions_to_us(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn an error of the database into one sentence; it names no password."""
    try:
        yield
    except DBAPIError as error:
        said = " ".join(str(error.orig).split())
        raise StoreError(f"history {name}: {said}; nothing was written; next step: repair it, and repeat") from error
    except SQLAlchemyError as error:
        raise StoreError(f"history {name}: {' '.join(str(error).split())}; nothing was written") from error
