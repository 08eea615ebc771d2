"""Adapters: the code that loads one kind of engine each.

In: an engine specification. Out: an `Engine` (`evalkit.adapters.base`).
Must not depend on: tasks, baselines, files under `outputs/`.
"""
