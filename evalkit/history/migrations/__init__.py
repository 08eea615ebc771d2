"""Migrations of the history: each database is brought to the newest tables when it is opened.

In: a connection. Out: a database at `HEAD`.
Must not depend on: what the tables are for.
"""
