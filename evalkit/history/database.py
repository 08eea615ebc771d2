"""The history's database: SQLite in a file, or PostgreSQL by URL.

In: a URL. Out: transactions on tables that are at the newest revision.
May not know: what is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from evalkit.errors import MissingExtraError, StoreError, UsageError
from evalkit.history.migrating import migrate

_WAIT_S = 60
"""Seconds a writer waits for another one's lock in SQLite."""


class History:
    """A database at the newest revision.

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


def open_history(url: str, *, revision: str | None = None) -> History:
    """Open a database and bring it to the newest tables.

    Args:
        url: `sqlite:///outputs/history.sqlite`, `postgresql://user@host/name`, or the path of a SQLite file.
        revision: stop at an older revision; for tests of migrations.

    Raises:
        UsageError: the URL is wrong, or its database is not supported.
        MissingExtraError: the driver is not installed.
        StoreError: the database cannot be reached, or was written by a newer evalkit.
    """
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
            migrate(connection, **({} if revision is None else {"target": revision}))
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
