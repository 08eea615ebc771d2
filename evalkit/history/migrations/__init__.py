"""Migrations of the history: each database is brought to the newest tables when it is opened.

In: a connection. Out: a database at `HEAD`.
May not know: what the tables are for.
"""
