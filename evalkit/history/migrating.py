"""Bring a database to the newest tables, once, whoever comes first.

In: a connection inside a transaction. Out: the database at `HEAD`.
May not know: what the tables are for.

Two machines may open one new database at the same moment: on PostgreSQL an advisory lock lets one of them migrate while
the other waits; SQLite's own write lock does the same.
"""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from evalkit.errors import StoreError
from evalkit.history.tables import METADATA

HEAD = "0002"
"""Revision of the newest migration; a test compares it with the files."""

_SCRIPTS = Path(__file__).resolve().parent / "migrations"
_LOCK = 0x65766B


def scripts() -> ScriptDirectory:
    """Return the migration files."""
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return ScriptDirectory.from_config(config)


def migrate(connection: Connection, target: str = HEAD) -> None:
    """Apply what is missing up to `target`; a database that is there already is only looked at.

    Raises:
        StoreError: the database was written by a newer evalkit.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    found = MigrationContext.configure(connection).get_current_revision()
    if found == target:
        return
    known = {script.revision for script in scripts().walk_revisions()}
    if found is not None and found not in known:
        raise StoreError(
            f"the history is at revision {found}, which this evalkit does not know (newest: {HEAD}); next step: "
            "install the evalkit that wrote it"
        )
    files = scripts()
    config = Config()
    with EnvironmentContext(
        config,
        files,
        fn=lambda revision, _context: files._upgrade_revs(target, revision),
        destination_rev=target,
    ) as environment:
        environment.configure(connection=connection, target_metadata=METADATA)
        environment.run_migrations()
